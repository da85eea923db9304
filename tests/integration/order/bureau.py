"""The order service's write side on a real database: what it is asked, what it hears, and what is left of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from google.protobuf.message import Message

import services.order
from libs.choreography.events import CHECKOUTS_TOPIC
from libs.eventsourcing.projection import Projector
from libs.kernel.errors import DockyardError
from libs.messaging.event import Delivery
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from proto.events.v1 import events_pb2
from services.order.adapters import view
from services.order.adapters.checkouts import Checkouts
from services.order.adapters.coordinator import OrderCoordinator
from services.order.adapters.deadlines import Deadlines
from services.order.adapters.queries import OrderQueries
from services.order.adapters.units import Committed, PostgresUnits
from services.order.domain import CHOREOGRAPHED, Address, Line, Order, PlaceOrder
from services.order.handlers import Change, Confirm, OrderHandlers, Placing, RequestCancel, Written

MIGRATIONS = Path(services.order.__path__[0]) / "migrations"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ADA = Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONNECTIONS = 8


class Bureau:
    """One process's worth of the order service; two of them on one database are two replicas."""

    def __init__(self, url: str, database: Database) -> None:
        self.url = url
        self.database = database
        clock = SystemClock()
        self.told: list[Committed] = []
        self.units = PostgresUnits(database, clock, Ids(clock), self.told.append)
        self.handlers = OrderHandlers(self.units)
        self.changing: Batcher[Change, Written] = Batcher("test", self.handlers.change, key=lambda one: one.order_id)
        self.queries = OrderQueries(database, Projector(database, view.VIEW_NAME, view.apply, clock))
        self.checkouts = Checkouts(self.units, clock)
        self.deadlines = Deadlines(database, self.units, clock)
        self.coordinator = OrderCoordinator(self.queries, self.changing, clock)

    # What it is asked.

    async def place(self, order_id: str, coordination: str = CHOREOGRAPHED, *skus: str) -> Order:
        lines = tuple(Line(sku, 2) for sku in skus or ("lamp",))
        command = PlaceOrder(order_id, "ada", lines, "tok_ok", ADA, coordination, NOON)
        (written,) = await self.handlers.place([Placing(command, f"key-{order_id}", order_id.encode(), TRACE)])
        assert isinstance(written, Written)
        return written.order

    async def change(self, change: Change) -> str:
        """The order's status after it, or the code of the refusal."""
        try:
            return str((await self.changing.submit(change)).order.status)
        except DockyardError as error:
            return error.code

    async def confirm(self, order_id: str) -> str:
        return await self.change(Confirm(order_id, NOON, TRACE))

    async def cancel(self, order_id: str) -> str:
        return await self.change(RequestCancel(order_id, "rain", f"cancel-{order_id}", b"", NOON, TRACE))

    # What it hears.

    async def hear(self, *deliveries: Delivery) -> None:
        """As the consumer does it: one transaction, then those are told who act on it."""
        async with self.database.transaction() as connection:
            await self.checkouts.apply(connection, deliveries)
        self.checkouts.tell()

    async def let_time_pass(self, *order_ids: str) -> None:
        """The deadlines of these choreographies are over."""
        await self.rows("UPDATE choreographies SET deadline_at = now() WHERE order_id = ANY($1)", list(order_ids))

    # What is left.

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()

    async def order(self, order_id: str) -> str:
        """Its status, and why."""
        order = await self.queries.fold(order_id)
        assert order is not None
        return f"{order.status} {order.reason}".strip()

    async def events(self, order_id: str) -> list[str]:
        return [event.type for event in await self.queries.events(order_id)]

    async def choreography(self, order_id: str) -> str:
        """Its stage, and the last event that moved it."""
        found = await self.rows("SELECT status, last_event FROM choreographies WHERE order_id = $1", order_id)
        return f"{found[0][0]} {found[0][1]}".strip() if found else "none"

    async def log(self, order_id: str) -> list[str]:
        found = await self.rows(
            "SELECT event, detail FROM choreography_log WHERE order_id = $1 ORDER BY number", order_id
        )
        return [f"{event} {detail}".strip() for event, detail in found]

    async def said(self, topic: str = CHECKOUTS_TOPIC) -> list[Message]:
        """Everything in the outbox for this topic, in order."""
        found = await self.rows("SELECT type, data FROM outbox WHERE topic = $1 ORDER BY sequence", topic)
        return [getattr(events_pb2, type_.rpartition(".")[2]).FromString(data) for type_, data in found]

    async def withdrawals(self) -> list[str]:
        """Whose checkout is given up, and why, as the others hear it."""
        said = [event for event in await self.said() if isinstance(event, events_pb2.CheckoutWithdrawn)]
        return [f"{event.order_id} {event.code}" for event in said]

    async def until_somebody_waits(self) -> None:
        """Returns when one connection to the database waits for what another keeps."""
        query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        async with asyncio.timeout(5):
            while True:
                if await self.rows(query):
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def open_bureau(url: str) -> AsyncIterator[Bureau]:
    database = Database.open(url, CONNECTIONS, "test")
    bureau = Bureau(url, database)
    await bureau.rows(
        "INSERT INTO catalogue VALUES ('lamp', 'Lamp', 4900, 'EUR', 1), ('rum', 'Rum', 900, 'GBP', 1)"
        " ON CONFLICT DO NOTHING"
    )
    yield bureau
    await bureau.changing.drain()
    await database.close()


def heard(event: Message, number: int = 1) -> Delivery:
    """A message about an order, as it arrives."""
    order_id = getattr(event, "order_id", "") or event.checkout.order_id  # type: ignore[attr-defined]  # one of both
    kind = event.DESCRIPTOR.full_name
    event_id = f"evt-{order_id}-{kind}-{number}"
    return Delivery(
        event_id, CHECKOUTS_TOPIC, kind, "test", order_id, "", TRACE, event.SerializeToString(), "stream", "0-1"
    )


def deducted(order_id: str) -> Delivery:
    return heard(events_pb2.StockDeducted(checkout=events_pb2.Checkout(order_id=order_id)))


def booked(order_id: str) -> Delivery:
    return heard(events_pb2.ShipmentBooked(order_id=order_id, shipment_id="shp_1"))


def stock_refused(order_id: str, code: str = "out-of-stock") -> Delivery:
    return heard(events_pb2.StockRefused(order_id=order_id, code=code, message="no lamps"))


def returned(order_id: str, code: str) -> Delivery:
    return heard(events_pb2.StockReturned(order_id=order_id, code=code, message="taken back"))


def statuses(told: Sequence[Committed]) -> list[str]:
    """What those were told who act on commits."""
    return [f"{order.order_id} {order.status}" for done in told for order in done.orders]
