"""The inventory service over REST."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.kernel.money import Money
from libs.runtime.http_edge import idempotency_key, json_response
from libs.tcc.telling import TrailOut
from services.inventory.domain import LINES_MAX, ON_HAND_MAX, QUANTITY_MAX, Line, new_product
from services.inventory.entrypoints.desk import Desk
from services.inventory.handlers import DEDUCT_STOCK

PAGE_SIZE_MAX = 1000
PRODUCTS_MAX = 1000
RESTOCK = "restock"

IDENTIFIER = r"^[A-Za-z0-9._:-]+$"

Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=IDENTIFIER)]
SkuInPath = Annotated[str, Path(max_length=64, pattern=IDENTIFIER)]
# Also the transactions that are named after an Idempotency-Key, which may be any visible text.
TransactionInPath = Annotated[str, Path(max_length=260, pattern=r"^[!-~]+$")]
Key = Annotated[str, Depends(idempotency_key)]


class MoneyIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    minor_units: int = Field(gt=0, le=10**12)
    currency: str = Field(pattern="^[A-Z]{3}$")


class ProductIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: Identifier
    name: str = Field(min_length=1, max_length=200)
    price: MoneyIn
    on_hand: int = Field(default=0, ge=0, le=ON_HAND_MAX)


class ProductsIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    products: list[ProductIn] = Field(min_length=1, max_length=PRODUCTS_MAX)


class ReceiptIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    quantity: int = Field(ge=1, le=ON_HAND_MAX)


class LineIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: Identifier
    quantity: int = Field(ge=1, le=QUANTITY_MAX)


class DeductionIn(BaseModel):
    """Without a transaction_id the Idempotency-Key names the transaction."""

    model_config = ConfigDict(extra="forbid")
    transaction_id: Identifier | None = None
    lines: list[LineIn] = Field(min_length=1, max_length=LINES_MAX)


class ProductOut(BaseModel):
    sku: str
    name: str
    price: MoneyIn
    on_hand: int
    reserved: int
    sold: int
    received: int
    revision: int


class ProductsOut(BaseModel):
    products: list[ProductOut]


class ProductPageOut(BaseModel):
    products: list[ProductOut]
    next_page_token: str


class MovedOut(BaseModel):
    transaction_id: str
    lines: list[LineIn]


def router(desk: Desk) -> APIRouter:
    """The routes of the inventory service."""
    routes = APIRouter(prefix="/v1", tags=["inventory"])

    @routes.post("/products", status_code=201, response_model=ProductsOut)
    async def create_products(body: ProductsIn, key: Key) -> Response:
        """Creates products with their first stock; one that exists gets the name and the price, and keeps its stock."""
        products = [
            new_product(one.sku, one.name, Money(one.price.minor_units, one.price.currency), one.on_hand)
            for one in body.products
        ]
        return json_response({"products": await desk.create(key, products)}, 201)

    @routes.get("/products/{sku}", response_model=ProductOut)
    async def get_product(sku: SkuInPath) -> Response:
        """One product with its price and stock."""
        return json_response(await desk.product(sku))

    @routes.get("/products", response_model=ProductPageOut)
    async def list_products(
        page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 100,
        page_token: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        """Products by sku."""
        products, following = await desk.page(page_token, page_size)
        return json_response({"products": products, "next_page_token": following})

    @routes.post("/products/{sku}/receipts", status_code=201, response_model=ProductOut)
    async def receive_stock(sku: SkuInPath, body: ReceiptIn, key: Key) -> Response:
        """Adds a delivery to the stock."""
        return json_response(await desk.receive(key, sku, body.quantity), 201)

    @routes.post("/deductions", status_code=201, response_model=MovedOut)
    async def deduct_stock(body: DeductionIn, key: Key) -> Response:
        """Takes stock for a transaction: all lines or none."""
        lines = [Line(line.sku, line.quantity) for line in body.lines]
        if body.transaction_id is not None:
            await desk.bind(key, DEDUCT_STOCK, (body.transaction_id, lines))
        transaction_id = body.transaction_id or f"key:{key}"
        done = await desk.deduct(transaction_id, lines)
        return json_response({"transaction_id": transaction_id, "lines": done.lines}, 201)

    @routes.post("/deductions/{transaction_id}/restock", response_model=MovedOut)
    async def restock(transaction_id: TransactionInPath, key: Key) -> Response:
        """Puts back what a transaction took; one that took nothing can take nothing afterwards."""
        await desk.bind(key, RESTOCK, transaction_id)
        done = await desk.restock(transaction_id)
        return json_response({"transaction_id": transaction_id, "lines": done.lines})

    @routes.get("/transactions/{transaction_id}/trail", response_model=TrailOut)
    async def get_trail(transaction_id: TransactionInPath) -> Response:
        """What inventory did for a transaction, and how long it kept stock from others meanwhile."""
        trail = await desk.trail(transaction_id)
        return json_response({"transaction_id": transaction_id, "moments": trail.moments, "kept": trail.kept})

    return routes
