"""Each service's own database on a server: made when missing, owned by an ordinary role of its own."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from dockyard.local.problems import EnvironmentProblem
from dockyard.local.services import SERVICES
from libs.runtime.migrate import needs_migration

OLDEST_VERSION = 140_000
CONNECT_SECONDS = 5.0
# What a database that was not made yet answers: no such database, no such role, another password, may not connect.
NOT_MADE = (
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InsufficientPrivilegeError,
)
MAY_NOT = asyncpg.InsufficientPrivilegeError


@dataclass(frozen=True, slots=True)
class Wanted:
    """A database to be there: its name, which is also its role's name, and the service that it is for."""

    service: str
    name: str
    password: str
    migrations: Path


@dataclass(frozen=True, slots=True)
class Provided:
    """The URLs by service, and the services whose schema is not the newest."""

    urls: Mapping[str, str]
    stale: frozenset[str]


def database_name(service: str, suffix: str) -> str:
    return f"dockyard_{service}{suffix}"


async def provide(admin_url: str, wanted: Sequence[Wanted]) -> Provided:
    """Makes what is missing; when nothing is, that costs one connection a service. Raises EnvironmentProblem."""
    urls = {one.service: url_of(admin_url, one.name, one.name, one.password) for one in wanted}
    stale = await _stale(admin_url, urls, wanted)
    missing = [one for one in wanted if stale[one.service] is None]
    if missing:
        urls |= await _make(admin_url, missing)
        stale |= await _stale(admin_url, {one.service: urls[one.service] for one in missing}, missing)
        unusable = sorted(service for service, found in stale.items() if found is None)
        if unusable:
            raise EnvironmentProblem(
                f"the databases of {', '.join(unusable)} exist but cannot be used with {_shown(admin_url)}: "
                f"drop them, or give their owner's URL in DOCKYARD_POSTGRES_URL"
            )
    return Provided(urls, frozenset(service for service, found in stale.items() if found))


async def _stale(admin_url: str, urls: Mapping[str, str], wanted: Sequence[Wanted]) -> dict[str, bool | None]:
    """By service whether its schema is behind; None when its database cannot be used at all."""
    found = await asyncio.gather(*(_is_stale(admin_url, urls[one.service], one.migrations) for one in wanted))
    return {one.service: stale for one, stale in zip(wanted, found, strict=True)}


async def _is_stale(admin_url: str, url: str, migrations: Path) -> bool | None:
    try:
        return await needs_migration(url, migrations)
    except NOT_MADE:
        return None
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as error:
        raise _unreachable(admin_url, error) from None


async def _make(admin_url: str, missing: Sequence[Wanted]) -> dict[str, str]:
    """Makes roles and databases; the URLs by service."""
    try:
        connection = await asyncpg.connect(admin_url, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _unreachable(admin_url, error) from None
    try:
        if connection.get_server_version().major * 10_000 < OLDEST_VERSION:
            raise EnvironmentProblem(f"{_shown(admin_url)} is too old: PostgreSQL 14 or newer is needed")
        return {one.service: await _make_one(connection, admin_url, one) for one in missing}
    finally:
        await connection.close()


async def _make_one(connection: "asyncpg.Connection[asyncpg.Record]", admin_url: str, one: Wanted) -> str:
    owner = one.name if await _make_role(connection, one) else ""
    await _make_database(connection, admin_url, one.name, owner)
    if owner:
        return url_of(admin_url, one.name, owner, one.password)
    return _with_database(admin_url, one.name)


async def _make_role(connection: "asyncpg.Connection[asyncpg.Record]", one: Wanted) -> bool:
    """Makes the service's role, or gives it our password; False when the administrator may not make roles."""
    exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", one.name)
    # Names and generated passwords hold nothing that would need quoting; DDL takes no parameters.
    verb = "ALTER" if exists else "CREATE"
    try:
        await connection.execute(f"{verb} ROLE {one.name} LOGIN PASSWORD '{one.password}'")
        # Only a member may give a database to the role.
        await connection.execute(f"GRANT {one.name} TO CURRENT_USER")
    except MAY_NOT:
        return False
    return True


async def _make_database(
    connection: "asyncpg.Connection[asyncpg.Record]", admin_url: str, name: str, owner: str
) -> None:
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
        return
    owned = f"OWNER {owner}" if owner else ""
    try:
        # The same order of text everywhere, whatever the server's own default is: page tokens depend on it.
        await connection.execute(
            f"CREATE DATABASE {name} {owned} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        await connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    except MAY_NOT:
        raise EnvironmentProblem(
            f"the user of {_shown(admin_url)} may not create databases: grant it CREATEDB, "
            f"or have {', '.join(database_name(service.name, '') for service in SERVICES)} made for it"
        ) from None


def url_of(admin_url: str, database: str, user: str, password: str) -> str:
    """The URL of a database on the administrator's server for another user."""
    parts = urlsplit(admin_url)
    where = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        ("postgresql", f"{quote(user, safe='')}:{quote(password, safe='')}@{where}", f"/{database}", parts.query, "")
    )


def _with_database(admin_url: str, database: str) -> str:
    parts = urlsplit(admin_url)
    return urlunsplit(("postgresql", parts.netloc, f"/{database}", parts.query, ""))


def _shown(url: str) -> str:
    """A URL without its secret."""
    parts = urlsplit(url)
    return f"PostgreSQL at {parts.hostname}:{parts.port or 5432} (user {parts.username})"


def _unreachable(url: str, error: BaseException) -> EnvironmentProblem:
    reason = str(error) or type(error).__name__
    return EnvironmentProblem(
        f"{_shown(url)} cannot be used ({reason}): start it, or correct or unset DOCKYARD_POSTGRES_URL"
    )
