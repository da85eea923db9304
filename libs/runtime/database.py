"""One service's PostgreSQL: transactions, reads, and what a failure means to the caller.

Connections come from SQLAlchemy's pool on asyncpg. The pool does not reset connections on return: that would be a
second round trip for each transaction, and every path below ends its transaction itself.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from libs.kernel.errors import InDoubt, Overloaded, Unavailable
from libs.runtime.migrate import head
from libs.telemetry import names
from libs.telemetry.tracing import current_traceparent, is_recording, span

# No statement of a service runs longer; a batch takes a few milliseconds.
STATEMENT_TIMEOUT_MS = 10_000
# No batch waits longer for another's row.
LOCK_TIMEOUT_MS = 5_000
# A transaction that its process forgot is ended by the server.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000
CONNECT_SECONDS = 5.0
POOL_WAIT_SECONDS = 5.0
# SQLSTATE classes after which the whole transaction may simply be tried again.
RETRY_STATES = frozenset({"40001", "40P01", "55P03", "57014"})

# Wrong password, unknown role, unknown database.
REFUSED_STATES = ("28", "3D")

VERSION = text("SELECT version_num FROM alembic_version")
ALIVE = text("SELECT 1")


class SchemaStale(Exception):
    """The database's schema is not the one this code was written for."""


class Database:
    """Transactions and reads on one database, through a bounded pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    @classmethod
    def open(cls, url: str, pool_size: int, application_name: str) -> "Database":
        """Opens nothing yet: the first use connects."""
        engine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_WAIT_SECONDS,
            pool_reset_on_return=None,
            pool_use_lifo=True,
            connect_args={
                "timeout": CONNECT_SECONDS,
                "server_settings": {
                    "application_name": application_name,
                    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                    "lock_timeout": str(LOCK_TIMEOUT_MS),
                    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
                    "jit": "off",
                },
            },
        )
        return cls(engine)

    @property
    def name(self) -> str:
        return self._engine.url.database or ""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises Unavailable when nothing was kept, InDoubt when the connection was lost during the commit.
        """
        with self._traced(names.SQL_TRANSACTION):
            async with self._transaction() as connection:
                yield connection

    def _traced(self, name: str) -> AbstractContextManager[object]:
        """A span where there is a trace to belong to: what loops do by themselves would be a trace each."""
        if not (is_recording() and current_traceparent()):
            return nullcontext()
        return span(name, attributes={names.DB_SYSTEM: "postgresql", names.DB_NAME: self.name})

    @contextmanager
    def telling_failures(self) -> Iterator[None]:
        """Says Unavailable, or Overloaded, where the driver speaks of connections and states."""
        try:
            yield
        except (DBAPIError, PoolTimeout, OSError, TimeoutError) as error:
            raise _failure(self.name, error) from error

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with self.telling_failures():
            async with self._engine.connect() as connection:
                # The block's own errors roll back here, before the connection goes back to the pool.
                try:
                    yield connection
                except BaseException:
                    await connection.rollback()
                    raise
                try:
                    await connection.commit()
                except (DBAPIError, OSError) as error:
                    raise InDoubt(f"the connection to {self.name} was lost during a commit") from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that commits each statement by itself. Raises Unavailable."""
        with self.telling_failures(), self._traced(names.SQL_STATEMENTS):
            async with self._autocommit.connect() as connection:
                yield connection

    async def ping(self) -> None:
        """Returns when the database answers. Raises Unavailable."""
        async with self.read() as connection:
            await connection.execute(ALIVE)

    async def check_schema(self, migrations: Path) -> None:
        """Returns when the schema is the one this code needs. Raises SchemaStale, Unavailable."""
        wanted = head(migrations)
        async with self.read() as connection:
            try:
                found = await connection.scalar(VERSION)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", "") != "42P01":
                    raise
                found = None
        if found != wanted:
            service = migrations.parent.name
            raise SchemaStale(
                f"the schema of database {self.name} is at {found or 'nothing'}, this code needs {wanted}: "
                f"run `python -m services.{service}.main migrate`"
            )

    async def close(self) -> None:
        await self._engine.dispose()


def _failure(name: str, error: BaseException) -> Exception:
    """What the caller may do about it; anything that is not the world's fault stays the bug it is."""
    if isinstance(error, PoolTimeout):
        return Overloaded(f"all connections to {name} are busy", retry_after_seconds=1.0)
    if isinstance(error, OSError | TimeoutError | asyncio.TimeoutError):
        return Unavailable(f"database {name} cannot be reached")
    assert isinstance(error, DBAPIError)
    state = getattr(error.orig, "sqlstate", None) or ""
    if state in RETRY_STATES:
        return Unavailable(f"database {name} asks to try again ({state})", code="database-busy")
    if state.startswith(REFUSED_STATES):
        return Unavailable(f"database {name} does not let us in ({str(error.orig).rpartition(': ')[2]})")
    if (
        error.connection_invalidated
        or isinstance(error, InterfaceError | OperationalError)
        or state.startswith(("08", "57P", "53"))
    ):
        return Unavailable(f"the connection to {name} was lost")
    return error
