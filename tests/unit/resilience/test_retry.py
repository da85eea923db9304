import asyncio
from collections.abc import Awaitable, Callable

import pytest

from libs.kernel.errors import DockyardError, InDoubt, Invalid, Overloaded, Refused, Unavailable
from libs.resilience.retry import retrying
from libs.runtime.clock import ManualClock


class Impatient(ManualClock):
    """Sleeping takes no time of ours, all of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)


class Peer:
    """Fails with each of these in turn, then answers "charged"."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.calls = 0

    async def charge(self) -> str:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return "charged"


async def tried(
    work: Callable[[], Awaitable[str]],
    clock: Impatient,
    *,
    idempotent: bool = False,
    attempts_max: int = 5,
    seconds_max: float = 60.0,
) -> str:
    return await retrying(work, idempotent=idempotent, attempts_max=attempts_max, seconds_max=seconds_max, clock=clock)


async def test_what_works_is_done_once() -> None:
    clock, peer = Impatient(), Peer()
    assert await tried(peer.charge, clock) == "charged"
    assert peer.calls == 1 and clock.slept == []


async def test_what_did_not_happen_is_tried_again() -> None:
    clock, peer = Impatient(), Peer(Unavailable("down"), Overloaded("busy"))
    assert await tried(peer.charge, clock) == "charged"
    assert peer.calls == 3


async def test_a_plain_function_that_returns_an_awaitable_is_work_too() -> None:
    clock, peer = Impatient(), Peer(Unavailable("down"))
    assert await tried(lambda: peer.charge(), clock) == "charged"  # noqa: PLW0108  (a lambda is the case)


@pytest.mark.parametrize("answer", [Refused("declined"), Invalid("no such card"), DockyardError("bug"), ValueError()])
async def test_an_answer_is_not_asked_for_again(answer: Exception) -> None:
    clock, peer = Impatient(), Peer(answer)
    with pytest.raises(type(answer)) as raised:
        await tried(peer.charge, clock, idempotent=True)
    assert raised.value is answer
    assert peer.calls == 1


async def test_doubt_is_cleared_up_by_asking_again_only_under_the_same_key() -> None:
    clock, peer = Impatient(), Peer(InDoubt("no answer"))
    with pytest.raises(InDoubt):
        await tried(peer.charge, clock, idempotent=False)
    assert peer.calls == 1
    assert await tried(Peer(InDoubt("no answer")).charge, clock, idempotent=True) == "charged"


async def test_attempts_end_with_the_last_error() -> None:
    clock, last = Impatient(), Unavailable("still down")
    peer = Peer(Unavailable("down"), Unavailable("down"), last, Unavailable("never asked"))
    with pytest.raises(Unavailable) as raised:
        await tried(peer.charge, clock, attempts_max=3)
    assert raised.value is last
    assert peer.calls == 3


async def test_no_attempt_begins_after_the_time_is_up() -> None:
    clock = Impatient()
    began: list[float] = []

    async def slow() -> str:
        began.append(clock.monotonic())
        clock.advance(3)
        raise Unavailable("down")

    with pytest.raises(Unavailable):
        await tried(slow, clock, attempts_max=100, seconds_max=10)
    assert len(began) in {3, 4} and all(at < 10 for at in began)


async def test_nobody_sleeps_past_the_deadline() -> None:
    clock, peer = Impatient(), Peer(Overloaded("busy", retry_after_seconds=30))
    with pytest.raises(Overloaded):
        await tried(peer.charge, clock, seconds_max=10)
    assert clock.slept == [] and peer.calls == 1


async def test_without_time_nothing_is_tried() -> None:
    peer = Peer()
    with pytest.raises(Unavailable, match="no time left"):
        await tried(peer.charge, Impatient(), seconds_max=0.0)
    assert peer.calls == 0


async def test_an_attempt_that_outlives_the_deadline_is_in_doubt() -> None:
    async def lost() -> str:
        await asyncio.Event().wait()
        return "never"

    with pytest.raises(InDoubt) as raised:
        await tried(lost, Impatient(), seconds_max=0.01)
    assert raised.value.code == "deadline-passed"


async def test_a_timeout_of_the_works_own_stays_what_it_is() -> None:
    with pytest.raises(TimeoutError):
        await tried(Peer(TimeoutError()).charge, Impatient())


async def test_who_says_when_to_come_back_is_not_asked_earlier() -> None:
    clock, peer = Impatient(), Peer(Unavailable("down", retry_after_seconds=7), Unavailable("down"))
    assert await tried(peer.charge, clock) == "charged"
    assert clock.slept[0] >= 7 > clock.slept[1]


async def test_delays_are_drawn_from_the_whole_of_a_range_that_doubles() -> None:
    """Full jitter: anything from nothing to 50, 100, 200 … ms, at most a second."""
    drawn: list[list[float]] = []
    for _ in range(60):
        clock = Impatient()
        await tried(Peer(*[Unavailable("down")] * 7).charge, clock, attempts_max=8)
        drawn.append(clock.slept)
    for number, delays in enumerate(zip(*drawn, strict=True)):
        highest = min(0.05 * 2**number, 1.0)
        assert max(delays) <= highest
        # 60 draws that all miss a quarter of the range: once in 30 million runs.
        assert min(delays) < highest / 4 and max(delays) > highest * 3 / 4


async def test_cancelling_ends_the_attempts() -> None:
    asked = asyncio.Event()
    calls = 0

    async def lost() -> str:
        nonlocal calls
        calls += 1
        asked.set()
        await asyncio.Event().wait()
        return "never"

    async with asyncio.TaskGroup() as group:
        task = group.create_task(tried(lost, Impatient(), idempotent=True))
        await asked.wait()
        task.cancel()
    assert task.cancelled() and calls == 1
