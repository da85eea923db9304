"""A consumer: what arrives is deduplicated, applied and acknowledged, in that order, a batch at a time."""

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import LargeBinary, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import InDoubt, Unavailable
from libs.messaging.broker import Subscriber
from libs.messaging.event import Delivery
from libs.runtime.ablation import without
from libs.runtime.clock import Clock
from libs.runtime.database import Database
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.sql import texts
from libs.telemetry import metrics, names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import is_recording, span

INBOX_DDL = (
    """
    CREATE TABLE inbox (
        consumer_group text NOT NULL,
        event_id text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer_group, event_id)
    )
    """,
    "CREATE INDEX inbox_by_age ON inbox (received_at)",
    # Messages given up on, and those behind them that must wait for them, in order.
    """
    CREATE TABLE parked_messages (
        consumer_group text NOT NULL,
        number bigint GENERATED ALWAYS AS IDENTITY,
        subject text NOT NULL,
        event_id text NOT NULL,
        topic text NOT NULL,
        type text NOT NULL,
        traceparent text NOT NULL,
        data bytea NOT NULL,
        error text NOT NULL,
        parked_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer_group, event_id)
    )
    """,
    "CREATE INDEX parked_messages_by_subject ON parked_messages (consumer_group, subject)",
)

# Messages of one stream in one transaction.
BATCH_ROWS_MAX = 200
BLOCK_SECONDS = 2.0
FAILED_SECONDS_MAX = 5.0
# How often one message may fail before it is parked, and how long between its tries.
ATTEMPTS_MAX = 5
RETRY_SECONDS = 0.2
# The relay publishes again what is not known to be applied: after a day that has long been settled.
INBOX_RETENTION_HOURS = 24
PURGE_ROWS_MAX = 5000
UPKEEP_SECONDS = 30.0

log = get_logger(__name__)

# Remembers each event; those that were there already were applied before.
RECEIVE = text(
    """
    INSERT INTO inbox (consumer_group, event_id)
    SELECT :consumer_group, event_id FROM unnest(:event_ids) AS new (event_id) ORDER BY event_id
    ON CONFLICT DO NOTHING
    RETURNING event_id
    """
).bindparams(bindparam("consumer_group", type_=Text), *texts("event_ids"))

PARKED_SUBJECTS = text("SELECT DISTINCT subject FROM parked_messages WHERE consumer_group = :consumer_group")
# Keeps what could not be applied, once; what was applied before its subject was parked is only a repeat.
PARK = text(
    """
    INSERT INTO parked_messages (consumer_group, subject, event_id, topic, type, traceparent, data, error)
    SELECT :consumer_group, :subject, :event_id, :topic, :type, :traceparent, :data, :error
     WHERE NOT EXISTS (SELECT FROM inbox WHERE consumer_group = :consumer_group AND event_id = :event_id)
    ON CONFLICT DO NOTHING
    """
).bindparams(
    *(
        bindparam(name, type_=Text)
        for name in ("consumer_group", "subject", "event_id", "topic", "type", "traceparent", "error")
    ),
    bindparam("data", type_=LargeBinary),
)
PURGE = text(
    """
    DELETE FROM inbox WHERE (consumer_group, event_id) IN (
        SELECT consumer_group, event_id FROM inbox
         WHERE received_at < now() - make_interval(hours => :hours) LIMIT :limit)
    """
)

Apply = Callable[[AsyncConnection, Sequence[Delivery]], Awaitable[None]]


def failpoints_of(group: str) -> tuple[str, ...]:
    """Every place where a consumer of this group can be killed: around the commit of an effect."""
    return (f"consumer.before-commit:{group}", f"consumer.after-commit:{group}")


