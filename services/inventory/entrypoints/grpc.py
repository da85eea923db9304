"""The inventory service over gRPC: the same operations as REST, and batches for coordinators."""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from libs.kernel.errors import Invalid
from libs.kernel.money import Money
from libs.runtime.batch_rpc import execute_batch
from libs.runtime.http_edge import KEY_LETTERS_MAX
from libs.tcc.barrier import Manner
from libs.tcc.telling import trail_message
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from services.inventory.domain import Line, Product, check_text, new_product
from services.inventory.entrypoints.desk import Desk
from services.inventory.handlers import DEDUCT_STOCK

PAGE_SIZE_MAX = 1000
PAGE_SIZE = 100
PRODUCTS_MAX = 1000

MANNERS: Mapping[int, Manner] = {
    participant_pb2.MANNER_UNSPECIFIED: Manner.AT_ONCE,
    participant_pb2.MANNER_HOLD: Manner.HOLD,
    participant_pb2.MANNER_PREPARE: Manner.PREPARE,
}

Context = grpc.aio.ServicerContext[Any, Any]


class InventoryServicer(inventory_pb2_grpc.InventoryServiceServicer):
    """Translates messages to and from the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def CreateProducts(
        self, request: inventory_pb2.CreateProductsRequest, context: Context
    ) -> inventory_pb2.CreateProductsResponse:
        if not 1 <= len(request.products) <= PRODUCTS_MAX:
            raise Invalid(f"1 to {PRODUCTS_MAX} products at a time, not {len(request.products)}")
        wanted = [
            new_product(one.sku, one.name, Money(one.price.minor_units, one.price.currency), one.on_hand)
            for one in request.products
        ]
        products = await self._desk.create(_key(request.idempotency_key), wanted)
        return inventory_pb2.CreateProductsResponse(products=[_product(one) for one in products])

    async def GetProduct(
        self, request: inventory_pb2.GetProductRequest, context: Context
    ) -> inventory_pb2.GetProductResponse:
        return inventory_pb2.GetProductResponse(product=_product(await self._desk.product(request.sku)))

    async def ListProducts(
        self, request: inventory_pb2.ListProductsRequest, context: Context
    ) -> inventory_pb2.ListProductsResponse:
        limit = request.page_size or PAGE_SIZE
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise Invalid(f"page_size is 1 to {PAGE_SIZE_MAX}, not {limit}")
        products, following = await self._desk.page(request.page_token, limit)
        return inventory_pb2.ListProductsResponse(
            products=[_product(one) for one in products], next_page_token=following
        )

    async def ReceiveStock(
        self, request: inventory_pb2.ReceiveStockRequest, context: Context
    ) -> inventory_pb2.ReceiveStockResponse:
        product = await self._desk.receive(_key(request.idempotency_key), request.sku, request.quantity)
        return inventory_pb2.ReceiveStockResponse(product=_product(product))

    async def DeductStock(
        self, request: inventory_pb2.DeductStockRequest, context: Context
    ) -> inventory_pb2.DeductStockResponse:
        done = await self._desk.deduct(request.transaction_id, _lines(request.lines))
        return inventory_pb2.DeductStockResponse(deducted=inventory_pb2.StockDeducted(lines=_messages(done.lines)))

    async def Restock(self, request: inventory_pb2.RestockRequest, context: Context) -> inventory_pb2.RestockResponse:
        done = await self._desk.restock(request.transaction_id)
        return inventory_pb2.RestockResponse(restocked=inventory_pb2.Restocked(lines=_messages(done.lines)))

    async def GetTrail(
        self, request: inventory_pb2.GetTrailRequest, context: Context
    ) -> inventory_pb2.GetTrailResponse:
        return inventory_pb2.GetTrailResponse(trail=trail_message(await self._desk.trail(request.transaction_id)))

    async def ExecuteBatch(
        self, request: inventory_pb2.ExecuteBatchRequest, context: Context
    ) -> inventory_pb2.ExecuteBatchResponse:
        return inventory_pb2.ExecuteBatchResponse(results=await execute_batch(request.commands, self._execute, _failed))

    async def _execute(self, command: inventory_pb2.Command) -> inventory_pb2.Result:
        key = command.context
        if key.step != DEDUCT_STOCK:
            raise Invalid(f"the step of a deduction, of its confirmation and of its undo is {DEDUCT_STOCK}")
        manner = _manner(key.manner)
        match command.WhichOneof("command"), key.operation:
            case "deduct_stock", participant_pb2.OPERATION_DO:
                lines = _lines(command.deduct_stock.lines)
                done = await self._desk.deduct(key.transaction_id, lines, manner, key.lease_ms)
                return inventory_pb2.Result(stock_deducted=inventory_pb2.StockDeducted(lines=_messages(done.lines)))
            case "confirm", participant_pb2.OPERATION_CONFIRM:
                done = await self._desk.confirm(key.transaction_id, manner)
                return inventory_pb2.Result(confirmed=inventory_pb2.DeductionConfirmed(lines=_messages(done.lines)))
            case "restock", participant_pb2.OPERATION_UNDO:
                done = await self._desk.restock(key.transaction_id, manner)
                return inventory_pb2.Result(restocked=inventory_pb2.Restocked(lines=_messages(done.lines)))
            case _:
                raise Invalid("a command is deduct_stock to do, confirm to confirm, or restock to undo")


def _manner(manner: int) -> Manner:
    if manner not in MANNERS:
        raise Invalid(f"there is no manner {manner}")
    return MANNERS[manner]


def _failed(error: participant_pb2.Refusal | participant_pb2.Fault) -> inventory_pb2.Result:
    if isinstance(error, participant_pb2.Refusal):
        return inventory_pb2.Result(refused=error)
    return inventory_pb2.Result(fault=error)


def _key(key: str) -> str:
    return check_text("idempotency_key", key, KEY_LETTERS_MAX)


def _lines(lines: Sequence[kernel_pb2.Line]) -> list[Line]:
    return [Line(line.sku, line.quantity) for line in lines]


def _messages(lines: Sequence[Line]) -> list[kernel_pb2.Line]:
    return [kernel_pb2.Line(sku=line.sku, quantity=line.quantity) for line in lines]


def _product(product: Product) -> inventory_pb2.Product:
    return inventory_pb2.Product(
        sku=product.sku,
        name=product.name,
        price=kernel_pb2.Money(minor_units=product.price.minor_units, currency=product.price.currency),
        on_hand=product.on_hand,
        reserved=product.reserved,
        sold=product.sold,
        received=product.received,
    )
