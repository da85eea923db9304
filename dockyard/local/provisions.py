"""What services find when they start: a database each, its schema the newest, and a broker that answers."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import msgspec

from dockyard.local.children import Program, start
from dockyard.local.databases import Wanted, database_name, provide
from dockyard.local.home import Home
from dockyard.local.keeper import Exits
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.services import SERVICES
from dockyard.local.state import Kept
from dockyard.local.waiting import last_words

MIGRATIONS = {service.name: service.migrations for service in SERVICES}
REDIS_ANSWER_SECONDS = 5.0


class Provisions:
    """Makes databases and brings their schemas up to date."""

    def __init__(self, home: Home, exits: Exits, report: Callable[[str], None]) -> None:
        self._home = home
        self._exits = exits
        self._report = report

    def with_passwords(self, kept: Kept, names: Sequence[str]) -> Kept:
        """The same with a password for every service's role."""
        fresh = {name: secrets.token_urlsafe(24) for name in names if name not in kept.role_passwords}
        return replace(kept, role_passwords=kept.role_passwords | fresh)

    async def provide(
        self, admin_url: str, names: Sequence[str], passwords: Mapping[str, str], suffix: str
    ) -> Mapping[str, str]:
        """The database URLs by service, with the newest schema. Raises EnvironmentProblem."""
        wanted = [Wanted(name, database_name(name, suffix), passwords[name], MIGRATIONS[name]) for name in names]
        provided = await provide(admin_url, wanted)
        if provided.stale:
            self._report("migrating " + ", ".join(sorted(provided.stale)))
            await self._migrate([(provided.urls[name], str(MIGRATIONS[name])) for name in sorted(provided.stale)])
        return provided.urls

    async def _migrate(self, targets: Sequence[tuple[str, str]]) -> None:
        """All in one other process: Alembic is imported once, and not by us."""
        process = start(
            Program(
                argv=[sys.executable, "-P", "-m", "dockyard.local.schemas"],
                log=self._home.log("migrations"),
                on_orphaned=signal.SIGKILL,
                environ=os.environ,
                directory=self._home.path,
                stdin=msgspec.json.encode(targets).decode(),
            )
        )
        try:
            code = await self._exits.of(process)
        finally:
            # A migration is one transaction: an interrupted one left nothing.
            if process.poll() is None:
                process.kill()
                process.wait()
        if code != 0:
            log = self._home.log("migrations")
            raise EnvironmentProblem(f"the schemas could not be migrated: {last_words(log)} (see {log})")


async def check_redis(url: str) -> None:
    """Raises EnvironmentProblem unless a Redis answers there."""
    import redis.asyncio
    import redis.exceptions

    try:
        async with asyncio.timeout(REDIS_ANSWER_SECONDS), redis.asyncio.Redis.from_url(url) as client:
            await client.ping()
    except (redis.exceptions.RedisError, OSError, TimeoutError, ValueError) as error:
        parts = urlsplit(url)
        raise EnvironmentProblem(
            f"Redis at {parts.hostname}:{parts.port or 6379} cannot be used ({str(error) or type(error).__name__}): "
            f"start it, or correct or unset DOCKYARD_REDIS_URL"
        ) from None
