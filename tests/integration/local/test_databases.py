"""A database and an ordinary role for each service, on a server of ours or of somebody else's."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from dockyard.local.databases import Wanted, provide, url_of
from dockyard.local.problems import EnvironmentProblem
from libs.runtime.migrate import migrate

MIGRATION = """
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE lamps (name text)")
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "0001_lamps.py").write_text(MIGRATION)
    return tmp_path


@pytest.fixture
def unique() -> str:
    return f"t_{secrets.token_hex(4)}"


@pytest_asyncio.fixture
async def admin(postgres_server: str, unique: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """The administrator; whatever is named after `unique` is dropped afterwards."""
    connection = await asyncpg.connect(postgres_server)
    yield connection
    for (name,) in await connection.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", unique):
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    roles = await connection.fetch("SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", unique)
    for (name,) in roles:
        await connection.execute(f"DROP OWNED BY {name}")
    for (name,) in roles:
        await connection.execute(f"DROP ROLE {name}")
    await connection.close()


@pytest.fixture
def wanted(unique: str, migrations: Path) -> list[Wanted]:
    return [Wanted(name, f"{unique}_{name}", f"secret-of-{name}", migrations) for name in ("lamps", "desks")]


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def test_each_service_owns_its_database_and_cannot_see_the_others(
    admin: "asyncpg.Connection[asyncpg.Record]", postgres_server: str, wanted: list[Wanted]
) -> None:
    provided = await provide(postgres_server, wanted)

    assert provided.stale == {"lamps", "desks"}
    assert await ask(provided.urls["lamps"], "SELECT NOT rolsuper FROM pg_roles WHERE rolname = current_user")
    assert await ask(provided.urls["lamps"], "SHOW lc_collate") == "C" if await _has_lc_collate(admin) else True
    lamps, desks = wanted
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(url_of(postgres_server, desks.name, lamps.name, lamps.password))


async def _has_lc_collate(admin: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Removed as a setting in PostgreSQL 16."""
    return bool(await admin.fetchval("SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'lc_collate')"))


async def test_what_is_there_is_left_alone_and_its_schema_is_looked_at(
    admin: "asyncpg.Connection[asyncpg.Record]", postgres_server: str, wanted: list[Wanted], migrations: Path
) -> None:
    urls = (await provide(postgres_server, wanted)).urls
    await migrate(urls["lamps"], migrations)
    again = await provide(postgres_server, wanted)
    assert again.urls == urls
    assert again.stale == {"desks"}


async def test_a_role_whose_password_was_lost_is_given_ours(
    admin: "asyncpg.Connection[asyncpg.Record]", postgres_server: str, wanted: list[Wanted]
) -> None:
    await provide(postgres_server, wanted)
    another_home = [replace(one, password="new") for one in wanted]
    provided = await provide(postgres_server, another_home)
    assert await ask(provided.urls["lamps"], "SELECT 1") == 1


async def helper(admin: "asyncpg.Connection[asyncpg.Record]", postgres_server: str, name: str, rights: str) -> str:
    """The URL of an administrator with fewer rights."""
    await admin.execute(f"CREATE ROLE {name} LOGIN {rights} PASSWORD 'secret'")
    return url_of(postgres_server, "postgres", name, "secret")


async def test_an_administrator_who_is_no_superuser_will_do(
    admin: "asyncpg.Connection[asyncpg.Record]",
    postgres_server: str,
    unique: str,
    wanted: list[Wanted],
    migrations: Path,
) -> None:
    url = await helper(admin, postgres_server, f"{unique}_z_admin", "CREATEDB CREATEROLE")
    provided = await provide(url, wanted)
    await migrate(provided.urls["lamps"], migrations)
    assert await ask(provided.urls["lamps"], "SELECT current_user::text") == f"{unique}_lamps"


async def test_without_the_right_to_make_roles_the_urls_user_owns_the_databases(
    admin: "asyncpg.Connection[asyncpg.Record]",
    postgres_server: str,
    unique: str,
    wanted: list[Wanted],
    migrations: Path,
) -> None:
    url = await helper(admin, postgres_server, f"{unique}_z_maker", "CREATEDB")
    first = await provide(url, wanted)
    await migrate(first.urls["lamps"], migrations)
    assert await ask(first.urls["lamps"], "SELECT current_user::text") == f"{unique}_z_maker"
    assert await provide(url, wanted) == replace(first, stale=frozenset({"desks"}))


async def test_without_the_right_to_make_databases_it_is_said_what_to_do(
    admin: "asyncpg.Connection[asyncpg.Record]", postgres_server: str, unique: str, wanted: list[Wanted]
) -> None:
    url = await helper(admin, postgres_server, f"{unique}_z_nobody", "NOCREATEDB")
    with pytest.raises(EnvironmentProblem, match=r"may not create databases: grant it CREATEDB"):
        await provide(url, wanted)


async def test_a_server_that_is_not_there_is_one_clear_sentence_without_the_password(wanted: list[Wanted]) -> None:
    with pytest.raises(EnvironmentProblem, match="start it, or correct or unset DOCKYARD_POSTGRES_URL") as raised:
        await provide("postgresql://me:hidden@127.0.0.1:1/postgres", wanted)
    assert "hidden" not in str(raised.value)
    assert "127.0.0.1:1 (user me)" in str(raised.value)


async def test_a_wrong_password_is_one_clear_sentence(
    admin: "asyncpg.Connection[asyncpg.Record]", postgres_server: str, wanted: list[Wanted]
) -> None:
    wrong = url_of(postgres_server, "postgres", "nobody_at_all", "hidden")
    with pytest.raises(EnvironmentProblem, match="password authentication failed"):
        await provide(wrong, wanted)


async def test_two_at_once_do_not_hinder_each_other(
    admin: "asyncpg.Connection[asyncpg.Record]", postgres_server: str, wanted: list[Wanted]
) -> None:
    await provide(postgres_server, wanted)
    both = await asyncio.gather(provide(postgres_server, wanted), provide(postgres_server, wanted))
    assert both[0] == both[1]
