"""The relay: publishes the outbox in commit order, again and again until nothing is left behind.

The outbox is the truth and the broker may lose everything: each relay marks the broker with an epoch, and a broker
that does not know it any more is given everything again from the last position that every consumer is known to have
reached. Consumers deduplicate, so publishing twice is harmless and publishing never is not.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Text, bindparam, text

from libs.kernel.errors import InDoubt, Unavailable
from libs.messaging.broker import Publisher, StreamsLost
from libs.messaging.event import OutgoingEvent
from libs.runtime.clock import Clock, Ids
from libs.runtime.database import Database
from libs.runtime.position import Position
from libs.telemetry import metrics, names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import is_recording, span

# Events in one pipeline: bounds one message to the broker to a few hundred kilobytes.
BATCH_ROWS_MAX = 500
# How long an idle relay sleeps when nobody nudges it (another process may have written).
POLL_SECONDS = 0.5
FAILED_SECONDS_MAX = 5.0
# How long events collect after a round, so that a busy relay sends a few dozen at a time.
LINGER_SECONDS = 0.03
# How often the relay asks whether the consumers have caught up, and whether the broker still knows it.
UPKEEP_SECONDS = 2.0
# One purge deletes at most this many rows, so that it never holds up the writers.
PURGE_ROWS_MAX = 5000

log = get_logger(__name__)

ENSURE = text("INSERT INTO outbox_cursor (source) VALUES (:source) ON CONFLICT DO NOTHING")
CURSOR = text(
    """
    SELECT transaction_id::text::bigint, sequence, safe_transaction_id::text::bigint, safe_sequence, epoch
      FROM outbox_cursor WHERE source = :source
    """
)

# What was committed after the cursor, in commit order, as far as nothing older can still appear.
READ = text(
    """
    SELECT transaction_id::text::bigint, sequence, event_id, topic, type, source, subject, time, traceparent, data
      FROM outbox
     WHERE (transaction_id, sequence) > ((:transaction_id)::text::xid8, :sequence)
       AND transaction_id < (SELECT dockyard_horizon())
     ORDER BY transaction_id, sequence LIMIT :limit
    """
).bindparams(bindparam("transaction_id", type_=Text), bindparam("sequence", type_=BigInteger))

_POSITIONS = (bindparam("transaction_id", type_=Text), bindparam("sequence", type_=BigInteger))

MOVE = text(
    "UPDATE outbox_cursor SET transaction_id = (:transaction_id)::text::xid8, sequence = :sequence"
    " WHERE source = :source"
).bindparams(*_POSITIONS)
MARK_SAFE = text(
    "UPDATE outbox_cursor SET safe_transaction_id = (:transaction_id)::text::xid8, safe_sequence = :sequence"
    " WHERE source = :source"
).bindparams(*_POSITIONS)
BEGIN = text(
    """
    UPDATE outbox_cursor
       SET epoch = :epoch, transaction_id = safe_transaction_id, sequence = safe_sequence
     WHERE source = :source
    """
)

# Rows that every consumer has applied are not needed any more.
PURGE = text(
    """
    DELETE FROM outbox WHERE (transaction_id, sequence) IN (
        SELECT transaction_id, sequence FROM outbox
         WHERE (transaction_id, sequence) <= ((:transaction_id)::text::xid8, :sequence)
         ORDER BY transaction_id, sequence LIMIT :limit)
    """
).bindparams(*_POSITIONS)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A position, and where the streams ended when everything up to it was published."""

    position: Position
    ends: Mapping[str, str]


