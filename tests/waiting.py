"""Waiting for what sets no event here: another process, or a database's clock."""

import asyncio
from collections.abc import Awaitable, Callable

EVERY_SECONDS = 0.01


async def until(found: Callable[[], Awaitable[object]], seconds: float = 5) -> None:
    """Returns when there is something to be found. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await found():  # noqa: ASYNC110  (nobody here could set an event)
            await asyncio.sleep(EVERY_SECONDS)
