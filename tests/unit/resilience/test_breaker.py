import asyncio

import pytest

from libs.kernel.errors import DockyardError, InDoubt, NotFound, Overloaded, Refused, Unavailable
from libs.resilience.breaker import Breaker
from libs.runtime.clock import ManualClock
from libs.telemetry import metrics, names

OPEN_SECONDS = 30.0


class Bank:
    """Answers "charged", or fails as it is told to."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.calls = 0

    async def charge(self) -> str:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return "charged"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker("bank", failures_max=3, open_seconds=OPEN_SECONDS, clock=clock)


async def fail(breaker: Breaker, bank: Bank, error: BaseException, times: int) -> None:
    bank.failure = error
    for _ in range(times):
        with pytest.raises(type(error)) as raised:
            await breaker.call(bank.charge)
        assert raised.value is error
    bank.failure = None


async def test_what_works_goes_through(breaker: Breaker, bank: Bank) -> None:
    assert await breaker.call(bank.charge) == "charged"
    assert breaker.state == "closed"


@pytest.mark.parametrize("error", [Unavailable("down"), InDoubt("lost"), Overloaded("busy")])
async def test_failures_in_a_row_open_it(breaker: Breaker, bank: Bank, error: DockyardError) -> None:
    await fail(breaker, bank, error, times=2)
    assert breaker.state == "closed"
    await fail(breaker, bank, error, times=1)
    assert breaker.state == "open"


async def test_open_it_refuses_without_asking_and_says_when_to_come_back(
    breaker: Breaker, bank: Bank, clock: ManualClock
) -> None:
    await fail(breaker, bank, Unavailable("down"), times=3)
    clock.advance(12)
    with pytest.raises(Unavailable) as refused:
        await breaker.call(bank.charge)
    assert refused.value.code == "breaker-open"
    assert refused.value.retry_after_seconds == pytest.approx(OPEN_SECONDS - 12)
    assert bank.calls == 3


@pytest.mark.parametrize("answer", [Refused("declined"), NotFound("no such account")])
async def test_a_refusal_never_opens_it(breaker: Breaker, bank: Bank, answer: DockyardError) -> None:
    await fail(breaker, bank, answer, times=20)
    assert breaker.state == "closed"


async def test_an_answer_between_failures_starts_the_count_again(breaker: Breaker, bank: Bank) -> None:
    for _ in range(5):
        await fail(breaker, bank, Unavailable("down"), times=2)
        await fail(breaker, bank, Refused("declined"), times=1)
    assert breaker.state == "closed"


async def test_after_a_while_one_answer_closes_it(breaker: Breaker, bank: Bank, clock: ManualClock) -> None:
    await fail(breaker, bank, Unavailable("down"), times=3)
    clock.advance(OPEN_SECONDS + 1)
    assert await breaker.call(bank.charge) == "charged"
    assert breaker.state == "closed"


async def test_after_a_while_one_failure_opens_it_again(breaker: Breaker, bank: Bank, clock: ManualClock) -> None:
    await fail(breaker, bank, Unavailable("down"), times=3)
    clock.advance(OPEN_SECONDS + 1)
    await fail(breaker, bank, Unavailable("still down"), times=1)
    assert breaker.state == "open"
    with pytest.raises(Unavailable) as refused:
        await breaker.call(bank.charge)
    assert refused.value.retry_after_seconds == pytest.approx(OPEN_SECONDS)


async def test_one_call_at_a_time_may_try(breaker: Breaker, bank: Bank, clock: ManualClock) -> None:
    await fail(breaker, bank, Unavailable("down"), times=3)
    clock.advance(OPEN_SECONDS + 1)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        asked.set()
        await answer.wait()
        return "charged"

    async with asyncio.TaskGroup() as group:
        trial = group.create_task(breaker.call(slow))
        await asked.wait()
        with pytest.raises(Unavailable) as refused:
            await breaker.call(bank.charge)
        assert refused.value.code == "breaker-open" and refused.value.retry_after_seconds
        answer.set()
    assert await trial == "charged"
    assert await breaker.call(bank.charge) == "charged"


async def test_a_cancelled_trial_leaves_it_open_and_the_next_one_may_try(
    breaker: Breaker, bank: Bank, clock: ManualClock
) -> None:
    await fail(breaker, bank, Unavailable("down"), times=3)
    clock.advance(OPEN_SECONDS + 1)
    asked = asyncio.Event()

    async def lost() -> str:
        asked.set()
        await asyncio.Event().wait()
        return "never"

    async with asyncio.TaskGroup() as group:
        trial = group.create_task(breaker.call(lost))
        await asked.wait()
        trial.cancel()
    assert breaker.state == "open"
    clock.advance(OPEN_SECONDS + 1)
    assert await breaker.call(bank.charge) == "charged"


async def test_callers_that_leave_do_not_open_it(breaker: Breaker, bank: Bank) -> None:
    await fail(breaker, bank, asyncio.CancelledError(), times=20)
    assert breaker.state == "closed"


async def test_calls_under_way_when_it_opens_do_not_close_it(breaker: Breaker, bank: Bank) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        asked.set()
        await answer.wait()
        return "charged"

    async with asyncio.TaskGroup() as group:
        early = group.create_task(breaker.call(slow))
        await asked.wait()
        await fail(breaker, bank, Unavailable("down"), times=3)
        answer.set()
    assert await early == "charged"
    assert breaker.state == "open"


async def test_its_state_is_a_metric(breaker: Breaker, bank: Bank, clock: ManualClock) -> None:
    def opened() -> float | None:
        return metrics.REGISTRY.get_sample_value(names.METRIC_BREAKER_OPEN, {"peer": "bank"})

    assert opened() == 0
    await fail(breaker, bank, Unavailable("down"), times=3)
    assert opened() == 1
    clock.advance(OPEN_SECONDS + 1)
    await breaker.call(bank.charge)
    assert opened() == 0
