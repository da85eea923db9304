"""Retries with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015), bounded in number and in time."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from libs.kernel.errors import InDoubt, Unavailable

R = TypeVar("R")


async def retrying(
    work: Callable[[], Awaitable[R]],
    *,
    idempotent: bool,
    attempts_max: int,
    seconds_max: float,
    first_delay_seconds: float = 0.05,
    delay_seconds_max: float = 1.0,
) -> R:
    """The work's result, trying again while it is Unavailable, and while in doubt if the work is idempotent.

    Raises the last error when the attempts or the time are used up; anything else, a refusal above all, at once.
    """
    retry = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type((Unavailable, InDoubt) if idempotent else Unavailable),
        stop=tenacity.stop_after_attempt(attempts_max) | tenacity.stop_after_delay(seconds_max),
        wait=tenacity.wait_random_exponential(first_delay_seconds, delay_seconds_max),
        reraise=True,
    )
    async for attempt in retry:
        with attempt:
            return await work()
    raise AssertionError("tenacity ends with a result or an error")
