"""What a failing database means to the caller: the one table from the driver's errors to ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from libs.kernel.errors import DockyardError, Overloaded, Unavailable

# Wrong password, unknown role, unknown database.
REFUSED_STATES = ("28", "3D")
# Serialization failure, deadlock, lock timeout, statement timeout, a server that only reads (it was failed over): the
# whole transaction may simply be tried again.
RETRY_STATES = frozenset({"40001", "40P01", "55P03", "57014", "25006"})
# The schema changed under a prepared statement: the dialect has forgotten it and prepares it anew the next time.
StaleStatement = AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError
# No connection, shut down or starting up, out of memory, disk or connections, idle for too long in a transaction.
LOST_STATES = ("08", "57P", "53", "25P03", "25P04")
# A commit that was answered with one of these is known to be rolled back: a deferred constraint, a conflict.
ROLLED_BACK_STATES = ("23", "40001", "40002", "40P01")


@contextmanager
def telling_failures(name: str) -> Iterator[None]:
    """Says Unavailable, or Overloaded, where the driver speaks of connections and states."""
    try:
        yield
    except (DBAPIError, PoolTimeout, OSError) as error:
        told = failure(name, error)
        if told is None:
            raise
        raise told from error


def failure(name: str, error: DBAPIError | PoolTimeout | OSError) -> DockyardError | None:
    """What the caller may do about it; None when it is not the world's fault but stays the bug it is."""
    if isinstance(error, PoolTimeout):
        return Overloaded(f"all connections to {name} are busy", retry_after_seconds=1.0)
    if isinstance(error, TimeoutError):
        return Unavailable(f"database {name} does not answer")
    if isinstance(error, OSError):
        return Unavailable(f"database {name} cannot be reached")
    state = sqlstate(error)
    if isinstance(error.orig, StaleStatement):
        return Unavailable(f"database {name} was migrated meanwhile", code="database-busy")
    if state in RETRY_STATES:
        return Unavailable(f"database {name} asks to try again ({state})", code="database-busy")
    if state.startswith(REFUSED_STATES):
        return Unavailable(f"database {name} does not let us in ({str(error.orig).rpartition(': ')[2]})")
    if (
        error.connection_invalidated
        or isinstance(error, InterfaceError | OperationalError)
        or state.startswith(LOST_STATES)
    ):
        return Unavailable(f"the connection to {name} was lost")
    return None


def rolled_back(error: DBAPIError | OSError) -> bool:
    """Whether a failed commit is known to have kept nothing; everything else is in doubt."""
    return isinstance(error, DBAPIError) and sqlstate(error).startswith(ROLLED_BACK_STATES)


def sqlstate(error: DBAPIError) -> str:
    """The server's five letters; "" when it was the driver that failed."""
    return getattr(error.orig, "sqlstate", None) or ""
