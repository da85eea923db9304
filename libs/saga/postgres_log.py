"""The saga log as two tables of the coordinating service's own database."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import Unavailable
from libs.runtime.clock import Clock
from libs.runtime.database import Database
from libs.runtime.sql import instants, integers, texts
from libs.saga.entries import AnyEntry
from libs.saga.log import RESUMED, RUNNING, UNDOING, Instance, Line, Remembered, Tail, status_after

SAGA_DDL = (
    """
    CREATE TABLE sagas (
        saga_id text PRIMARY KEY,
        saga text NOT NULL,
        version int NOT NULL,
        status text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'undoing', 'parked', 'ended')),
        input jsonb NOT NULL,
        traceparent text NOT NULL,
        started_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        outcome text NOT NULL DEFAULT '',
        parked_reason text NOT NULL DEFAULT ''
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX sagas_unfinished ON sagas (saga_id) WHERE status IN ('running', 'undoing')",
    "CREATE INDEX sagas_parked ON sagas (updated_at) WHERE status = 'parked'",
    """
    CREATE TABLE saga_log (
        saga_id text NOT NULL,
        seq int NOT NULL,
        at timestamptz NOT NULL,
        entry jsonb NOT NULL,
        PRIMARY KEY (saga_id, seq)
    )
    """,
)

# One process runs the sagas of a database; the others' orders are found by its sweep.
ADVISORY_LOCK = 0x0D0C_5A6A
TAKE_TURN_SECONDS = 1.0


# New sagas, in the transaction that decided on them; one that exists stays as it is.
START = text(
    """
    INSERT INTO sagas (saga_id, saga, version, input, traceparent, started_at, updated_at)
    SELECT saga_id, saga, version, input::jsonb, traceparent, started_at, started_at
      FROM unnest(:saga_ids, :sagas, :versions, :inputs, :traceparents, :started_at)
           AS new (saga_id, saga, version, input, traceparent, started_at)
    ON CONFLICT (saga_id) DO NOTHING
    """
).bindparams(
    *texts("saga_ids", "sagas", "inputs", "traceparents"),
    *integers("versions"),
    *instants("started_at"),
)

# Lines of many logs; a line that is there already stays as it is, and is missing from the count.
ADD_LINES = text(
    """
    INSERT INTO saga_log (saga_id, seq, at, entry)
    SELECT saga_id, seq, at, entry::jsonb
      FROM unnest(:saga_ids, :seqs, :times, :entries) AS new (saga_id, seq, at, entry)
    ON CONFLICT DO NOTHING
    """
).bindparams(
    *texts("saga_ids", "entries"),
    *integers("seqs"),
    *instants("times"),
)

# The sagas whose status these lines changed.
SET_STATUS = text(
    """
    UPDATE sagas SET status = new.status, outcome = new.outcome, parked_reason = new.parked_reason, updated_at = new.at
      FROM unnest(:saga_ids, :statuses, :outcomes, :reasons, :times)
           AS new (saga_id, status, outcome, parked_reason, at)
     WHERE sagas.saga_id = new.saga_id
    """
).bindparams(*texts("saga_ids", "statuses", "outcomes", "reasons"), *instants("times"))

# Those of these lines in whose place another one stands.
OVERTAKEN = text(
    """
    SELECT DISTINCT saga_id
      FROM unnest(:saga_ids, :seqs, :times, :entries) AS new (saga_id, seq, at, entry)
      JOIN saga_log AS kept USING (saga_id, seq)
     WHERE kept.entry <> new.entry::jsonb OR kept.at <> new.at
    """
).bindparams(*texts("saga_ids", "entries"), *integers("seqs"), *instants("times"))

# Those of these sagas that had begun to go back.
GOING_BACK = text(
    "SELECT DISTINCT saga_id FROM saga_log WHERE saga_id = ANY(:saga_ids) AND entry->>'type' = 'UndoDecided'"
).bindparams(*texts("saga_ids"))

# Ids only: the partial index holds them, and the coordinator runs most of these sagas already.
UNFINISHED = text(
    """
    SELECT saga_id FROM sagas WHERE status IN ('running', 'undoing') AND saga_id > :after
     ORDER BY saga_id LIMIT :limit
    """
)
BY_ID = text(
    """
    SELECT saga_id, saga, version, status, input::text, traceparent, started_at FROM sagas
     WHERE saga_id = ANY(:saga_ids) ORDER BY saga_id
    """
).bindparams(*texts("saga_ids"))
LINES = text(
    "SELECT saga_id, seq, at, entry::text FROM saga_log WHERE saga_id = ANY(:saga_ids) ORDER BY saga_id, seq"
).bindparams(*texts("saga_ids"))
TRY_LOCK = text("SELECT pg_try_advisory_lock(:lock)")
STILL_LOCKED = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted")

_decode_entry = msgspec.json.Decoder(AnyEntry).decode


async def start_rows(connection: AsyncConnection, instances: Sequence[Instance]) -> None:
    """Records new sagas inside the caller's transaction; run them when it has committed."""
    if instances:
        await connection.execute(
            START,
            {
                "saga_ids": [instance.saga_id for instance in instances],
                "sagas": [instance.saga for instance in instances],
                "versions": [instance.version for instance in instances],
                "inputs": [msgspec.json.encode(instance.input).decode() for instance in instances],
                "traceparents": [instance.traceparent for instance in instances],
                "started_at": [instance.started_at for instance in instances],
            },
        )


