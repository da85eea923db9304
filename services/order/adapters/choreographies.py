"""Checkouts without a coordinator, as far as their orders have heard of them. Their deadlines are the database's."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Double, Integer, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.runtime.sql import instants, texts
from services.order.choreography import Stage
from services.order.ports import ChoreographyStart, ChoreographyTurn

_SECONDS = bindparam("seconds", type_=Double)

# New ones, in the transaction that places their orders; one that exists stays as it is.
BEGIN = text(
    """
    INSERT INTO choreographies (order_id, traceparent, status, started_at, moved_at, deadline_at)
    SELECT order_id, traceparent, 'running', started_at, statement_timestamp(),
           statement_timestamp() + make_interval(secs => :seconds)
      FROM unnest(:order_ids, :traceparents, :started_at) AS new (order_id, traceparent, started_at)
    ON CONFLICT (order_id) DO NOTHING
    """
).bindparams(_SECONDS, *texts("order_ids", "traceparents"), *instants("started_at"))

# In one order everywhere, and before their orders' events are added: two transactions never wait in a circle.
LOCK = text(
    "SELECT order_id FROM choreographies WHERE order_id = ANY(:order_ids) ORDER BY order_id FOR UPDATE"
).bindparams(*texts("order_ids"))

# Each moved by what was heard of it: it has its time again, also one that was parked. What has ended stays ended.
MOVE = text(
    """
    UPDATE choreographies
       SET status = CASE status WHEN 'parked' THEN 'withdrawn' ELSE status END, parked_reason = '',
           last_event = new.event, moved_at = statement_timestamp(),
           deadline_at = statement_timestamp() + make_interval(secs => :seconds)
      FROM unnest(:order_ids, :events) AS new (order_id, event)
     WHERE choreographies.order_id = new.order_id AND status <> 'ended'
    """
).bindparams(_SECONDS, *texts("order_ids", "events"))

# What was heard of those that there are.
NOTE = text(
    """
    INSERT INTO choreography_log (order_id, at, event, detail)
    SELECT order_id, statement_timestamp(), event, detail
      FROM unnest(:order_ids, :events, :details) WITH ORDINALITY AS new (order_id, event, detail, place)
      JOIN choreographies USING (order_id)
     ORDER BY place
    """
).bindparams(*texts("order_ids", "events", "details"))

# Each where its order's own event took it.
TURN = text(
    """
    UPDATE choreographies
       SET status = new.status, parked_reason = '', last_event = coalesce(nullif(new.event, ''), last_event),
           moved_at = statement_timestamp(),
           deadline_at = statement_timestamp() + make_interval(secs => :seconds)
      FROM unnest(:order_ids, :statuses, :events) AS new (order_id, status, event)
     WHERE choreographies.order_id = new.order_id
    """
).bindparams(_SECONDS, *texts("order_ids", "statuses", "events"))

# Those that stood still for too long, longest first; none that somebody is at this moment moving.
OVERDUE = text(
    """
    SELECT order_id, status, last_event, traceparent FROM choreographies
     WHERE status IN ('running', 'withdrawn') AND deadline_at <= statement_timestamp()
     ORDER BY deadline_at LIMIT :limit
       FOR UPDATE SKIP LOCKED
    """
).bindparams(bindparam("limit", type_=Integer))
ANY_OVERDUE = text(
    """
    SELECT EXISTS (SELECT FROM choreographies
                    WHERE status IN ('running', 'withdrawn') AND deadline_at <= statement_timestamp())
    """
)
PARK = text(
    """
    UPDATE choreographies SET status = 'parked', parked_reason = new.reason, moved_at = statement_timestamp()
      FROM unnest(:order_ids, :reasons) AS new (order_id, reason)
     WHERE choreographies.order_id = new.order_id
    """
).bindparams(*texts("order_ids", "reasons"))


@dataclass(frozen=True, slots=True)
class Heard:
    """An event that shows that a checkout moves, and what it says in a word."""

    order_id: str
    event: str
    detail: str


@dataclass(frozen=True, slots=True)
class Overdue:
    order_id: str
    stage: Stage
    last_event: str
    traceparent: str


class PostgresChoreographies:
    """Choreographies inside the caller's transaction; each may stand still for `deadline_seconds`."""

    def __init__(self, connection: AsyncConnection, deadline_seconds: float) -> None:
        self._connection = connection
        self._seconds = deadline_seconds

    async def begin(self, starts: Sequence[ChoreographyStart]) -> None:
        if starts:
            await self._connection.execute(
                BEGIN,
                {
                    "order_ids": [start.order_id for start in starts],
                    "traceparents": [start.traceparent for start in starts],
                    "started_at": [start.at for start in starts],
                    "seconds": self._seconds,
                },
            )

    async def lock(self, order_ids: Collection[str]) -> None:
        if order_ids:
            await self._connection.execute(LOCK, {"order_ids": sorted(order_ids)})

    async def turn(self, turns: Sequence[ChoreographyTurn]) -> None:
        if turns:
            await self._connection.execute(
                TURN,
                {
                    "order_ids": [turn.order_id for turn in turns],
                    "statuses": [turn.stage.value for turn in turns],
                    "events": [turn.event for turn in turns],
                    "seconds": self._seconds,
                },
            )

    async def hear(self, heard: Sequence[Heard]) -> None:
        """Notes what was heard, one event of an order at most; locks what it is about."""
        if not heard:
            return
        columns = {"order_ids": [one.order_id for one in heard], "events": [one.event for one in heard]}
        await self.lock(columns["order_ids"])
        await self._connection.execute(MOVE, {**columns, "seconds": self._seconds})
        await self._connection.execute(NOTE, {**columns, "details": [one.detail for one in heard]})

    async def overdue(self, limit: int) -> Sequence[Overdue]:
        """Locks those whose deadline has passed, longest ago first."""
        rows = await self._connection.execute(OVERDUE, {"limit": limit})
        return [Overdue(order_id, Stage(status), event, trace) for order_id, status, event, trace in rows]

    async def park(self, reasons: Sequence[tuple[str, str]]) -> None:
        """Leaves each of these orders' checkouts to an operator, for this reason."""
        if reasons:
            order_ids, why = [list(column) for column in zip(*reasons, strict=True)]
            await self._connection.execute(PARK, {"order_ids": order_ids, "reasons": why})
            parked = {"order_ids": order_ids, "events": ["Parked"] * len(order_ids), "details": why}
            await self._connection.execute(NOTE, parked)
