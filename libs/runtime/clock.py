"""Time and randomness: the only module that asks the machine for either."""

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from libs.kernel.ids import RANDOM_BYTES, sortable_id


class Clock(Protocol):
    """What time it is. `monotonic` is in seconds and never goes back; `now` is in UTC and may."""

    def now(self) -> datetime: ...
    def unix_ms(self) -> int: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until a test moves it; sleepers wake when their time comes."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def unix_ms(self) -> int:
        return int(self.now().timestamp() * 1000)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._elapsed + seconds, woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Moves time on and wakes everybody whose sleep is over, in the order in which they wanted to wake."""
        self._elapsed += seconds
        due = sorted((sleeper for sleeper in self._sleepers if sleeper[0] <= self._elapsed), key=lambda one: one[0])
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._elapsed]
        for _, woken in due:
            if not woken.done():
                woken.set_result(None)


class Ids:
    """Makes identifiers that sort by the time they were made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def new(self, prefix: str) -> str:
        return sortable_id(prefix, self._clock.unix_ms(), os.urandom(RANDOM_BYTES))
