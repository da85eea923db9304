"""The relay: publishes the outbox in commit order, again and again until nothing is left behind.

The outbox is the truth and the broker may lose everything: the relay leaves a mark there which moves with what it
publishes. A broker whose mark is missing, or behind what was published, lost something, and is given everything again
from the last position that every consumer is known to have reached. Consumers deduplicate, so publishing twice is
harmless and publishing never is not.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Text, bindparam, text

from libs.kernel.errors import InDoubt, Unavailable
from libs.messaging.broker import Mark, Publisher, StreamsLost
from libs.messaging.event import OutgoingEvent
from libs.runtime.clock import Clock, Ids
from libs.runtime.database import Database
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.position import START, Position
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
# Events that the broker holds for its slowest consumers, about 600 bytes each; what is more waits in the outbox.
UNAPPLIED_ROWS_MAX = 100_000

BEFORE_PUBLISH, AFTER_PUBLISH = "relay.before-publish", "relay.after-publish"
declare(BEFORE_PUBLISH, AFTER_PUBLISH)

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

# How many events are published and not known to be applied, counted no further than the limit.
COUNT_UNAPPLIED = text(
    """
    SELECT count(*) FROM (
        SELECT FROM outbox, outbox_cursor AS at
         WHERE at.source = :source
           AND (outbox.transaction_id, outbox.sequence) > (at.safe_transaction_id, at.safe_sequence)
           AND (outbox.transaction_id, outbox.sequence) <= (at.transaction_id, at.sequence)
         LIMIT :limit) AS unapplied
    """
)

# A relay whose epoch is over moves nothing.
MOVE = text(
    "UPDATE outbox_cursor SET transaction_id = (:transaction_id)::text::xid8, sequence = :sequence"
    " WHERE source = :source AND epoch = :epoch"
).bindparams(*_POSITIONS)
MARK_SAFE = text(
    "UPDATE outbox_cursor SET safe_transaction_id = (:transaction_id)::text::xid8, safe_sequence = :sequence"
    " WHERE source = :source AND (safe_transaction_id, safe_sequence) < ((:transaction_id)::text::xid8, :sequence)"
).bindparams(*_POSITIONS)
BEGIN = text(
    """
    UPDATE outbox_cursor
       SET epoch = :epoch, transaction_id = safe_transaction_id, sequence = safe_sequence
     WHERE source = :source
    RETURNING safe_transaction_id::text::bigint, safe_sequence
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
class _Tail:
    """Where the streams ended when everything up to a position was published."""

    position: Position
    ends: Mapping[str, str]
    unapplied: int


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
        # What the broker must hold; None until that was found out.
        self._published: Mark | None = None
        self._safe = START
        self._unapplied = 0
        self._tail: _Tail | None = None
        self._purging = True
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
            published = self._published or await self._start()
            await self._upkeep(published)
            return await self._publish_next(published)
        except StreamsLost:
            # Another relay may have noticed as well and begun again: the database knows.
            self._published = None
            return 1

    async def _start(self) -> Mark:
        async with self._database.transaction() as connection:
            await connection.execute(ENSURE, {"source": self._source})
            row = (await connection.execute(CURSOR, {"source": self._source})).one()
            wanted = {"source": self._source, "limit": UNAPPLIED_ROWS_MAX}
            self._unapplied = (await connection.execute(COUNT_UNAPPLIED, wanted)).scalar_one()
        cursor, self._safe, epoch = Position(row[0], row[1]), Position(row[2], row[3]), row[4]
        published, found = Mark(epoch, cursor), await self._broker.mark(self._source)
        self._tail = None
        if not epoch or found is None or not found.covers(published):
            published = await self._begin_again()
        self._published = published
        return published

    async def _begin_again(self) -> Mark:
        """The broker does not hold what we published: publish everything again that a consumer may not have seen."""
        epoch = self._ids.new("epoch")
        async with self._database.transaction() as connection:
            row = (await connection.execute(BEGIN, {"source": self._source, "epoch": epoch})).one()
        self._safe, self._unapplied = Position(*row), 0
        log.warning("the broker is new to us; publishing", extra={"source": self._source, "from": str(self._safe)})
        mark = Mark(epoch, self._safe)
        await self._broker.begin(self._source, mark)
        return mark

    async def _publish_next(self, published: Mark) -> int:
        if self._unapplied >= UNAPPLIED_ROWS_MAX:
            return 0
        async with self._database.read() as connection:
            rows = (await connection.execute(READ, _values(published.position) | {"limit": BATCH_ROWS_MAX})).all()
        if not rows:
            return 0
        events = [
            OutgoingEvent(event_id, topic, type_, source, subject, time, traceparent, data)
            for _, _, event_id, topic, type_, source, subject, time, traceparent, data in rows
        ]
        cursor = Position(rows[-1][0], rows[-1][1])
        failpoint(BEFORE_PUBLISH)
        await self._publish(published, cursor, events)
        failpoint(AFTER_PUBLISH)
        self._published = Mark(published.epoch, cursor)
        self._unapplied += len(events)
        async with self._database.transaction() as connection:
            await connection.execute(MOVE, _values(cursor) | {"source": self._source, "epoch": published.epoch})
        return len(events)

    async def _publish(self, after: Mark, upto: Position, events: Sequence[OutgoingEvent]) -> None:
        if is_recording():
            traces = list(dict.fromkeys(event.traceparent for event in events if event.traceparent))
            parent, links = (traces[0], traces[1:]) if traces else (None, [])
            with span(names.PUBLISH, traceparent=parent, links=links, attributes={names.BATCH_ROWS: len(events)}):
                await self._broker.publish(self._source, after, upto, events)
        else:
            await self._broker.publish(self._source, after, upto, events)
        for event in events:
            metrics.EVENTS_PUBLISHED.labels(event.topic).inc()

    async def _upkeep(self, published: Mark) -> None:
        """Now and then: notices a loss, learns what every consumer has applied, and forgets what nobody needs."""
        if self._purging:
            await self._purge()
        now = self._clock.monotonic()
        if now < self._upkeep_due:
            return
        self._upkeep_due = now + UPKEEP_SECONDS
        found = await self._broker.mark(self._source)
        if found is None or not found.covers(published):
            raise StreamsLost(self._source)
        if self._tail is None:
            if published.position > self._safe:
                ends = await self._broker.ends(self._topics)
                self._tail = _Tail(published.position, ends, self._unapplied)
        elif await self._broker.consumed(self._tail.ends):
            await self._make_safe(self._tail)
            self._tail = None

    async def _make_safe(self, tail: _Tail) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(MARK_SAFE, _values(tail.position) | {"source": self._source})
        self._safe = tail.position
        self._unapplied -= tail.unapplied
        self._purging = True
        await self._broker.trim(tail.ends)

    async def _purge(self) -> None:
        """Deletes a part of what is not needed; the next step goes on, if that was not all."""
        async with self._database.transaction() as connection:
            deleted = await connection.execute(PURGE, _values(self._safe) | {"limit": PURGE_ROWS_MAX})
        self._purging = deleted.rowcount == PURGE_ROWS_MAX

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
