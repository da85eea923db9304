"""Shipping on a real database: its handlers, what it prepares, what it hears, and the books to check them by."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

import services.shipping
from libs.coordination.inquiry import Inquiry
from libs.coordination.outcomes import Outcome
from libs.kernel.errors import DockyardError
from libs.messaging.event import Delivery
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.tcc.barrier import Entry, Key, Manner, Operation
from libs.twophase.prepared import Prepared
from services.shipping.adapters.choreography import Checkouts
from services.shipping.adapters.preparations import preparations
from services.shipping.adapters.queries import ShippingQueries
from services.shipping.adapters.units import ORDER_CONFIRMED, PostgresUnits
from services.shipping.domain import Address, Service
from services.shipping.entrypoints.desk import Desk
from services.shipping.entrypoints.holdings import DeskHoldings
from services.shipping.handlers import (
    Book,
    Command,
    CreateCarrier,
    Dispatch,
    Done,
    ShippingHandlers,
    batch_key,
    booking,
    cancellation,
    confirmation,
)
from tests.waiting import until

MIGRATIONS = Path(services.shipping.__path__[0]) / "migrations"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAYS_AHEAD = 2
PER_DAY = 2
PLACES = DAYS_AHEAD * PER_DAY
LEASE_MS = 60_000
CONNECTIONS = 6
PREPARES_MAX = 2


class Office:
    def __init__(self, url: str, database: Database) -> None:
        self.url = url
        self.database = database
        clock = SystemClock()
        ids = Ids(clock)
        self.units = PostgresUnits(database, ids)
        self.handlers = ShippingHandlers(self.units, DAYS_AHEAD)
        self.prepared = Prepared(database, "shipping")
        self.preparations = preparations(self.prepared, self.units, DAYS_AHEAD, PREPARES_MAX)
        self.queries = ShippingQueries(database, self.prepared)
        self.checkouts = Checkouts(self.units, DAYS_AHEAD, clock, ids)
        commands: Batcher[Command, Done] = Batcher("test", self.handlers.execute, key=batch_key)
        self.desk = Desk(commands, self.preparations, self.queries, clock, LEASE_MS)

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

        holdings = DeskHoldings(self.desk, self.queries.held_too_long, prepared)
        return await Inquiry(holdings, coordinator, SystemClock()).step()

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def booked(self) -> int:
        """Places taken, by the counters and by the shipments alike."""
        ((counted, live),) = await self.rows(
            "SELECT (SELECT coalesce(sum(booked), 0)::int FROM capacity_days),"
            " (SELECT coalesce(sum(parcels), 0)::int FROM shipments WHERE status <> 'cancelled')"
        )
        assert counted == live, "the counters differ from the shipments"
        return int(counted)

    async def status(self, transaction_id: str) -> str:
        found = await self.rows("SELECT status FROM shipments WHERE transaction_id = $1", transaction_id)
        return str(found[0][0]) if found else "none"

    async def said(self) -> list[tuple[str, str, bytes]]:
        """Type, subject and data of every event in the outbox, in order."""
        found = await self.rows("SELECT type, subject, data FROM outbox ORDER BY sequence")
        return [(type_.rpartition(".")[2], subject, data) for type_, subject, data in found]

    async def confirm_orders(self, *transaction_ids: str) -> None:
        """Shipping hears that these orders are confirmed."""
        events = [
            Delivery("evt", "orders", ORDER_CONFIRMED, "test", transaction_id, "", "", b"", "stream", "0-1")
            for transaction_id in transaction_ids
        ]
        async with self.database.transaction() as connection:
            await self.units.apply_orders(connection, events)

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
async def open_office(url: str) -> AsyncIterator[Office]:
    """One carrier, one zone."""
    database = Database.open(url, CONNECTIONS, "test")
    office = Office(url, database)
    carrier = CreateCarrier("gull", "Gull", (Service("gull", "DE", PER_DAY),))
    await office.execute(Command(Entry(Key("key:c", "create-carrier", Operation.DO), b"c"), carrier))
    yield office
    await office.preparations.drain()
    for transaction_id in await office.prepared.overdue(0.0, 100):
        await office.prepared.roll_back(transaction_id)
    await database.close()


def book(
    transaction_id: str,
    zone: str = "DE",
    parcels: int = 1,
    manner: Manner = Manner.AT_ONCE,
    lease_ms: int = LEASE_MS,
) -> Command:
    address = Address("Ada", "Quay 1", "Hamburg", "20457", zone)
    return booking(transaction_id, Book(address, parcels, NOON, lease_ms), manner)


def hold(transaction_id: str, lease_ms: int = LEASE_MS) -> Command:
    return book(transaction_id, manner=Manner.HOLD, lease_ms=lease_ms)


def prepare(transaction_id: str, zone: str = "DE") -> Command:
    return book(transaction_id, zone, manner=Manner.PREPARE)


def confirm(transaction_id: str, manner: Manner = Manner.HOLD) -> Command:
    return confirmation(transaction_id, manner)


def cancel(transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Command:
    return cancellation(transaction_id, manner)


def dispatch(key: str, shipment_id: str) -> Command:
    return Command(Entry(Key(key, "dispatch", Operation.DO), shipment_id.encode()), Dispatch(shipment_id, NOON))


def codes(outcomes: Sequence[Done | DockyardError]) -> list[str]:
    return [code(outcome) for outcome in outcomes]


def code(outcome: Done | DockyardError) -> str:
    return outcome.code if isinstance(outcome, DockyardError) else "done"
