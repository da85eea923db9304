"""A circuit breaker around calls to one peer (Nygard, "Release It!"): after repeated failures it refuses at once.

pybreaker keeps the state machine. Its own `call_async` needs tornado; its context manager holds across an await just
as well.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

import pybreaker

from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import Clock, SystemClock
from libs.telemetry import metrics

# Failures in a row that open the breaker, and how long it stays open before one call may try again.
FAILURES_MAX = 5
OPEN_SECONDS = 1.0

R = TypeVar("R")


class Breaker:
    """Refuses calls to a peer that keeps failing. Only Unavailable and InDoubt count: a refusal is an answer.

    Closed, it lets everything through. `failures_max` failures in a row open it; after `open_seconds` one call at a
    time may try, and the first answer closes it again.
    """

    def __init__(
        self,
        peer: str,
        *,
        failures_max: int = FAILURES_MAX,
        open_seconds: float = OPEN_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._peer = peer
        self._memory = _Memory(clock or SystemClock())
        self._trying = False
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures_max,
            reset_timeout=open_seconds,
            exclude=[self._is_answer],
            listeners=[_Gauge(peer)],
            state_storage=self._memory,
            name=peer,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return self._breaker.current_state

    async def call(self, work: Callable[[], Awaitable[R]]) -> R:
        """The work's result. Raises Unavailable, without working, while the breaker is open."""
        if self._trying:
            raise self._refusal()
        trial = False
        try:
            with self._breaker.calling():
                trial = self._trying = self.state == pybreaker.STATE_HALF_OPEN
                return await work()
        except pybreaker.CircuitBreakerError:
            raise self._refusal() from None
        finally:
            if trial:
                self._trying = False

    def _is_answer(self, error: BaseException) -> bool:
        """Whether the peer is well, as far as this error tells. A trial that was cancelled tells nothing: not well."""
        if isinstance(error, DockyardError):
            return not isinstance(error, Unavailable | InDoubt)
        return self.state == pybreaker.STATE_CLOSED

    def _refusal(self) -> Unavailable:
        left = self._breaker.reset_timeout - self._memory.open_for_seconds()
        return Unavailable(
            f"{self._peer} keeps failing; not asking it for a moment",
            code="breaker-open",
            # A trial under way: its outcome is a moment off.
            retry_after_seconds=left if left > 0 else self._breaker.reset_timeout,
        )


class _Memory(pybreaker.CircuitMemoryStorage):
    """Remembers by a clock that never goes back when the breaker opened.

    pybreaker compares with the wall clock, and one that is set back by an hour would keep the breaker open for an
    hour. So it is told, each time, when that was on the wall clock of now.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self._clock = clock
        self._wall = SystemClock()
        self._opened: float | None = None

    def open_for_seconds(self) -> float:
        return self._clock.monotonic() - self._opened if self._opened is not None else 0.0

    @property
    def opened_at(self) -> datetime | None:
        return self._wall.now() - timedelta(seconds=self.open_for_seconds()) if self._opened is not None else None

    @opened_at.setter
    def opened_at(self, value: datetime) -> None:
        self._opened = self._clock.monotonic()


class _Gauge(pybreaker.CircuitBreakerListener):
    def __init__(self, peer: str) -> None:
        self._gauge = metrics.BREAKER_OPEN.labels(peer)
        self._gauge.set(0)

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._gauge.set(0 if new_state.name == pybreaker.STATE_CLOSED else 1)