class Consumer:
    """One consumer of a group; `run` until cancelled.

    Deduplication, effect and outgoing events are one transaction; the acknowledgement comes after it. A message that
    keeps failing is parked and blocks only its own subject: what follows on that subject is parked behind it, in order.
    Events that it is not concerned with are passed over. `after_commit` is told of each transaction that had an effect.
    """

    def __init__(  # noqa: PLR0913  (what is consumed, from where, and what for)
        self,
        database: Database,
        broker: Subscriber,
        group: str,
        topics: Sequence[str],
        apply: Apply,
        clock: Clock,
        *,
        concerns: Callable[[Delivery], bool] = lambda _: True,
        name: str = "local",
        after_commit: Callable[[], None] = lambda: None,
    ) -> None:
        declare(*failpoints_of(group))
        self._database = database
        self._after_commit = after_commit
        self._broker = broker
        self._group = group
        self._topics = topics
        self._apply = apply
        self._clock = clock
        self._name = name
        self._concerns = concerns
        self._parked: set[str] | None = None
        self._resuming = True
        self._upkeep_due = 0.0

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                await self.step(BLOCK_SECONDS)
            except (Unavailable, InDoubt) as error:
                failures += 1
                if failures == 1:
                    log.warning("consuming is held up", extra={"group": self._group, "error": error.message})
                await self._clock.sleep(min(0.1 * 2**failures, FAILED_SECONDS_MAX))
                continue
            if failures:
                log.info("consuming goes on", extra={"group": self._group, "failures": failures})
            failures = 0

    async def step(self, seconds: float) -> int:
        """Takes and applies the next batch; returns how many messages it held. Raises Unavailable or InDoubt."""
        await self._upkeep()
        if self._resuming:
            unfinished = await self._broker.resume(self._group, self._name, self._topics, BATCH_ROWS_MAX)
            if unfinished:
                return await self._finish(unfinished)
        # Until it is acknowledged, what was read is read again before anything that comes behind it.
        self._resuming = True
        fresh = await self._broker.read(self._group, self._name, self._topics, BATCH_ROWS_MAX, seconds)
        await self._finish(fresh)
        self._resuming = False
        return len(fresh)

    async def _finish(self, deliveries: Sequence[Delivery]) -> int:
        if deliveries:
            # What is of no interest need not be remembered either: it is only acknowledged.
            await self._consume([delivery for delivery in deliveries if self._concerns(delivery)])
            await self._broker.acknowledge(self._group, deliveries)
        return len(deliveries)

    async def _consume(self, deliveries: Sequence[Delivery]) -> None:
        parked = await self._parked_subjects()
        behind = [delivery for delivery in deliveries if delivery.subject in parked]
        ready = [delivery for delivery in deliveries if delivery.subject not in parked]
        try:
            await self._apply_batch(ready)
        except (Unavailable, InDoubt):
            raise
        except Exception:  # noqa: BLE001  (any bug in an effect: found message by message below, and reported there)
            log.info("a batch failed; trying its messages one by one", extra={"group": self._group})
            for delivery in ready:
                await self._consume_one(delivery)
        for delivery in behind:
            await self._park(delivery, "waits behind a parked message of its subject")

    async def _consume_one(self, delivery: Delivery) -> None:
        if delivery.subject in await self._parked_subjects():
            await self._park(delivery, "waits behind a parked message of its subject")
            return
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                await self._apply_batch([delivery])
            except (Unavailable, InDoubt):
                raise
            except Exception as error:  # the outermost loop of a message: it is parked with what went wrong
                if attempt == ATTEMPTS_MAX:
                    log.exception("message parked", extra={"group": self._group, "event_id": delivery.id})
                    await self._park(delivery, f"{type(error).__name__}: {error}")
                    return
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    async def _apply_batch(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        async with self._database.transaction() as connection:
            wanted = {"consumer_group": self._group, "event_ids": [delivery.id for delivery in deliveries]}
            new = set((await connection.execute(RECEIVE, wanted)).scalars())
            fresh: list[Delivery] = []
            if without("inbox"):
                fresh, new = list(deliveries), set()
            for delivery in deliveries:
                if delivery.id in new:
                    new.discard(delivery.id)  # a second copy in one batch is a repeat as well
                    fresh.append(delivery)
            if fresh:
                await self._effect(connection, fresh)
                failpoint(f"consumer.before-commit:{self._group}")
        if fresh:
            failpoint(f"consumer.after-commit:{self._group}")
            self._after_commit()
        for delivery in fresh:
            metrics.EVENTS_CONSUMED.labels(self._group, delivery.topic).inc()

    async def _effect(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        if is_recording():
            for delivery in deliveries:
                attributes = {names.MESSAGE_ID: delivery.id, names.MESSAGE_TYPE: delivery.type}
                with span(names.CONSUME, traceparent=delivery.traceparent or None, attributes=attributes):
                    pass
        await self._apply(connection, deliveries)

    async def _parked_subjects(self) -> set[str]:
        if self._parked is None:
            async with self._database.read() as connection:
                rows = await connection.execute(PARKED_SUBJECTS, {"consumer_group": self._group})
                self._parked = set(rows.scalars())
        return self._parked

    async def _park(self, delivery: Delivery, error: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(
                PARK,
                {
                    "consumer_group": self._group,
                    "subject": delivery.subject,
                    "event_id": delivery.id,
                    "topic": delivery.topic,
                    "type": delivery.type,
                    "traceparent": delivery.traceparent,
                    "data": delivery.data,
                    "error": error[:1000],
                },
            )
        metrics.EVENTS_PARKED.labels(self._group).inc()
        (await self._parked_subjects()).add(delivery.subject)

    async def _upkeep(self) -> None:
        now = self._clock.monotonic()
        if now < self._upkeep_due:
            return
        self._resuming = True  # also takes over what a dead consumer left
        self._parked = None  # an operator may have let a subject go
        async with self._database.transaction() as connection:
            purged = await connection.execute(PURGE, {"hours": INBOX_RETENTION_HOURS, "limit": PURGE_ROWS_MAX})
        # A full purge leaves more to do: the next step goes on.
        self._upkeep_due = now if purged.rowcount == PURGE_ROWS_MAX else now + UPKEEP_SECONDS