class Relay:
    """Publishes one service's outbox; `run` until cancelled.

    Two relays of one outbox are wasteful and harmless: each publishes in order, and consumers take the first copy.
    """

    def __init__(
        self, database: Database, broker: Publisher, source: str, topics: Sequence[str], clock: Clock, ids: Ids
    ) -> None:
        self._database = database
        self._broker = broker
        self._source = source
        self._topics = topics
        self._clock = clock
        self._ids = ids
        self._nudged = asyncio.Event()
        self._cursor = Position(0, 0)
        self._safe = Position(0, 0)
        self._epoch = ""
        self._mark: _Mark | None = None
        self._upkeep_due = 0.0

    def nudge(self) -> None:
        """Something was committed: look now."""
        self._nudged.set()

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                published = await self.step()
            except (Unavailable, InDoubt) as error:
                failures += 1
                if failures == 1:
                    log.warning("publishing is held up", extra={"source": self._source, "error": error.message})
                await self._clock.sleep(min(0.1 * 2**failures, FAILED_SECONDS_MAX))
                continue
            if failures:
                log.info("publishing goes on", extra={"source": self._source, "failures": failures})
            failures = 0
            if published:
                await self._clock.sleep(LINGER_SECONDS)
            if published < BATCH_ROWS_MAX:
                await self._wait()

    async def step(self) -> int:
        """Publishes the next events; returns how many. Raises Unavailable or InDoubt, and may then be repeated."""
        try:
            if not self._epoch:
                await self._start()
            await self._upkeep()
            return await self._publish_next()
        except StreamsLost:
            await self._begin_again()
            return 1

    async def _start(self) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(ENSURE, {"source": self._source})
            row = (await connection.execute(CURSOR, {"source": self._source})).one()
        self._cursor, self._safe, epoch = Position(row[0], row[1]), Position(row[2], row[3]), row[4]
        if not epoch or await self._broker.current_epoch(self._source) != epoch:
            await self._begin_again()
        else:
            self._epoch = epoch

    async def _begin_again(self) -> None:
        """The broker does not know us: publish everything again that a consumer may not have seen."""
        epoch = self._ids.new("epoch")
        log.warning(
            "the broker is new to us; publishing again", extra={"source": self._source, "from": str(self._safe)}
        )
        async with self._database.transaction() as connection:
            await connection.execute(BEGIN, {"source": self._source, "epoch": epoch})
        await self._broker.begin(self._source, epoch)
        self._epoch, self._cursor, self._mark = epoch, self._safe, None

    async def _publish_next(self) -> int:
        async with self._database.read() as connection:
            rows = (await connection.execute(READ, _values(self._cursor) | {"limit": BATCH_ROWS_MAX})).all()
        if not rows:
            return 0
        events = [
            OutgoingEvent(event_id, topic, type_, source, subject, time, traceparent, data)
            for _, _, event_id, topic, type_, source, subject, time, traceparent, data in rows
        ]
        await self._publish(events)
        self._cursor = Position(rows[-1][0], rows[-1][1])
        async with self._database.transaction() as connection:
            await connection.execute(MOVE, _values(self._cursor) | {"source": self._source})
        return len(events)

    async def _publish(self, events: Sequence[OutgoingEvent]) -> None:
        if is_recording():
            traces = list(dict.fromkeys(event.traceparent for event in events if event.traceparent))
            parent, links = (traces[0], traces[1:]) if traces else (None, [])
            with span(names.PUBLISH, traceparent=parent, links=links, attributes={names.BATCH_ROWS: len(events)}):
                await self._broker.publish(self._source, self._epoch, events)
        else:
            await self._broker.publish(self._source, self._epoch, events)
        for event in events:
            metrics.EVENTS_PUBLISHED.labels(event.topic).inc()

    async def _upkeep(self) -> None:
        """Now and then: notices a loss, learns what every consumer has applied, and forgets what nobody needs."""
        now = self._clock.monotonic()
        if now < self._upkeep_due:
            return
        self._upkeep_due = now + UPKEEP_SECONDS
        if await self._broker.current_epoch(self._source) != self._epoch:
            raise StreamsLost(self._source)
        if self._mark is None:
            if self._cursor > self._safe:
                self._mark = _Mark(self._cursor, await self._broker.ends(self._topics))
        elif await self._broker.consumed(self._mark.ends):
            await self._make_safe(self._mark)
            self._mark = None

    async def _make_safe(self, mark: _Mark) -> None:
        values = _values(mark.position)
        async with self._database.transaction() as connection:
            await connection.execute(MARK_SAFE, values | {"source": self._source})
            await connection.execute(PURGE, values | {"limit": PURGE_ROWS_MAX})
        self._safe = mark.position
        await self._broker.trim(mark.ends)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._nudged.wait()
        except TimeoutError:
            return
        finally:
            self._nudged.clear()


def _values(position: Position) -> dict[str, object]:
    return {"transaction_id": str(position.transaction), "sequence": position.sequence}
