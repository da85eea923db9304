"""Prepared transactions on a real PostgreSQL: a vote survives, an outcome comes once, what is forgotten is found."""

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from dockyard.local.account import server_account
from dockyard.local.ports import free_port
from dockyard.local.postgres import (
    PostgresPlan,
    find_binaries,
    initialise,
    reachable,
    start_postgres,
    stop_postgres,
)
from libs.kernel.errors import Refused, Unavailable
from libs.runtime.database import Database
from libs.twophase.prepared import CannotPrepare, Prepared
from tests.conftest import MakeDatabase


@pytest_asyncio.fixture
async def database(make_database: MakeDatabase) -> AsyncIterator[Database]:
    database = Database.open(await make_database("prepared"), 4, "test")
    async with database.transaction() as connection:
        await connection.execute(text("CREATE TABLE votes (name text PRIMARY KEY)"))
    yield database
    await database.close()


@pytest.fixture
def prepared(database: Database) -> Prepared:
    return Prepared(database, "test")


async def write(connection: AsyncConnection, name: str, *, yes: bool = True) -> tuple[str, bool]:
    await connection.execute(text("INSERT INTO votes VALUES (:name)"), {"name": name})
    return name, yes


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(text("SELECT name FROM votes ORDER BY 1"))).scalars())


async def test_what_is_prepared_is_seen_once_it_is_committed(database: Database, prepared: Prepared) -> None:
    assert await prepared.prepare("o1", lambda connection: write(connection, "lamp")) == "lamp"
    assert await names(database) == []
    assert await prepared.commit("o1") is True
    assert await names(database) == ["lamp"]
    assert await prepared.commit("o1") is False


async def test_what_is_rolled_back_never_was(database: Database, prepared: Prepared) -> None:
    await prepared.prepare("o1", lambda connection: write(connection, "lamp"))
    assert await prepared.roll_back("o1") is True
    assert await prepared.roll_back("o1") is False
    assert await names(database) == []


async def test_a_vote_that_was_given_is_not_given_again(prepared: Prepared) -> None:
    assert await prepared.prepare("o1", lambda connection: write(connection, "lamp")) == "lamp"
    assert await prepared.prepare("o1", lambda connection: write(connection, "rope")) is None
    await prepared.roll_back("o1")


async def test_a_no_is_final_at_once_and_keeps_what_was_written(database: Database, prepared: Prepared) -> None:
    assert await prepared.prepare("o1", lambda connection: write(connection, "no", yes=False)) == "no"
    assert await names(database) == ["no"]
    assert await prepared.commit("o1") is False


async def test_work_that_fails_keeps_nothing(database: Database, prepared: Prepared) -> None:
    async def refuse(connection: AsyncConnection) -> tuple[str, bool]:
        await write(connection, "lamp")
        raise Refused("none left")

    with pytest.raises(Refused):
        await prepared.prepare("o1", refuse)
    assert await names(database) == []
    assert await prepared.commit("o1") is False


async def test_who_waits_for_what_is_prepared_is_told_to_come_back(prepared: Prepared) -> None:
    await prepared.prepare("o1", lambda connection: write(connection, "lamp"))
    with pytest.raises(Unavailable):
        await prepared.prepare("o2", lambda connection: write(connection, "lamp"))
    await prepared.roll_back("o1")
    assert await prepared.prepare("o2", lambda connection: write(connection, "lamp")) == "lamp"
    await prepared.roll_back("o2")


async def test_what_nobody_decides_is_found(database: Database, prepared: Prepared) -> None:
    await prepared.prepare("o1", lambda connection: write(connection, "lamp"))
    assert await prepared.overdue(0.0, 10) == ["o1"]
    assert await prepared.overdue(60.0, 10) == []
    assert await Prepared(database, "another").overdue(0.0, 10) == []
    await prepared.roll_back("o1")


async def test_a_server_that_allows_prepared_transactions_will_do(prepared: Prepared) -> None:
    await prepared.check()


@pytest_asyncio.fixture
async def reluctant(server_directory: Path) -> AsyncIterator[Database]:
    """A server as PostgreSQL comes: it allows no prepared transactions."""
    account = server_account()
    home = server_directory / "reluctant"
    binaries = reachable(find_binaries(os.environ.get("PATH", "")), account, server_directory / "installed")
    plan = PostgresPlan(
        data=home,
        log=server_directory / "reluctant.log",
        port=free_port(),
        password=secrets.token_urlsafe(16),
        account=account,
        settings=(("max_prepared_transactions", "0"),),
    )
    initialise(binaries, plan, sync=False)
    process = start_postgres(binaries, plan)
    database = Database.open(plan.admin_url, 1, "test")
    yield database
    await database.close()
    stop_postgres(process)


async def test_a_server_that_allows_none_is_one_sentence(reluctant: Database) -> None:
    with pytest.raises(CannotPrepare, match="set max_prepared_transactions = 256"):
        await Prepared(reluctant, "test").check()
