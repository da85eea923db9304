"""Transactions of the order service on PostgreSQL: event streams, catalogue copy, sagas, outbox, barrier."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.eventsourcing.store import Append, NewEvent, PostgresEventStore
from libs.eventsourcing.store import Appended as Stored
from libs.kernel.money import Money
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Clock, Ids
from libs.runtime.database import Database
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.position import Position
from libs.runtime.sql import texts
from libs.saga.log import Instance
from libs.saga.postgres_log import start_rows
from libs.tcc.postgres_barrier import PostgresBarrier
from services.order.adapters.choreographies import PostgresChoreographies
from services.order.adapters.codec import CODEC, integration_events
from services.order.choreography import DEADLINE_SECONDS
from services.order.domain import Order, fold
from services.order.ports import Appended, SagaStart
from services.order.saga import SAGAS

declare("order.commit.before", "order.commit.after")

# The price of each of these products, as far as the local copy of the catalogue knows.
PRICES = text("SELECT sku, price_minor, currency FROM catalogue WHERE sku = ANY(:skus)").bindparams(*texts("skus"))


# The newest event of each of these orders.
POSITIONS = text(
    """
    SELECT DISTINCT ON (stream_id) stream_id, transaction_id::text::bigint, sequence
      FROM events WHERE stream_id = ANY(:order_ids) ORDER BY stream_id, version DESC
    """
).bindparams(*texts("order_ids"))


@dataclass(slots=True)
class Committed:
    """What a transaction did, told to whoever acts on it once it is durable."""

    orders: list[Order] = field(default_factory=list)
    sagas: list[Instance] = field(default_factory=list)


class PostgresOrders:
    """Event streams keyed by order id, and the outbox rows that go with them."""

    def __init__(self, connection: AsyncConnection, ids: Ids, committed: Committed) -> None:
        self._connection = connection
        self._store = PostgresEventStore(connection)
        self._ids = ids
        self._committed = committed

    async def load(self, order_ids: Collection[str]) -> Mapping[str, Order]:
        streams = await self._store.load(sorted(order_ids))
        return {
            stream_id: fold(CODEC.decode(event.type, event.data) for event in events)
            for stream_id, events in streams.items()
            if events
        }

    async def positions(self, order_ids: Collection[str]) -> Mapping[str, Position]:
        rows = await self._connection.execute(POSITIONS, {"order_ids": sorted(order_ids)})
        return {order_id: Position(transaction, sequence) for order_id, transaction, sequence in rows}

    async def append(self, appends: Sequence[Appended]) -> Sequence[Position | None]:
        if not appends:
            return []
        outcomes = await self._store.append(
            [
                Append(
                    append.after.order_id,
                    append.version,
                    [NewEvent(*CODEC.encode(event), event.at, append.traceparent) for event in append.events],
                )
                for append in appends
            ]
        )
        stored = [append for append, outcome in zip(appends, outcomes, strict=True) if isinstance(outcome, Stored)]
        await Outbox(self._connection).add(
            [event for append in stored for event in integration_events(append, self._ids)]
        )
        self._committed.orders.extend(append.after for append in stored)
        return [outcome.position if isinstance(outcome, Stored) else None for outcome in outcomes]


class PostgresCatalogue:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def prices(self, skus: Collection[str]) -> Mapping[str, Money]:
        if not skus:
            return {}
        rows = await self._connection.execute(PRICES, {"skus": sorted(skus)})
        return {sku: Money(price_minor, currency) for sku, price_minor, currency in rows}


class PostgresSagas:
    """Saga rows of this transaction; the executor runs them once they are durable."""

    def __init__(self, connection: AsyncConnection, clock: Clock, committed: Committed) -> None:
        self._connection = connection
        self._clock = clock
        self._committed = committed

    async def start(self, starts: Sequence[SagaStart]) -> None:
        if not starts:
            return
        now = self._clock.now()
        instances = [
            Instance(start.saga_id, start.saga, SAGAS[start.saga].version, start.input, start.traceparent, now)
            for start in starts
        ]
        await start_rows(self._connection, instances)
        self._committed.sagas.extend(instances)


class PostgresUnit:
    """One transaction of the order service."""

    def __init__(
        self, connection: AsyncConnection, clock: Clock, ids: Ids, committed: Committed, deadline_seconds: float
    ) -> None:
        self.orders = PostgresOrders(connection, ids, committed)
        self.catalogue = PostgresCatalogue(connection)
        self.sagas = PostgresSagas(connection, clock, committed)
        self.choreographies = PostgresChoreographies(connection, deadline_seconds)
        self.barrier = PostgresBarrier(connection)


class PostgresUnits:
    """Opens transactions, and tells a listener what each one committed.

    A choreographed checkout may stand still for `choreography_seconds`.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        on_commit: Callable[[Committed], None] = lambda _: None,
        *,
        choreography_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self.on_commit = on_commit
        self._choreography_seconds = choreography_seconds

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PostgresUnit]:
        committed = Committed()
        async with self._database.transaction() as connection:
            yield self.joining(connection, committed)
            failpoint("order.commit.before")
        failpoint("order.commit.after")
        self.on_commit(committed)

    def joining(self, connection: AsyncConnection, committed: Committed | None = None) -> PostgresUnit:
        """A unit inside somebody else's transaction, who decides when it commits, and tells `on_commit` of it."""
        return PostgresUnit(connection, self._clock, self._ids, committed or Committed(), self._choreography_seconds)
