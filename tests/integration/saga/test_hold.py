"""The right to run a database's sagas: one process has it, and one that lost it hears of it as what it is."""

from pathlib import Path

import asyncpg
import pytest

import services.order
from libs.kernel.errors import Unavailable
from libs.runtime.clock import SystemClock
from libs.runtime.database import Database
from libs.saga.postgres_log import PostgresSagaLog
from tests.conftest import MakeDatabase

MIGRATIONS = Path(services.order.__path__[0]) / "migrations"


async def test_a_right_whose_connection_died_is_lost_and_can_be_taken_again(make_database: MakeDatabase) -> None:
    url = await make_database("hold", MIGRATIONS)
    database = Database.open(url, 2, "holder")
    log = PostgresSagaLog(database, {}, SystemClock())
    with pytest.raises(Unavailable):
        await held_until_killed(log, url)
    async with log.exclusive() as hold:
        await hold.check()
    await database.close()


async def held_until_killed(log: PostgresSagaLog, url: str) -> None:
    """Leaving the block over the dead connection is part of the promise: nothing but Unavailable gets out."""
    async with log.exclusive() as hold:
        await hold.check()
        await kill_connections(url)
        await hold.check()


async def kill_connections(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'holder' AND datname = current_database()"
    )
    await connection.close()
