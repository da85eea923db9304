"""Transactions of the inventory service on PostgreSQL: products, deductions, outbox, barrier."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import NotFound, Unavailable
from libs.kernel.money import Money
from libs.messaging.event import OutgoingEvent
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Clock, Ids
from libs.runtime.database import Database
from libs.runtime.sql import bigints, texts
from libs.tcc.postgres_barrier import PostgresBarrier
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from services.inventory.domain import Line, Product
from services.inventory.ports import Deduction, Listing

CATALOGUE_TOPIC = "catalogue"
SOURCE = "/services/inventory"

_COLUMNS = "SELECT sku, name, price_minor, currency, on_hand, reserved, sold, received, revision FROM products"


# Holds every product of the batch until its end; in order of sku, so two batches never wait in a circle.
LOCK = text(_COLUMNS + " WHERE sku = ANY(:skus) ORDER BY sku FOR UPDATE").bindparams(*texts("skus"))

# The stock of the products that the batch changed.
SAVE_STOCK = text(
    """
    UPDATE products SET on_hand = new.on_hand, reserved = new.reserved, sold = new.sold, received = new.received
      FROM unnest(:sku, :on_hand, :reserved, :sold, :received) AS new (sku, on_hand, reserved, sold, received)
     WHERE products.sku = new.sku
    """
).bindparams(*texts("sku"), *bigints("on_hand", "reserved", "sold", "received"))

# What the products are called and cost from now on.
RELIST = text(
    """
    UPDATE products SET name = new.name, price_minor = new.price_minor, currency = new.currency, revision = new.revision
      FROM unnest(:sku, :name, :price_minor, :currency, :revision) AS new (sku, name, price_minor, currency, revision)
     WHERE products.sku = new.sku
    """
).bindparams(*texts("sku", "name", "currency"), *bigints("price_minor", "revision"))

# New products; one that somebody else added meanwhile stays as it is and is not answered.
ADD = text(
    """
    INSERT INTO products (sku, name, price_minor, currency, on_hand, reserved, sold, received, revision)
    SELECT * FROM unnest(:sku, :name, :price_minor, :currency, :on_hand, :reserved, :sold, :received, :revision)
     ORDER BY 1
    ON CONFLICT DO NOTHING
    RETURNING sku
    """
).bindparams(
    *texts("sku", "name", "currency"),
    *bigints("price_minor", "on_hand", "reserved", "sold", "received", "revision"),
)

# What each transaction took: the record by which it is given back.
ADD_DEDUCTIONS = text(
    """
    INSERT INTO deductions (transaction_id, lines, status)
    SELECT transaction_id, lines::jsonb, 'deducted' FROM unnest(:transaction_id, :lines) AS new (transaction_id, lines)
    """
).bindparams(*texts("transaction_id", "lines"))

# Takes back what these transactions hold; one that holds nothing any more answers nothing.
TAKE_BACK = text(
    """
    UPDATE deductions SET status = 'restocked'
     WHERE transaction_id = ANY(:transaction_ids) AND status = 'deducted'
    RETURNING transaction_id, lines::text
    """
).bindparams(*texts("transaction_ids"))

ONE = text(_COLUMNS + " WHERE sku = :sku")
MANY = text(_COLUMNS + " WHERE sku = ANY(:skus)").bindparams(*texts("skus"))
PAGE = text(_COLUMNS + " WHERE sku > :after ORDER BY sku LIMIT :limit")

_decode_lines = msgspec.json.Decoder(tuple[Line, ...]).decode


class PostgresProducts:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self, skus: Collection[str]) -> Mapping[str, Product]:
        if not skus:
            return {}
        rows = await self._connection.execute(LOCK, {"skus": sorted(skus)})
        return {row[0]: _product(*row) for row in rows}

    async def save_stock(self, products: Sequence[Product]) -> None:
        if products:
            await self._connection.execute(SAVE_STOCK, _stock_columns(products))

    async def relist(self, products: Sequence[Product]) -> None:
        if products:
            await self._connection.execute(RELIST, _listing_columns(products))

    async def add(self, products: Sequence[Product]) -> None:
        if not products:
            return
        rows = await self._connection.execute(ADD, {**_listing_columns(products), **_stock_columns(products)})
        if len(rows.all()) < len(products):
            raise Unavailable("somebody else is adding the same products; try again", code="products-contended")


def _stock_columns(products: Sequence[Product]) -> dict[str, list[Any]]:
    return {
        "sku": [product.sku for product in products],
        "on_hand": [product.on_hand for product in products],
        "reserved": [product.reserved for product in products],
        "sold": [product.sold for product in products],
        "received": [product.received for product in products],
    }


def _listing_columns(products: Sequence[Product]) -> dict[str, list[Any]]:
    return {
        "sku": [product.sku for product in products],
        "name": [product.name for product in products],
        "price_minor": [product.price.minor_units for product in products],
        "currency": [product.price.currency for product in products],
        "revision": [product.revision for product in products],
    }


class PostgresCatalogue:
    """Announces through the outbox."""

    def __init__(self, connection: AsyncConnection, clock: Clock, ids: Ids) -> None:
        self._connection = connection
        self._clock = clock
        self._ids = ids

    async def announce(self, listings: Sequence[Listing]) -> None:
        if listings:
            await Outbox(self._connection).add([self._listed(listing) for listing in listings])

    def _listed(self, listing: Listing) -> OutgoingEvent:
        product = listing.product
        message = events_pb2.ProductListed(
            sku=product.sku,
            name=product.name,
            price=kernel_pb2.Money(minor_units=product.price.minor_units, currency=product.price.currency),
            revision=product.revision,
        )
        return OutgoingEvent(
            id=self._ids.new("evt"),
            topic=CATALOGUE_TOPIC,
            type=message.DESCRIPTOR.full_name,
            source=SOURCE,
            subject=product.sku,
            time=self._clock.now(),
            traceparent=listing.traceparent,
            data=message.SerializeToString(),
        )


class PostgresDeductions:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, deductions: Sequence[Deduction]) -> None:
        if deductions:
            await self._connection.execute(
                ADD_DEDUCTIONS,
                {
                    "transaction_id": [deduction.transaction_id for deduction in deductions],
                    "lines": [msgspec.json.encode(deduction.lines).decode() for deduction in deductions],
                },
            )

    async def take_back(self, transaction_ids: Collection[str]) -> dict[str, Deduction]:
        if not transaction_ids:
            return {}
        rows = await self._connection.execute(TAKE_BACK, {"transaction_ids": sorted(transaction_ids)})
        return {transaction_id: Deduction(transaction_id, _decode_lines(lines)) for transaction_id, lines in rows}


class PostgresUnit:
    def __init__(self, connection: AsyncConnection, clock: Clock, ids: Ids) -> None:
        self.products = PostgresProducts(connection)
        self.catalogue = PostgresCatalogue(connection, clock, ids)
        self.deductions = PostgresDeductions(connection)
        self.barrier = PostgresBarrier(connection)


class PostgresUnits:
    """Opens transactions, and tells a listener that one committed."""

    def __init__(self, database: Database, clock: Clock, ids: Ids) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self.on_commit: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PostgresUnit]:
        async with self._database.transaction() as connection:
            yield PostgresUnit(connection, self._clock, self._ids)
        self.on_commit()


class ProductQueries:
    """Reads products."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, sku: str) -> Product:
        """Raises NotFound."""
        async with self._database.read() as connection:
            row = (await connection.execute(ONE, {"sku": sku})).one_or_none()
        if row is None:
            raise NotFound(f"there is no product {sku}")
        return _product(*row)

    async def many(self, skus: Sequence[str]) -> list[Product]:
        async with self._database.read() as connection:
            rows = await connection.execute(MANY, {"skus": list(skus)})
            found = {row[0]: _product(*row) for row in rows}
        return [found[sku] for sku in skus if sku in found]

    async def page(self, after: str, limit: int) -> tuple[list[Product], str]:
        """Products by sku, and the key of the next page; "" at the end."""
        async with self._database.read() as connection:
            rows = await connection.execute(PAGE, {"after": after, "limit": limit + 1})
            products = [_product(*row) for row in rows]
        return products[:limit], products[limit - 1].sku if len(products) > limit else ""


def _product(  # noqa: PLR0913, PLR0917  (one for each column)
    sku: str,
    name: str,
    price_minor: int,
    currency: str,
    on_hand: int,
    reserved: int,
    sold: int,
    received: int,
    revision: int,
) -> Product:
    return Product(sku, name, Money(price_minor, currency), on_hand, reserved, sold, received, revision)
