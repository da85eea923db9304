"""What REST and gRPC do alike: make a command of a request and hand it to the next batch."""

import hashlib
from collections.abc import Sequence

from libs.runtime.batching import Batcher
from libs.tcc.barrier import Entry, Key, Operation
from libs.telemetry.tracing import current_traceparent
from services.inventory.domain import Line, Product, checked
from services.inventory.handlers import Command, CreateProducts, Deduct, Done, ReceiveStock, Restock
from services.inventory.ports import Queries

DEDUCT = "deduct-stock"


class Desk:
    """Every write goes through one batcher, so that no two batches touch one product at the same time."""

    def __init__(self, commands: Batcher[Command, Done], queries: Queries) -> None:
        self._commands = commands
        self.queries = queries

    async def deduct(self, transaction_id: str, lines: Sequence[Line], step: str = DEDUCT) -> Done:
        wanted = checked(lines)
        asked = ",".join(f"{line.sku}={line.quantity}" for line in wanted)
        return await self._submit(Key(transaction_id, step, Operation.DO), asked, Deduct(wanted))

    async def restock(self, transaction_id: str, step: str = DEDUCT) -> Done:
        return await self._submit(Key(transaction_id, step, Operation.UNDO), "", Restock())

    async def create(self, key: str, products: Sequence[Product]) -> Done:
        asked = ",".join(f"{one.sku}:{one.name}:{one.price}:{one.on_hand}" for one in products)
        effect = CreateProducts(tuple(products), current_traceparent())
        return await self._submit(Key(f"key:{key}", "create-products", Operation.DO), asked, effect)

    async def receive(self, key: str, sku: str, quantity: int) -> Done:
        effect = ReceiveStock(sku, quantity)
        return await self._submit(Key(f"key:{key}", "receive-stock", Operation.DO), f"{sku}={quantity}", effect)

    async def _submit(self, key: Key, asked: str, effect: Deduct | Restock | CreateProducts | ReceiveStock) -> Done:
        return await self._commands.submit(Command(Entry(key, hashlib.sha256(asked.encode()).digest()), effect))
