"""The saga log in memory, for simulations; the same conformance suite as PostgreSQL's holds it to the promise."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from libs.saga.entries import UndoDecided
from libs.saga.log import ENDED, PARKED, RESUMED, RUNNING, UNDOING, Instance, Line, Remembered, Tail, status_after


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

    async def write(self, tails: Sequence[Tail]) -> Collection[str]:
        return {tail.saga_id for tail in tails if not self._added(tail)}

    def _added(self, tail: Tail) -> bool:
        kept = self._lines[tail.saga_id]
        if any(kept.get(line.seq, line) != line for line in tail.lines):
            return False
        kept.update((line.seq, line) for line in tail.lines)
        changed = status_after(tail.lines)
        if changed is not None:
            status = changed[0]
            self._status[tail.saga_id] = self._where_it_was(tail.saga_id) if status == RESUMED else status
        return True

    def _where_it_was(self, saga_id: str) -> str:
        goes_back = any(isinstance(line.entry, UndoDecided) for line in self._lines[saga_id].values())
        return UNDOING if goes_back else RUNNING

    async def unfinished(self, after: str, limit: int) -> Sequence[str]:
        ids = sorted(one for one, status in self._status.items() if status not in {ENDED, PARKED} and one > after)
        return ids[:limit]

    async def load(self, saga_ids: Sequence[str]) -> Mapping[str, Remembered]:
        return {one: self._remembered(one) for one in saga_ids if one in self._instances}

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[_Held]:
        async with self._right:
            yield _Held()

    def _remembered(self, saga_id: str) -> Remembered:
        lines = [line for _, line in sorted(self._lines[saga_id].items())]
        return Remembered(self._instances[saga_id], self._status[saga_id], lines)
