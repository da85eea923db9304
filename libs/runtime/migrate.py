"""Brings a database to the schema its service's code needs, with Alembic, one runner at a time."""

import re
from pathlib import Path

# Everybody who migrates any database of ours takes this lock first.
ADVISORY_LOCK = 0x0D0C_5CA1E
_REVISION = re.compile(r'^revision = "([^"]+)"$', re.MULTILINE)
_DOWN_REVISION = re.compile(r'^down_revision = "([^"]+)"$', re.MULTILINE)


def head(directory: Path) -> str:
    """The newest revision among the scripts in `directory`/versions, without importing any of them."""
    scripts = [path.read_text() for path in sorted((directory / "versions").glob("[0-9]*.py"))]
    revisions = {match.group(1) for script in scripts if (match := _REVISION.search(script))}
    parents = {match.group(1) for script in scripts if (match := _DOWN_REVISION.search(script))}
    heads = revisions - parents
    assert len(heads) == 1, f"{directory} has {len(heads)} heads: {sorted(heads)}"
    return heads.pop()


async def needs_migration(url: str, directory: Path) -> bool:
    """Whether the database at `url` is not at the newest revision; cheap, imports no Alembic."""
    import asyncpg  # noqa: PLC0415  (keeps the import of this module free of drivers)

    connection = await asyncpg.connect(url)
    try:
        exists = await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
        found = await connection.fetchval("SELECT version_num FROM alembic_version") if exists else None
    finally:
        await connection.close()
    return bool(found != head(directory))


async def migrate(url: str, directory: Path) -> None:
    """Upgrades the database at `url` to the newest revision, in one transaction."""
    from alembic.migration import MigrationContext  # noqa: PLC0415  (a service that serves never needs Alembic)
    from alembic.operations import Operations  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from sqlalchemy import Connection, text  # noqa: PLC0415
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    scripts = ScriptDirectory(str(directory))

    def upgrade(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
        context = MigrationContext.configure(
            connection,
            opts={"fn": lambda revision, _: scripts._upgrade_revs("head", revision)},
        )
        with Operations.context(context):
            context.run_migrations()

    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()
