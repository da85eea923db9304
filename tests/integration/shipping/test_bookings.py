"""Shipping's handlers on a real database: a place is given once, given back once, and never given twice."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest_asyncio

import services.shipping
from libs.kernel.errors import Conflict, DockyardError
from libs.messaging.event import Delivery
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.tcc.barrier import Entry, Key, Operation
from services.shipping.adapters.units import ORDER_CONFIRMED, PostgresUnits
from services.shipping.domain import Service
from services.shipping.handlers import Address, Book, Cancel, Command, CreateCarrier, Dispatch, Done, ShippingHandlers
from tests.conftest import MakeDatabase

MIGRATIONS = Path(services.shipping.__path__[0]) / "migrations"
HARBOUR = Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAYS_AHEAD = 2
PER_DAY = 2


class Office:
    def __init__(self, url: str, database: Database) -> None:
        self.url = url
        self.database = database
        self.units = PostgresUnits(database, Ids(SystemClock()))
        self.handlers = ShippingHandlers(self.units, DAYS_AHEAD)

    async def execute(self, *commands: Command) -> list[Done | DockyardError]:
        return list(await self.handlers.execute(commands))

    async def booked(self) -> int:
        connection = await asyncpg.connect(self.url)
        counted = await connection.fetchval("SELECT coalesce(sum(booked), 0)::int FROM capacity_days")
        live = await connection.fetchval("SELECT count(*)::int FROM shipments WHERE status <> 'cancelled'")
        await connection.close()
        assert counted == live, "the counters differ from the shipments"
        return int(counted)

    async def confirm(self, transaction_id: str) -> None:
        """Shipping hears that the order is confirmed."""
        event = Delivery("evt", "orders", ORDER_CONFIRMED, "test", transaction_id, "", "", b"", "stream", "0-1")
        async with self.database.transaction() as connection:
            await self.units.apply_orders(connection, [event])


@pytest_asyncio.fixture
async def office(make_database: MakeDatabase) -> AsyncIterator[Office]:
    url = await make_database("shipping", MIGRATIONS)
    database = Database.open(url, 4, "test")
    office = Office(url, database)
    carrier = CreateCarrier("gull", "Gull", (Service("gull", "DE", PER_DAY),))
    await office.execute(Command(Entry(Key("key:c", "create-carrier", Operation.DO), b"c"), carrier))
    yield office
    await database.close()


def book(transaction_id: str, zone: str = "DE", parcels: int = 1) -> Command:
    address = Address("Ada", "Quay 1", "Hamburg", "20457", zone)
    entry = Entry(Key(transaction_id, "book-shipment", Operation.DO), f"{zone}{parcels}".encode())
    return Command(entry, Book(f"shp_{transaction_id}", address, parcels, NOON))


def cancel(transaction_id: str) -> Command:
    return Command(Entry(Key(transaction_id, "book-shipment", Operation.UNDO), b""), Cancel())


def dispatch(key: str, shipment_id: str) -> Command:
    return Command(Entry(Key(key, "dispatch", Operation.DO), shipment_id.encode()), Dispatch(shipment_id, NOON))


def codes(outcomes: list[Done | DockyardError]) -> list[str]:
    return [outcome.code if isinstance(outcome, DockyardError) else "done" for outcome in outcomes]


async def test_a_repeated_booking_books_once_and_answers_the_same(office: Office) -> None:
    assert await office.execute(book("t1")) == await office.execute(book("t1"))
    assert await office.booked() == 1


async def test_a_batch_fills_the_days_in_order_and_refuses_only_who_comes_too_late(office: Office) -> None:
    outcomes = await office.execute(*(book(f"t{number}") for number in range(5)))
    assert codes(outcomes) == ["done"] * 4 + ["no-capacity"]
    days = [outcome.ship_date for outcome in outcomes if isinstance(outcome, Done)]
    assert days == ["2026-02-01", "2026-02-01", "2026-02-02", "2026-02-02"]
    assert await office.booked() == DAYS_AHEAD * PER_DAY


async def test_an_unserved_zone_is_refused_without_harm_to_its_neighbours(office: Office) -> None:
    assert codes(await office.execute(book("t1"), book("t2", zone="AQ"))) == ["done", "zone-not-served"]


async def test_a_cancelled_booking_gives_its_place_back_once(office: Office) -> None:
    await office.execute(book("t1"))
    assert await office.execute(cancel("t1")) == await office.execute(cancel("t1"))
    assert await office.booked() == 0


async def test_an_undo_that_comes_first_wins(office: Office) -> None:
    assert await office.execute(cancel("t1")) == [Done()]
    assert codes(await office.execute(book("t1"))) == ["undone-before-done"]
    assert await office.booked() == 0


async def test_a_parcel_leaves_only_after_its_order_is_confirmed_and_then_stays_gone(office: Office) -> None:
    await office.execute(book("t1"))
    (early,) = await office.execute(dispatch("d1", "shp_t1"))
    assert isinstance(early, Conflict)
    await office.confirm("t1")
    assert codes(await office.execute(dispatch("d2", "shp_t1"))) == ["done"]
    assert codes(await office.execute(cancel("t1"))) == ["already-dispatched"]
    assert await office.booked() == 1


async def test_a_confirmation_does_not_wake_a_cancelled_booking(office: Office) -> None:
    await office.execute(book("t1"))
    await office.execute(cancel("t1"))
    await office.confirm("t1")
    (outcome,) = await office.execute(dispatch("d1", "shp_t1"))
    assert isinstance(outcome, Conflict)
