"""Retries with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015), bounded in number and in time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import Clock, SystemClock

R = TypeVar("R")


async def retrying(
    work: Callable[[], Awaitable[R]],
    *,
    idempotent: bool,
    attempts_max: int,
    seconds_max: float,
    first_delay_seconds: float = 0.05,
    delay_seconds_max: float = 1.0,
    clock: Clock | None = None,
) -> R:
    """The work's result, trying again while it is Unavailable, and while in doubt if the work is idempotent.

    `seconds_max` is all the time there is (a deadline's `remaining_seconds`): no attempt begins or goes on after it.
    An error that says when to come back is not asked earlier. Raises the last error when attempts or time are used up,
    InDoubt when time ran out during an attempt, and anything else, a refusal above all, at once.
    """
    if seconds_max <= 0:
        raise Unavailable("there is no time left to try", code="deadline-passed")
    clock = clock or SystemClock()
    ends_at = clock.monotonic() + seconds_max
    jitter = tenacity.wait_random_exponential(first_delay_seconds, delay_seconds_max)
    retry = tenacity.AsyncRetrying(
        sleep=clock.sleep,
        retry=tenacity.retry_if_exception_type((Unavailable, InDoubt) if idempotent else Unavailable),
        wait=lambda state: max(jitter(state), _asked_to_wait(state)),
        stop=lambda state: state.attempt_number >= attempts_max or clock.monotonic() + state.upcoming_sleep >= ends_at,
        reraise=True,
    )
    limit = asyncio.timeout(seconds_max)
    try:
        async with limit:
            # A loop, for tenacity called with a plain function that returns an awaitable would not await it.
            async for attempt in retry:
                with attempt:
                    return await work()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise InDoubt(f"no answer within {seconds_max:g} seconds", code="deadline-passed") from error
    raise AssertionError("tenacity ends with a result or an error")


def _asked_to_wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return (error.retry_after_seconds or 0.0) if isinstance(error, DockyardError) else 0.0
