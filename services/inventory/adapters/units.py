"""Transactions of the inventory service on PostgreSQL: products, deductions, outbox, barrier."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import Unavailable
from libs.messaging.event import OutgoingEvent
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Clock, Ids
from libs.runtime.database import Database
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.sql import bigints, integers, texts
from libs.tcc.postgres_barrier import PostgresBarrier
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from services.inventory.adapters.rows import DEDUCTION_COLUMNS, PRODUCT_COLUMNS, deduction_of, lines_text, product_of
from services.inventory.domain import Product
from services.inventory.ports import Deduction, Listing, NewDeduction

CATALOGUE_TOPIC = "catalogue"
ORDERS_TOPIC = "orders"
SOURCE = "/services/inventory"

COMMIT_BEFORE, COMMIT_AFTER = "inventory.commit.before", "inventory.commit.after"
declare(COMMIT_BEFORE, COMMIT_AFTER)

# Holds every product of the batch until its end; in order of sku, so two batches never wait in a circle.
LOCK = text(
    f"SELECT {PRODUCT_COLUMNS} FROM products WHERE sku = ANY(:skus) ORDER BY sku FOR UPDATE"  # noqa: S608  (a constant)
).bindparams(*texts("skus"))

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

# What each transaction took: the record by which it is given back. The lease of what is held begins now, by the
# database's clock.
ADD_DEDUCTIONS = text(
    """
    INSERT INTO deductions (transaction_id, lines, status, lease_until)
    SELECT transaction_id, lines::jsonb, status, now() + lease_ms * interval '1 millisecond'
      FROM unnest(:transaction_ids, :lines, :statuses, :leases_ms) AS new (transaction_id, lines, status, lease_ms)
    """
).bindparams(*texts("transaction_ids", "lines", "statuses"), *integers("leases_ms"))

# In order, so that nobody waits in a circle.
LOCK_DEDUCTIONS = text(
    f"""
    SELECT {DEDUCTION_COLUMNS} FROM deductions
     WHERE transaction_id = ANY(:transaction_ids) ORDER BY transaction_id FOR UPDATE
    """  # noqa: S608  (the columns are a constant)
).bindparams(*texts("transaction_ids"))
SAVE_STATUSES = text(
    """
    UPDATE deductions SET status = new.status, lease_until = NULL
      FROM unnest(:transaction_ids, :statuses) AS new (transaction_id, status)
     WHERE deductions.transaction_id = new.transaction_id
    """
).bindparams(*texts("transaction_ids", "statuses"))


class PostgresProducts:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self, skus: Collection[str]) -> Mapping[str, Product]:
        if not skus:
            return {}
        rows = await self._connection.execute(LOCK, {"skus": sorted(skus)})
        return {row[0]: product_of(*row) for row in rows}

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

    async def add(self, new: Sequence[NewDeduction]) -> None:
        if new:
            await self._connection.execute(
                ADD_DEDUCTIONS,
                {
                    "transaction_ids": [one.deduction.transaction_id for one in new],
                    "lines": [lines_text(one.deduction) for one in new],
                    "statuses": [one.deduction.status.value for one in new],
                    "leases_ms": [one.lease_ms for one in new],
                },
            )

    async def lock(self, transaction_ids: Collection[str]) -> Mapping[str, Deduction]:
        if not transaction_ids:
            return {}
        rows = await self._connection.execute(LOCK_DEDUCTIONS, {"transaction_ids": list(transaction_ids)})
        return {deduction.transaction_id: deduction for deduction in (deduction_of(*row) for row in rows)}

    async def save_statuses(self, deductions: Sequence[Deduction]) -> None:
        if deductions:
            await self._connection.execute(
                SAVE_STATUSES,
                {
                    "transaction_ids": [deduction.transaction_id for deduction in deductions],
                    "statuses": [deduction.status.value for deduction in deductions],
                },
            )


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
            yield self.joining(connection)
            failpoint(COMMIT_BEFORE)
        failpoint(COMMIT_AFTER)
        self.on_commit()

    def joining(self, connection: AsyncConnection) -> PostgresUnit:
        """A unit inside somebody else's transaction, who decides when it commits."""
        return PostgresUnit(connection, self._clock, self._ids)
