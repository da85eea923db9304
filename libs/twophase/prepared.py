"""Prepared transactions of one PostgreSQL database: what a participant of two-phase commit votes yes with.

A prepared transaction survives its session and its server's crash, keeps its locks, and waits for COMMIT PREPARED or
ROLLBACK PREPARED, however long that takes (Gray, "Notes on Data Base Operating Systems", 1978; the abort is presumed,
as in Mohan, Lindsay and Obermarck, "Transaction Management in the R* Distributed Database Management System", 1986:
only a decision to commit is written down, so whoever finds nothing written rolls back).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import InDoubt, Overloaded, Unavailable
from libs.runtime.database import CannotStart, Database
from libs.runtime.database_failures import sqlstate
from libs.runtime.failpoints import declare, failpoint

R = TypeVar("R")

# How long a prepare waits for rows that another prepared transaction keeps; then its coordinator tries again.
LOCK_TIMEOUT_MS = 2_000
UNDEFINED_OBJECT = "42704"
TOO_MANY_PREPARED = "53200"
PREPARED_ELSEWHERE = "55000"  # somebody else is committing or rolling it back this moment

BEFORE_PREPARE, AFTER_PREPARE = "twophase.before-prepare", "twophase.after-prepare"
BEFORE_COMMIT, AFTER_COMMIT = "twophase.before-commit", "twophase.after-commit"
declare(BEFORE_PREPARE, AFTER_PREPARE, BEFORE_COMMIT, AFTER_COMMIT)

MAX_PREPARED = text("SELECT current_setting('max_prepared_transactions')::int")
EXISTS = text("SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = :gid AND database = current_database())")
# This database's own, oldest first.
OVERDUE = text(
    """
    SELECT gid FROM pg_prepared_xacts
     WHERE database = current_database() AND starts_with(gid, :prefix)
       AND prepared < now() - make_interval(secs => :seconds)
     ORDER BY prepared LIMIT :limit
    """
)


class CannotPrepare(CannotStart):
    """The server does not allow prepared transactions; the message says what to set."""


class Prepared:
    """Prepares, commits and rolls back by transaction id; `name` keeps services that share a server apart."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._prefix = f"dockyard/{name}/"

    async def check(self) -> None:
        """Returns when the server allows prepared transactions. Raises CannotPrepare, Unavailable."""
        async with self._database.read() as connection:
            allowed = await connection.scalar(MAX_PREPARED)
        if not allowed:
            raise CannotPrepare(
                f"the server of database {self._database.name} has max_prepared_transactions = 0, two-phase commit"
                " needs it: set max_prepared_transactions = 256 in postgresql.conf and restart the server"
            )

    async def prepare(
        self, transaction_id: str, work: Callable[[AsyncConnection], Awaitable[tuple[R, bool]]]
    ) -> R | None:
        """Does the work and votes: True prepares it, False commits it, because a no is final at once.

        None when an earlier try has prepared it. Raises Unavailable when nothing was kept, InDoubt when that is open.
        """
        gid = self.gid(transaction_id)
        async with self._database.read() as connection:
            if await connection.scalar(EXISTS, {"gid": gid}):
                return None
            failpoint(BEFORE_PREPARE)
            async with _begun(connection):
                answer, yes = await work(connection)
                ending = f"PREPARE TRANSACTION {_quoted(gid)}" if yes else "COMMIT"
            await _decided(connection, ending, self._database.name)
            failpoint(AFTER_PREPARE)
            return answer

    async def commit(self, transaction_id: str) -> bool:
        """Makes it final; False when there is nothing prepared under this id. Raises Unavailable or InDoubt."""
        failpoint(BEFORE_COMMIT)
        done = await self._end("COMMIT PREPARED", transaction_id)
        failpoint(AFTER_COMMIT)
        return done

    async def roll_back(self, transaction_id: str) -> bool:
        """Forgets it; False when there is nothing prepared under this id. Raises Unavailable or InDoubt."""
        return await self._end("ROLLBACK PREPARED", transaction_id)

    async def overdue(self, older_than_seconds: float, limit: int) -> Sequence[str]:
        """Transactions prepared longer ago than this, oldest first."""
        values = {"prefix": self._prefix, "seconds": older_than_seconds, "limit": limit}
        async with self._database.read() as connection:
            gids = (await connection.execute(OVERDUE, values)).scalars().all()
        return [gid.removeprefix(self._prefix) for gid in gids]

    async def _end(self, how: str, transaction_id: str) -> bool:
        try:
            async with self._database.read() as connection:
                await connection.exec_driver_sql(f"{how} {_quoted(self.gid(transaction_id))}")
        except DBAPIError as error:
            if sqlstate(error) == UNDEFINED_OBJECT:
                return False
            if sqlstate(error) == PREPARED_ELSEWHERE:
                raise Unavailable("somebody else is ending this transaction", code="database-busy") from error
            raise
        return True

    def gid(self, transaction_id: str) -> str:
        """The server's name for this transaction while it is prepared."""
        return self._prefix + transaction_id


@asynccontextmanager
async def _begun(connection: AsyncConnection) -> AsyncIterator[None]:
    """A transaction that is left open when the block ends, and rolled back when it raises."""
    await connection.exec_driver_sql("BEGIN")
    try:
        await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        yield
    except BaseException:
        try:
            await connection.exec_driver_sql("ROLLBACK")
        except (DBAPIError, OSError, TimeoutError):
            await connection.invalidate()
        raise


async def _decided(connection: AsyncConnection, ending: str, name: str) -> None:
    """Ends the open transaction; a connection lost meanwhile leaves open how it ended."""
    try:
        await connection.exec_driver_sql(ending)
    except (DBAPIError, OSError) as error:
        await connection.invalidate()
        if isinstance(error, DBAPIError) and sqlstate(error) == TOO_MANY_PREPARED:
            # The server rolled it back.
            raise Overloaded(
                f"{name} keeps as many prepared transactions as max_prepared_transactions allows",
                code="too-many-prepared",
                retry_after_seconds=0.1,
            ) from error
        raise InDoubt(f"the connection to {name} was lost while a transaction was being prepared") from error


def _quoted(gid: str) -> str:
    """A literal: this statement takes no parameters."""
    return "'" + gid.replace("'", "''") + "'"
