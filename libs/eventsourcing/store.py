"""An event store: append with an expected version, load streams, read everything in the order of commits."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import BigInteger, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.runtime.position import Position
from libs.runtime.sql import instants, integers, texts

EVENTS_DDL = (
    """
    CREATE TABLE streams (
        stream_id text PRIMARY KEY,
        version int NOT NULL
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE events (
        transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
        sequence bigint GENERATED ALWAYS AS IDENTITY,
        stream_id text NOT NULL,
        version int NOT NULL,
        type text NOT NULL,
        data jsonb NOT NULL,
        traceparent text NOT NULL,
        recorded_at timestamptz NOT NULL,
        PRIMARY KEY (stream_id, version)
    )
    """,
    "CREATE UNIQUE INDEX events_in_commit_order ON events (transaction_id, sequence)",
)

# Moves each stream from its expected version on and adds its events; a stream that is elsewhere by now adds nothing
# and is missing from the answer. Streams are taken in order of their ids, so two batches never wait in a circle.
APPEND = text(
    """
    WITH asked AS (
        SELECT * FROM unnest(:stream_ids, :expected, :counts) AS asked (stream_id, expected, count)
    ), opened AS (
        INSERT INTO streams (stream_id, version)
        SELECT stream_id, count FROM asked WHERE expected = 0 ORDER BY stream_id
        ON CONFLICT DO NOTHING
        RETURNING stream_id
    ), locked AS (
        SELECT stream_id FROM streams JOIN asked USING (stream_id)
         WHERE asked.expected > 0 ORDER BY stream_id FOR UPDATE OF streams
    ), moved AS (
        UPDATE streams SET version = streams.version + asked.count
          FROM asked JOIN locked USING (stream_id)
         WHERE streams.stream_id = asked.stream_id AND streams.version = asked.expected
        RETURNING streams.stream_id
    ), winners AS (
        SELECT stream_id FROM opened UNION ALL SELECT stream_id FROM moved
    ), added AS (
        INSERT INTO events (stream_id, version, type, data, traceparent, recorded_at)
        SELECT event.stream_id, event.version, event.type, event.data::jsonb, event.traceparent, event.recorded_at
          FROM unnest(:event_stream_ids, :versions, :types, :data, :traceparents, :recorded_at)
               AS event (stream_id, version, type, data, traceparent, recorded_at)
          JOIN winners USING (stream_id)
         ORDER BY event.stream_id, event.version
        RETURNING stream_id, transaction_id, sequence
    )
    SELECT stream_id, transaction_id::text::bigint, max(sequence) FROM added GROUP BY stream_id, transaction_id
    """
).bindparams(
    *texts("stream_ids", "event_stream_ids", "types", "data", "traceparents"),
    *integers("expected", "counts", "versions"),
    *instants("recorded_at"),
)

_COLUMNS = (
    "SELECT transaction_id::text::bigint, sequence, stream_id, version, type, data::text, traceparent, recorded_at"
    " FROM events"
)

# Whole streams, oldest event first.
LOAD = text(_COLUMNS + " WHERE stream_id = ANY(:stream_ids) ORDER BY stream_id, version").bindparams(
    *texts("stream_ids")
)

# What was committed after a position, in commit order, as far as nothing older can still appear.
READ_AFTER = text(
    _COLUMNS
    + """
     WHERE (transaction_id, sequence) > ((:transaction_id)::text::xid8, :sequence)
       AND transaction_id < (SELECT dockyard_horizon())
     ORDER BY transaction_id, sequence LIMIT :limit
    """
).bindparams(bindparam("transaction_id", type_=Text), bindparam("sequence", type_=BigInteger))


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to store: its name, its data as JSON, when it happened, and the trace it happened in."""

    type: str
    data: bytes
    recorded_at: datetime
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Append:
    """Events for one stream that must be at `expected_version` now; 0 means it does not exist yet."""

    stream_id: str
    expected_version: int
    events: Sequence[NewEvent]


@dataclass(frozen=True, slots=True)
class Appended:
    version: int
    position: Position


@dataclass(frozen=True, slots=True)
class WrongVersion:
    """The stream was not where it was expected; nothing was added to it."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored event."""

    position: Position
    stream_id: str
    version: int
    type: str
    data: str
    traceparent: str
    recorded_at: datetime


class EventStore(Protocol):
    async def append(self, appends: Sequence[Append]) -> Sequence[Appended | WrongVersion]:
        """Adds to many streams at once; a stream at another version refuses itself alone."""
        ...

    async def load(self, stream_ids: Collection[str]) -> Mapping[str, Sequence[Recorded]]:
        """Every event of each stream that exists, oldest first."""
        ...

    async def read_after(self, position: Position, limit: int) -> Sequence[Recorded]:
        """What was committed after a position, in commit order, never skipping what commits later."""
        ...


class PostgresEventStore:
    """The event store inside the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(self, appends: Sequence[Append]) -> Sequence[Appended | WrongVersion]:
        if not appends:
            return []
        assert len({append.stream_id for append in appends}) == len(appends), "a stream appears twice in one append"
        assert all(append.events for append in appends), "an append without events"
        rows = await self._connection.execute(APPEND, _append_columns(appends))
        positions = {stream_id: Position(transaction, sequence) for stream_id, transaction, sequence in rows}
        return [_outcome(append, positions) for append in appends]

    async def load(self, stream_ids: Collection[str]) -> Mapping[str, Sequence[Recorded]]:
        streams: dict[str, list[Recorded]] = {}
        if stream_ids:
            for event in _recorded(await self._connection.execute(LOAD, {"stream_ids": list(stream_ids)})):
                streams.setdefault(event.stream_id, []).append(event)
        return streams

    async def read_after(self, position: Position, limit: int) -> Sequence[Recorded]:
        rows = await self._connection.execute(
            READ_AFTER, {"transaction_id": str(position.transaction), "sequence": position.sequence, "limit": limit}
        )
        return _recorded(rows)


def _append_columns(appends: Sequence[Append]) -> dict[str, list[object]]:
    events = [
        (append.stream_id, append.expected_version + number, event)
        for append in appends
        for number, event in enumerate(append.events, start=1)
    ]
    return {
        "stream_ids": [append.stream_id for append in appends],
        "expected": [append.expected_version for append in appends],
        "counts": [len(append.events) for append in appends],
        "event_stream_ids": [stream_id for stream_id, _, _ in events],
        "versions": [version for _, version, _ in events],
        "types": [event.type for _, _, event in events],
        "data": [event.data.decode() for _, _, event in events],
        "traceparents": [event.traceparent for _, _, event in events],
        "recorded_at": [event.recorded_at for _, _, event in events],
    }


def _outcome(append: Append, positions: Mapping[str, Position]) -> Appended | WrongVersion:
    position = positions.get(append.stream_id)
    if position is None:
        return WrongVersion(append.stream_id)
    return Appended(append.expected_version + len(append.events), position)


def _recorded(rows: object) -> list[Recorded]:
    return [
        Recorded(Position(transaction, sequence), stream_id, version, type_, data, traceparent, recorded_at)
        for transaction, sequence, stream_id, version, type_, data, traceparent, recorded_at in rows  # type: ignore[attr-defined]  # rows are untyped
    ]
