"""The barrier as one table of the participant's own database."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.runtime.ablation import without
from libs.runtime.sql import binaries, texts
from libs.tcc.barrier import Claim, Entry, First, Key, Operation, Row, check_batch, do_key, read_claim

BARRIER_DDL = (
    """
    CREATE TABLE barrier (
        transaction_id text NOT NULL,
        step text NOT NULL,
        operation text NOT NULL CHECK (operation IN ('do', 'undo')),
        fingerprint bytea NOT NULL,
        answer bytea,
        inserted_by text NOT NULL CHECK (inserted_by IN ('do', 'undo')),
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (transaction_id, step, operation)
    ) WITH (fillfactor = 70)
    """,
)

# Effects that are held or prepared are confirmed as well, and their rows say which they were.
CONFIRM_DDL = (
    """
    ALTER TABLE barrier
     DROP CONSTRAINT barrier_operation_check, DROP CONSTRAINT barrier_inserted_by_check,
      ADD CONSTRAINT barrier_operation_check CHECK (operation IN ('do', 'undo', 'confirm')),
      ADD CONSTRAINT barrier_inserted_by_check CHECK (inserted_by IN ('do', 'undo', 'confirm')),
      ADD COLUMN manner text NOT NULL DEFAULT 'at-once' CHECK (manner IN ('at-once', 'hold', 'prepare'))
    """,
)

# Claims each row that nobody has; in key order, so two batches never wait for each other in a circle.
CLAIM = text(
    """
    INSERT INTO barrier (transaction_id, step, operation, fingerprint, answer, inserted_by, manner)
    SELECT * FROM unnest(:transaction_ids, :steps, :operations, :fingerprints, :answers, :inserted_by, :manners)
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
    RETURNING transaction_id, step, operation
    """
).bindparams(
    *texts("transaction_ids", "steps", "operations", "inserted_by", "manners"), *binaries("fingerprints", "answers")
)

# The rows that were there before.
EXISTING = text(
    """
    SELECT transaction_id, step, operation, fingerprint, answer, inserted_by
      FROM barrier JOIN unnest(:transaction_ids, :steps, :operations) AS asked (transaction_id, step, operation)
           USING (transaction_id, step, operation)
    """
).bindparams(*texts("transaction_ids", "steps", "operations"))

# Keeps what each effect answered.
ANSWER = text(
    """
    UPDATE barrier SET answer = given.answer
      FROM unnest(:transaction_ids, :steps, :operations, :answers)
           AS given (transaction_id, step, operation, answer)
     WHERE (barrier.transaction_id, barrier.step, barrier.operation)
         = (given.transaction_id, given.step, given.operation)
    """
).bindparams(*texts("transaction_ids", "steps", "operations"), *binaries("answers"))


class PostgresBarrier:
    """Claims and answers on the caller's connection, inside the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(self, entries: Sequence[Entry]) -> Sequence[Claim]:
        if not entries:
            return []
        check_batch(entries)
        if without("barrier"):
            return [First() for _ in entries]
        wanted = [(entry, entry.key.operation) for entry in entries]
        wanted += [
            (Entry(do_key(entry.key), b""), Operation.UNDO)
            for entry in entries
            if entry.key.operation is Operation.UNDO
        ]
        inserted = await self._insert(wanted)
        existing = await self._existing([entry.key for entry, _ in wanted if entry.key not in inserted])
        return [
            read_claim(
                entry,
                entry.key in inserted,
                do_key(entry.key) in inserted,
                existing.get(entry.key),
                existing.get(do_key(entry.key)),
            )
            for entry in entries
        ]

    async def answer(self, answers: Sequence[tuple[Key, bytes]]) -> None:
        if answers:
            columns = _key_columns([key for key, _ in answers])
            await self._connection.execute(ANSWER, {**columns, "answers": [answer for _, answer in answers]})

    async def _insert(self, wanted: Sequence[tuple[Entry, Operation]]) -> set[Key]:
        rows = await self._connection.execute(
            CLAIM,
            {
                **_key_columns([entry.key for entry, _ in wanted]),
                "fingerprints": [entry.fingerprint for entry, _ in wanted],
                "answers": [entry.answer for entry, _ in wanted],
                "inserted_by": [operation.value for _, operation in wanted],
                "manners": [entry.manner.value for entry, _ in wanted],
            },
        )
        return {Key(transaction_id, step, Operation(operation)) for transaction_id, step, operation in rows}

    async def _existing(self, keys: Sequence[Key]) -> dict[Key, Row]:
        if not keys:
            return {}
        rows = await self._connection.execute(EXISTING, _key_columns(keys))
        return {
            Key(transaction_id, step, Operation(operation)): Row(fingerprint, answer, Operation(inserted_by))
            for transaction_id, step, operation, fingerprint, answer, inserted_by in rows
        }


def _key_columns(keys: Sequence[Key]) -> dict[str, list[str]]:
    return {
        "transaction_ids": [key.transaction_id for key in keys],
        "steps": [key.step for key in keys],
        "operations": [key.operation.value for key in keys],
    }
