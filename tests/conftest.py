"""Real servers for the tests: one PostgreSQL and one Redis a session, a fresh database a test."""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
import redis.asyncio as redis_client

from dockyard.local.account import server_account
from dockyard.local.options import Options
from dockyard.local.platform import Platform
from dockyard.local.ports import free_port
from dockyard.local.postgres import (
    PostgresPlan,
    find_binaries,
    initialise,
    reachable,
    start_postgres,
    stop_postgres,
)
from dockyard.local.redis import RedisPlan, find_redis, start_redis, stop_redis
from dockyard.local.services import free_offset
from libs.runtime.migrate import migrate

MakeDatabase = Callable[..., Awaitable[str]]
StartPlatform = Callable[[Options], Platform]

# What the databases of one run share: two runs on one given server do not meet.
RUN = f"{os.getpid()}_{secrets.token_hex(3)}"
ROLE = f"dockyard_test_{RUN}"
PASSWORD = secrets.token_urlsafe(16)

# Two runs at once look for free ports in different places.
FIRST_OFFSET = 2_000 + os.getpid() % 700 * 20
OFFSETS_APART = 20
REDIS_DATABASES = 16


# What tests record under these names is told when all have run: what the list is of, and how it is counted.
KILLED, EXPLORED = "killed", "explored"
TOLD = {
    KILLED: ("killed here, and ended as if nothing had happened", "failpoints, all converged"),
    EXPLORED: ("every interleaving", "models, every promise kept in each of their states"),
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Of tests that passed, in whichever process they ran."""
    passed = [report for report in terminalreporter.stats.get("passed", []) if report.when == "call"]
    for name, (what, counted) in TOLD.items():
        lines = sorted(str(value) for report in passed for key, value in report.user_properties if key == name)
        if lines:
            terminalreporter.section(what)
            for line in lines:
                terminalreporter.write_line(line)
            kinds = Counter(line.split()[0] for line in lines)
            by_kind = f": {', '.join(f'{count} {kind}' for kind, count in kinds.items())}" if len(kinds) > 1 else ""
            terminalreporter.write_line(f"{len(lines)} {counted}{by_kind}")


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A directory that the servers' account may enter (pytest's own are closed to others)."""
    directory = Path(tempfile.mkdtemp(prefix="dockyard-test-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[str]:
    """The URL of a PostgreSQL's administrator: DOCKYARD_POSTGRES_URL, or a server for this session."""
    given = os.environ.get("DOCKYARD_POSTGRES_URL")
    if given:
        yield given
        return
    account = server_account()
    binaries = reachable(find_binaries(os.environ.get("PATH", "")), account, server_directory / "installed")
    plan = PostgresPlan(
        data=server_directory / "postgres",
        log=server_directory / "postgres.log",
        port=free_port(),
        password=secrets.token_urlsafe(16),
        account=account,
    )
    initialise(binaries, plan, sync=False)
    process = start_postgres(binaries, plan)
    yield plan.admin_url
    stop_postgres(process)


@pytest.fixture(scope="session")
def redis_server(server_directory: Path) -> Iterator[str]:
    """The URL of a Redis: DOCKYARD_REDIS_URL, or a server for this session."""
    given = os.environ.get("DOCKYARD_REDIS_URL")
    if given:
        yield given
        return
    plan = RedisPlan(
        directory=server_directory, log=server_directory / "redis.log", port=free_port(), password=secrets.token_hex(16)
    )
    process = start_redis(find_redis(os.environ.get("PATH", "")), plan)
    yield plan.url
    stop_redis(process)


@pytest_asyncio.fixture
async def clean_redis(redis_server: str) -> str:
    """The URL of a Redis that holds nothing."""
    client = redis_client.Redis.from_url(redis_server)
    await client.flushdb()
    await client.aclose()
    return redis_server


@pytest.fixture(scope="session")
def ordinary_role(postgres_server: str) -> Iterator[str]:
    """A role that owns the tests' databases and may nothing else, as in production."""
    asyncio.run(_administer(postgres_server, f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"))
    yield ROLE
    asyncio.run(_drop_everything(postgres_server))


@pytest_asyncio.fixture
async def make_database(postgres_server: str, ordinary_role: str) -> AsyncIterator[MakeDatabase]:
    """`await make_database(hint, migrations_dir=None)` makes a fresh database, owned by an ordinary role; its URL.

    With a migrations directory the schema is there: it is migrated once a session and then copied.
    """
    made: list[str] = []

    async def make(hint: str, migrations_dir: Path | None = None) -> str:
        template = "template1" if migrations_dir is None else await _migrated(postgres_server, migrations_dir)
        name = f"t_{RUN}_{hint.replace('-', '_')[:24]}_{secrets.token_hex(3)}"
        await _administer(postgres_server, f"CREATE DATABASE {name} OWNER {ordinary_role} TEMPLATE {template}")
        made.append(name)
        return _url_of(postgres_server, name)

    yield make
    for name in made:
        await _drop_database(postgres_server, name)


_templates: dict[Path, str] = {}


async def _migrated(admin_url: str, directory: Path) -> str:
    if directory not in _templates:
        name = f"t_{RUN}_template_{len(_templates)}"
        await _administer(admin_url, f"CREATE DATABASE {name} OWNER {ROLE}")
        await migrate(_url_of(admin_url, name), directory)
        _templates[directory] = name
    return _templates[directory]


@pytest.fixture(scope="session")
def start_platform(server_directory: Path, postgres_server: str, redis_server: str) -> Iterator[StartPlatform]:
    """`start_platform(Options(services=("psp",), environ=…))` starts real services on the session's servers.

    Each has its own home, ports, databases and Redis database. All stop when the session ends, or when it is killed.
    """
    started: list[Platform] = []

    def start(options: Options) -> Platform:
        assert len(started) < REDIS_DATABASES - 1, "Redis has no database left; let tests share a platform"
        home = server_directory / f"platform-{len(started)}"
        offset = free_offset(FIRST_OFFSET + len(started) * OFFSETS_APART)
        redis_url = urlsplit(redis_server)._replace(path=f"/{len(started) + 1}").geturl()
        platform = Platform.open(home)
        started.append(platform)
        platform.up(
            replace(options, port_offset=offset, postgres_url=postgres_server, redis_url=redis_url), tethered=True
        )
        return platform

    yield start
    for platform in started:
        urls = platform.database_urls.values()
        platform.down()
        asyncio.run(drop_databases(postgres_server, urls))


async def drop_databases(admin_url: str, urls: Iterable[str]) -> None:
    """A server that was given is left as it was found."""
    for url in urls:
        parts = urlsplit(url)
        await _drop_database(admin_url, parts.path[1:])
        if parts.username != urlsplit(admin_url).username:
            await _administer(admin_url, f"DROP ROLE IF EXISTS {parts.username}")


async def _administer(admin_url: str, *statements: str) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _drop_database(admin_url: str, name: str) -> None:
    """Drops it if it is there, with the connections to it and with what is prepared in it."""
    connection = await asyncpg.connect(admin_url)
    try:
        prepared = await connection.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = $1", name)
    finally:
        await connection.close()
    if prepared:
        inside = urlsplit(admin_url)._replace(path=f"/{name}").geturl()
        await _administer(inside, *(f"ROLLBACK PREPARED '{gid}'" for (gid,) in prepared))
    await _administer(admin_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _drop_everything(admin_url: str) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        ours = await connection.fetch(
            "SELECT datname FROM pg_database WHERE datdba = (SELECT oid FROM pg_roles WHERE rolname = $1)", ROLE
        )
        for (name,) in ours:
            await _drop_database(admin_url, name)
        await connection.execute(f"DROP ROLE {ROLE}")
    finally:
        await connection.close()


def _url_of(admin_url: str, database: str) -> str:
    """The ordinary role's URL of a database on the administrator's server."""
    parts = urlsplit(admin_url)
    where = parts.netloc.rpartition("@")[2]
    return urlunsplit(("postgresql", f"{ROLE}:{quote(PASSWORD, safe='')}@{where}", f"/{database}", parts.query, ""))
