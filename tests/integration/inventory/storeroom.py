"""Inventory on a real database: its handlers, what it prepares, what it hears, and the books to check them by."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

import services.inventory
from libs.coordination.inquiry import Inquiry
from libs.coordination.outcomes import Outcome
from libs.kernel.errors import DockyardError
from libs.kernel.money import Money
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.tcc.barrier import Key, Manner, Operation
from libs.twophase.prepared import Prepared
from proto.events.v1 import events_pb2
from services.inventory.adapters.choreography import Checkouts
from services.inventory.adapters.preparations import preparations
from services.inventory.adapters.queries import InventoryQueries
from services.inventory.adapters.units import PostgresUnits
from services.inventory.domain import Line, new_product
from services.inventory.entrypoints.desk import Desk
from services.inventory.entrypoints.holdings import DeskHoldings
from services.inventory.handlers import (
    Command,
    CreateProducts,
    Done,
    InventoryHandlers,
    batch_key,
    command,
    confirmation,
    deduction,
    taking_back,
)
from tests.waiting import until

MIGRATIONS = Path(services.inventory.__path__[0]) / "migrations"
LEASE_MS = 60_000
CONNECTIONS = 8
PREPARES_MAX = 3

# What the deductions say that is reserved and sold, and what the products say, where the two differ.
DIFFERENCES = """
    WITH taken AS (
        SELECT line->>'sku' AS sku, (line->>'quantity')::bigint AS quantity, status
          FROM deductions CROSS JOIN jsonb_array_elements(lines) AS line)
    SELECT sku, reserved, sold FROM products
     WHERE reserved <> (SELECT coalesce(sum(quantity), 0) FROM taken WHERE sku = products.sku AND status = 'held')
        OR sold <> (SELECT coalesce(sum(quantity), 0) FROM taken WHERE sku = products.sku AND status = 'deducted')
"""


class Store:
    def __init__(self, url: str, database: Database) -> None:
        self.url = url
        self.database = database
        clock = SystemClock()
        ids = Ids(clock)
        self.units = PostgresUnits(database, clock, ids)
        self.handlers = InventoryHandlers(self.units)
        self.prepared = Prepared(database, "inventory")
        self.preparations = preparations(self.prepared, self.units, PREPARES_MAX)
        self.queries = InventoryQueries(database, self.prepared)
        self.checkouts = Checkouts(self.units, clock, ids)
        commands: Batcher[Command, Done] = Batcher("test", self.handlers.execute, key=batch_key)
        endings: Batcher[Command, Done] = Batcher("test endings", self.handlers.execute, key=batch_key)
        self.desk = Desk(commands, endings, self.preparations, self.queries, LEASE_MS)

    async def execute(self, *commands: Command) -> list[Done | DockyardError]:
        return list(await self.handlers.execute(commands))

    async def told(self, *commands: Command) -> list[str]:
        return codes(await self.execute(*commands))

    async def prepare(self, command: Command) -> Done | DockyardError:
        try:
            return await self.preparations.prepare(command)
        except DockyardError as error:
            return error

    async def inquire(self, coordinator: "Coordinator", patience_seconds: float = 0.0) -> int:
        """Asks once about all that is overdue; how many were settled."""

        async def prepared(limit: int) -> Sequence[str]:
            return await self.prepared.overdue(patience_seconds, limit)

        inquiries = [
            Inquiry(DeskHoldings(self.desk, overdue), coordinator, SystemClock())
            for overdue in (prepared, self.queries.held_too_long)
        ]
        return sum([await inquiry.step() for inquiry in inquiries])

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def stock(self, sku: str) -> tuple[int, int]:
        """On hand and sold, while nothing is reserved."""
        on_hand, reserved, sold = await self.counted(sku)
        assert not reserved
        return on_hand, sold

    async def counted(self, sku: str) -> tuple[int, int, int]:
        """On hand, reserved, sold, by the products and by the deductions alike."""
        assert await self.rows(DIFFERENCES) == [], "the products differ from the deductions"
        ((on_hand, reserved, sold),) = await self.rows(
            "SELECT on_hand, reserved, sold FROM products WHERE sku = $1", sku
        )
        return on_hand, reserved, sold

    async def status(self, transaction_id: str) -> str:
        found = await self.rows("SELECT status FROM deductions WHERE transaction_id = $1", transaction_id)
        return str(found[0][0]) if found else "none"

    async def announced(self) -> list[tuple[str, int, int]]:
        """Every listing that was written down to be published: sku, price, revision."""
        rows = await self.rows("SELECT data FROM outbox WHERE topic = 'catalogue' ORDER BY transaction_id, sequence")
        listed = [events_pb2.ProductListed.FromString(row["data"]) for row in rows]
        return [(one.sku, one.price.minor_units, one.revision) for one in listed]

    async def said(self) -> list[tuple[str, str, bytes]]:
        """Type, subject and data of every event about a checkout in the outbox, in order."""
        found = await self.rows("SELECT type, subject, data FROM outbox WHERE topic = 'checkouts' ORDER BY sequence")
        return [(type_.rpartition(".")[2], subject, data) for type_, subject, data in found]

    async def until_somebody_waits(self) -> None:
        """Returns when one of our connections waits for a row that another keeps."""
        await until(lambda: self.rows("SELECT FROM pg_locks WHERE NOT granted"))

    async def until_overdue(self) -> None:
        """Returns when a lease has ended."""
        await until(lambda: self.queries.held_too_long(1))


class Coordinator:
    """Has decided, and remembers who asked."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.asked: list[str] = []

    async def resolve(self, transaction_ids: Sequence[str]) -> Sequence[Outcome]:
        self.asked += transaction_ids
        return [self.outcome] * len(transaction_ids)


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """Ten lamps and a rope."""
    database = Database.open(url, CONNECTIONS, "test")
    store = Store(url, database)
    await store.execute(create("first", lamp=10, rope=1))
    yield store
    await store.preparations.drain()
    for transaction_id in await store.prepared.overdue(0.0, 100):
        await store.prepared.roll_back(transaction_id)
    await database.close()


def create(key: str, price: int = 100, **stock: int) -> Command:
    products = tuple(new_product(sku, sku, Money(price, "EUR"), count) for sku, count in stock.items())
    return command(Key(f"key:{key}", "create-products", Operation.DO), products, CreateProducts(products))


def deduct(transaction_id: str, **lines: int) -> Command:
    return deduction(transaction_id, lines_of(**lines))


def hold(transaction_id: str, lease_ms: int = LEASE_MS, **lines: int) -> Command:
    return deduction(transaction_id, lines_of(**lines), Manner.HOLD, lease_ms)


def prepare(transaction_id: str, **lines: int) -> Command:
    return deduction(transaction_id, lines_of(**lines), Manner.PREPARE)


def confirm(transaction_id: str, manner: Manner = Manner.HOLD) -> Command:
    return confirmation(transaction_id, manner)


def restock(transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Command:
    return taking_back(transaction_id, manner)


def lines_of(**lines: int) -> tuple[Line, ...]:
    return tuple(Line(sku, count) for sku, count in lines.items())


def done(**lines: int) -> Done:
    return Done(lines=lines_of(**lines))


def codes(outcomes: Sequence[Done | DockyardError]) -> list[str]:
    return [code(outcome) for outcome in outcomes]


def code(outcome: Done | DockyardError) -> str:
    return outcome.code if isinstance(outcome, DockyardError) else "done"
