"""One run of a piece of work at a time for each key; whoever asks meanwhile gets the same outcome.

The work outlives its callers: one that gives up, or is cancelled, leaves it running for the next who asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from libs.kernel.errors import Overloaded

R = TypeVar("R")

# Bounds the memory of work that nobody waits for any more.
RUNNING_MAX = 4096


class SingleFlight(Generic[R]):
    def __init__(self, name: str, running_max: int = RUNNING_MAX) -> None:
        self._name = name
        self._running_max = running_max
        self._running: dict[Hashable, asyncio.Task[R]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[R]]) -> R:
        """The outcome of the running work under this key, or of `work` if none runs. Raises what it raises."""
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= self._running_max:
                raise Overloaded(
                    f"{self._name} has {self._running_max} pieces of work under way", retry_after_seconds=1.0
                )
            task = asyncio.get_running_loop().create_task(_awaited(work))
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: Hashable, task: "asyncio.Task[R]") -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # fetched, so that work nobody waits for does not complain at exit

    async def drain(self) -> None:
        """Returns when nothing runs any more."""
        while self._running:
            await asyncio.wait(list(self._running.values()))


async def _awaited(work: Callable[[], Awaitable[R]]) -> R:
    return await work()
