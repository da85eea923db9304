"""One service's PostgreSQL: transactions, reads, and what a failure means to the caller.

Connections come from SQLAlchemy's pool on asyncpg. The pool does not reset connections on return: that would be a
second round trip for each transaction, and every path below ends its transaction itself.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from libs.kernel.errors import InDoubt
from libs.runtime.database_failures import rolled_back, sqlstate, telling_failures
from libs.runtime.migrate import head
from libs.telemetry import names
from libs.telemetry.tracing import current_traceparent, is_recording, span

# No statement of a service runs longer; a batch takes a few milliseconds.
STATEMENT_TIMEOUT_MS = 10_000
# No batch waits longer for another's row.
LOCK_TIMEOUT_MS = 5_000
# A transaction that its process forgot is ended by the server.
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000
# The server ends every statement before this. A server that hangs, or a network that swallows, does not: then we do.
ANSWER_SECONDS = STATEMENT_TIMEOUT_MS / 1000 + 2
CONNECT_SECONDS = 5.0
POOL_WAIT_SECONDS = 5.0

UNDEFINED_TABLE = "42P01"

VERSION = text("SELECT version_num FROM alembic_version")
ALIVE = text("SELECT 1")


class CannotStart(Exception):
    """The environment does not let this process start; the message says what to do."""


class SchemaStale(CannotStart):
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
                "command_timeout": ANSWER_SECONDS,
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

    def telling_failures(self) -> AbstractContextManager[None]:
        """Says Unavailable, or Overloaded, where the driver speaks of connections and states."""
        return telling_failures(self.name)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        with self.telling_failures():
            async with self._connected(self._engine) as connection:
                try:
                    yield connection
                except BaseException as error:
                    await _roll_back(connection, error)
                    raise
                await self._commit(connection)

    async def _commit(self, connection: AsyncConnection) -> None:
        try:
            await connection.commit()
        except (DBAPIError, OSError) as error:
            if rolled_back(error):
                raise
            await connection.invalidate()
            raise InDoubt(f"the connection to {self.name} was lost during a commit") from error

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Returns the connection to the pool without asking the server anything: all is ended by then.

        SQLAlchemy's own block does it in a task, in case that takes long: 17 µs and a turn of the loop.
        """
        connection = await engine.connect()
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that commits each statement by itself. Raises Unavailable."""
        with self.telling_failures(), self._traced(names.SQL_STATEMENTS):
            async with self._connected(self._autocommit) as connection:
                try:
                    yield connection
                except TimeoutError:
                    await connection.invalidate()
                    raise

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
                if sqlstate(error) != UNDEFINED_TABLE:
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


async def _roll_back(connection: AsyncConnection, error: BaseException) -> None:
    """Leaves nothing open; whatever fails here is less than the error that is being told, and does not hide it."""
    if isinstance(error, TimeoutError):
        # The driver is still waiting for its answer: this connection cannot be asked anything more.
        await connection.invalidate()
        return
    try:
        await connection.rollback()
    except (DBAPIError, OSError):
        await connection.invalidate()
