"""Read models fed in commit order: the view and the position it has reached are one transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import BigInteger, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.eventsourcing.store import PostgresEventStore, Recorded
from libs.kernel.errors import InDoubt, Unavailable
from libs.runtime.clock import Clock
from libs.runtime.database import Database
from libs.runtime.position import START, Position
from libs.telemetry import names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import is_recording, span, start_root

PROJECTIONS_DDL = (
    """
    CREATE TABLE projections (
        name text PRIMARY KEY,
        transaction_id xid8 NOT NULL,
        sequence bigint NOT NULL
    ) WITH (fillfactor = 50)
    """,
)

# One transaction applies at most this many events.
BATCH_ROWS_MAX = 500
# How long an idle projector sleeps when nobody nudges it (another process may have written).
POLL_SECONDS = 0.25
FAILED_SECONDS = 1.0
# How long events collect after a round, so that a busy view is fed a few dozen at a time; cut short by who waits.
LINGER_SECONDS = 0.03

log = get_logger(__name__)

ENSURE = text("INSERT INTO projections (name, transaction_id, sequence) VALUES (:name, '0', 0) ON CONFLICT DO NOTHING")
# Where the view is; the lock keeps a second process from feeding the same view.
LOCK = text("SELECT transaction_id::text::bigint, sequence FROM projections WHERE name = :name FOR UPDATE")
ADVANCE = text(
    "UPDATE projections SET transaction_id = (:transaction_id)::text::xid8, sequence = :sequence WHERE name = :name"
).bindparams(bindparam("transaction_id", type_=Text), bindparam("sequence", type_=BigInteger))

Apply = Callable[[AsyncConnection, Sequence[Recorded]], Awaitable[None]]


class Projector:
    """Feeds one view; `run` until cancelled. Whatever fails delays it, an event is never skipped.

    A view that cannot digest an event stands still and says so; what is written is written, and others go on.
    """

    def __init__(self, database: Database, name: str, apply: Apply, clock: Clock) -> None:
        self._database = database
        self._name = name
        self._apply = apply
        self._clock = clock
        self._nudged = asyncio.Event()
        self._hurried = asyncio.Event()
        self._moved = asyncio.Condition()
        self.position: Position = START

    def nudge(self) -> None:
        """Something was committed: look soon."""
        self._nudged.set()

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                advanced = await self.step()
            except (Unavailable, InDoubt) as error:
                failures += 1
                if failures == 1:
                    log.warning("projection waits for its database", extra={"view": self._name, "error": error.message})
            except Exception:  # the outermost loop of a view: a bug in it must not take the writers along
                failures += 1
                if failures == 1:
                    log.exception("projection stands still", extra={"view": self._name, "at": str(self.position)})
            else:
                if failures:
                    log.info("projection goes on", extra={"view": self._name, "failures": failures})
                failures = 0
                await self._wait(linger=advanced)
                continue
            await self._clock.sleep(FAILED_SECONDS)

    async def step(self) -> bool:
        """Applies the next batch; False when there was nothing to apply."""
        async with self._database.transaction() as connection:
            position = await self._locked(connection)
            events = await PostgresEventStore(connection).read_after(position, BATCH_ROWS_MAX)
            if events:
                await self._feed(connection, events)
                position = events[-1].position
                values = {"transaction_id": str(position.transaction), "sequence": position.sequence}
                await connection.execute(ADVANCE, values | {"name": self._name})
        async with self._moved:
            self.position = position
            self._moved.notify_all()
        return bool(events)

    async def wait_for(self, position: Position, seconds: float) -> bool:
        """Whether the view reached the position within the time."""
        if self.position >= position:
            return True
        self._hurried.set()
        self._nudged.set()
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: self.position >= position)
        except TimeoutError:
            return False
        return True

    async def _locked(self, connection: AsyncConnection) -> Position:
        row = (await connection.execute(LOCK, {"name": self._name})).one_or_none()
        if row is None:
            await connection.execute(ENSURE, {"name": self._name})
            row = (await connection.execute(LOCK, {"name": self._name})).one()
        return Position(*row)

    async def _feed(self, connection: AsyncConnection, events: Sequence[Recorded]) -> None:
        if not is_recording():
            await self._apply(connection, events)
            return
        traces = list(dict.fromkeys(event.traceparent for event in events if event.traceparent))
        with (
            start_root(traces[0] if traces else None),
            span(names.PROJECT, attributes={names.BATCH_NAME: self._name}, links=traces[1:]),
        ):
            await self._apply(connection, events)

    async def _wait(self, linger: bool) -> None:
        """Lingers after a round, then waits to be nudged; who waits for a position ends either."""
        if linger:
            await _set_within(self._hurried, LINGER_SECONDS)
        if not self._hurried.is_set():
            await _set_within(self._nudged, POLL_SECONDS)
        self._nudged.clear()
        self._hurried.clear()


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
