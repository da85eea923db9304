"""`python -m dockyard.local.schemas`: migrates the databases named on standard input, all in one process.

The supervisor starts it only when a schema is behind, so that it never holds Alembic itself.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from libs.runtime.migrate import migrate


async def _migrate_all(targets: list[tuple[str, Path]]) -> None:
    # One after the other: they share a lock on each server, and the cost is the import that they share.
    for url, directory in targets:
        await migrate(url, directory)


if __name__ == "__main__":
    listed = msgspec.json.decode(sys.stdin.buffer.read(), type=list[tuple[str, str]])
    asyncio.run(_migrate_all([(url, Path(directory)) for url, directory in listed]))
