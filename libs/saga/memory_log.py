"""The saga log in memory, for simulations; the same conformance suite as PostgreSQL's holds it to the promise."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from libs.saga.log import ENDED, PARKED, RUNNING, Instance, Line, Remembered, Tail, status_after


class _Held:
    async def check(self) -> None:
        return None


class MemorySagaLog:
    def __init__(self) -> None:
        self._instances: dict[str, Instance] = {}
        self._lines: dict[str, dict[int, Line]] = {}
        self._status: dict[str, str] = {}
        self._right = asyncio.Lock()

    def start(self, instances: Sequence[Instance]) -> None:
        for instance in instances:
            if instance.saga_id not in self._instances:
                self._instances[instance.saga_id] = instance
                self._lines[instance.saga_id] = {}
                self._status[instance.saga_id] = RUNNING

    async def write(self, tails: Sequence[Tail]) -> None:
        for tail in tails:
            kept = self._lines[tail.saga_id]
            for line in tail.lines:
                kept.setdefault(line.seq, line)
            changed = status_after(tail.lines)
            if changed is not None:
                self._status[tail.saga_id] = changed[0]

    async def unfinished(self, after: str, limit: int) -> Sequence[Remembered]:
        ids = sorted(one for one, status in self._status.items() if status not in {ENDED, PARKED} and one > after)
        return [self._remembered(one) for one in ids[:limit]]

    async def load(self, saga_ids: Sequence[str]) -> Mapping[str, Remembered]:
        return {one: self._remembered(one) for one in saga_ids if one in self._instances}

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[_Held]:
        async with self._right:
            yield _Held()

    def _remembered(self, saga_id: str) -> Remembered:
        lines = [line for _, line in sorted(self._lines[saga_id].items())]
        return Remembered(self._instances[saga_id], self._status[saga_id], lines)