async def add_lines(connection: AsyncConnection, tails: Sequence[Tail]) -> set[str]:
    """Adds the lines and what they make of each saga's status, inside the caller's transaction.

    Or says which sagas have other lines there: then the caller rolls back.
    """
    lines = [(tail.saga_id, line) for tail in tails for line in tail.lines]
    columns = {
        "saga_ids": [saga_id for saga_id, _ in lines],
        "seqs": [line.seq for _, line in lines],
        "times": [line.at for _, line in lines],
        "entries": [msgspec.json.encode(line.entry).decode() for _, line in lines],
    }
    added = await connection.execute(ADD_LINES, columns)
    if added.rowcount < len(lines):
        # Rare: a repeat after a commit in doubt, or two coordinators.
        overtaken = set((await connection.execute(OVERTAKEN, columns)).scalars())
        if overtaken:
            return overtaken
    await _set_status(connection, tails)
    return set()


async def _set_status(connection: AsyncConnection, tails: Sequence[Tail]) -> None:
    changed = [
        (tail.saga_id, *status, tail.lines[-1].at) for tail in tails if (status := status_after(tail.lines)) is not None
    ]
    if changed:
        saga_ids, statuses, outcomes, reasons, times = map(list, zip(*changed, strict=True))
        if RESUMED in statuses:
            statuses = await _resolved(connection, saga_ids, statuses)
        await connection.execute(
            SET_STATUS,
            {"saga_ids": saga_ids, "statuses": statuses, "outcomes": outcomes, "reasons": reasons, "times": times},
        )


async def _resolved(connection: AsyncConnection, saga_ids: list[str], statuses: list[str]) -> list[str]:
    """What was resumed is where it had been before it was parked."""
    resumed = [saga_id for saga_id, status in zip(saga_ids, statuses, strict=True) if status == RESUMED]
    back = set((await connection.execute(GOING_BACK, {"saga_ids": resumed})).scalars())
    return [
        status if status != RESUMED else UNDOING if saga_id in back else RUNNING
        for saga_id, status in zip(saga_ids, statuses, strict=True)
    ]


class PostgresSagaLog:
    """`inputs` says which type each saga's input is read back as."""

    def __init__(self, database: Database, inputs: Mapping[str, type], clock: Clock) -> None:
        self._database = database
        self._inputs = inputs
        self._clock = clock

    async def write(self, tails: Sequence[Tail]) -> Collection[str]:
        overtaken: set[str] = set()
        # In one order everywhere: two coordinators that write at once must not wait for each other.
        left = sorted(tails, key=lambda tail: tail.saga_id)
        async with self._database.transaction() as connection:
            while left:
                lost = await add_lines(connection, left)
                if not lost:
                    break
                await connection.rollback()
                overtaken |= lost
                left = [tail for tail in left if tail.saga_id not in lost]
        return overtaken

    async def unfinished(self, after: str, limit: int) -> Sequence[str]:
        async with self._database.read() as connection:
            return (await connection.execute(UNFINISHED, {"after": after, "limit": limit})).scalars().all()

    async def load(self, saga_ids: Sequence[str]) -> Mapping[str, Remembered]:
        async with self._database.read() as connection:
            rows = (await connection.execute(BY_ID, {"saga_ids": list(saga_ids)})).all()
            return {one.instance.saga_id: one for one in await self._remembered(connection, rows)}

    async def _remembered(self, connection: AsyncConnection, rows: Sequence[Any]) -> list[Remembered]:
        lines: dict[str, list[Line]] = {row[0]: [] for row in rows}
        for saga_id, seq, at, entry in await connection.execute(LINES, {"saga_ids": list(lines)}):
            lines[saga_id].append(Line(seq, at, _decode_entry(entry)))
        return [
            Remembered(self._instance(saga_id, saga, version, body, traceparent, at), status, lines[saga_id])
            for saga_id, saga, version, status, body, traceparent, at in rows
        ]

    def _instance(self, saga_id: str, saga: str, version: int, body: str, traceparent: str, at: Any) -> Instance:
        return Instance(saga_id, saga, version, msgspec.json.decode(body, type=self._inputs[saga]), traceparent, at)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator["_Held"]:
        async with self._database.read() as connection:
            try:
                while not await connection.scalar(TRY_LOCK, {"lock": ADVISORY_LOCK}):
                    await self._clock.sleep(TAKE_TURN_SECONDS)
                yield _Held(self._database, connection)
            finally:
                # The lock belongs to the session: a connection that goes back to the pool must not keep it.
                await connection.invalidate()


class _Held:
    def __init__(self, database: Database, connection: AsyncConnection) -> None:
        self._database = database
        self._connection = connection

    async def check(self) -> None:
        # Not left to the block around the lock: there the loss would arrive inside a group of errors.
        with self._database.telling_failures():
            held = await self._connection.scalar(STILL_LOCKED)
        if not held:
            raise Unavailable("another process runs the sagas now")
