"""A circuit breaker around calls to one peer: after repeated failures it refuses at once, then tries again.

pybreaker keeps the state machine (closed, open, half-open); its own `call_async` needs tornado, so the coroutine is
awaited here while a generator stands for it inside pybreaker.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import TypeVar

import pybreaker

from libs.kernel.errors import InDoubt, Unavailable
from libs.telemetry import metrics

# Failures in a row that open the breaker, and how long it stays open before one call may try again.
FAILURES_MAX = 5
OPEN_SECONDS = 1.0

R = TypeVar("R")


class _Gauge(pybreaker.CircuitBreakerListener):
    def __init__(self, peer: str) -> None:
        self._gauge = metrics.BREAKER_OPEN.labels(peer)

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._gauge.set(0 if new_state.name == pybreaker.STATE_CLOSED else 1)


class Breaker:
    """Refuses calls to a peer that keeps failing. Only Unavailable and InDoubt count: a refusal is an answer."""

    def __init__(self, peer: str, *, failures_max: int = FAILURES_MAX, open_seconds: float = OPEN_SECONDS) -> None:
        self._peer = peer
        self._open_seconds = open_seconds
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures_max,
            reset_timeout=open_seconds,
            exclude=[lambda error: not isinstance(error, Unavailable | InDoubt)],
            listeners=[_Gauge(peer)],
            name=peer,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return self._breaker.current_state

    async def call(self, work: Callable[[], Awaitable[R]]) -> R:
        """The work's result. Raises Unavailable without working while the breaker is open."""
        try:
            guard: Generator[None, None, None] = self._breaker.call(_while_it_runs)
        except pybreaker.CircuitBreakerError:
            raise Unavailable(
                f"{self._peer} keeps failing; not asking it for a moment",
                code="breaker-open",
                retry_after_seconds=self._open_seconds,
            ) from None
        next(guard)
        try:
            result = await work()
        except BaseException as error:
            # The guard counts the error and raises it again.
            with suppress(type(error)):
                guard.throw(error)
            raise
        next(guard, None)
        return result


def _while_it_runs() -> Generator[None, None, None]:
    """Stands for the awaited work inside pybreaker, which follows generators to their end."""
    yield
