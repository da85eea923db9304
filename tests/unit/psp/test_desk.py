"""The processor's desk with a memory that forgets, and a clock that the test moves."""

import asyncio
from collections.abc import Sequence

import pytest

from libs.kernel.errors import Overloaded
from libs.runtime.batching import Batcher
from libs.runtime.clock import ManualClock
from services.psp.domain import FAILING_TRIES, Charge, ChargeRequest, Ending, Refund, RefundRequest, Reversal
from services.psp.entrypoints import http
from services.psp.entrypoints.http import Desk, Work


class NoMemory:
    def __init__(self) -> None:
        self.charged: list[str] = []

    async def charge(self, requests: Sequence[ChargeRequest]) -> Sequence[Charge]:
        self.charged += [request.key for request in requests]
        return [Charge("ch_1", one.key, one.reference, one.amount_minor, one.currency, 0) for one in requests]

    async def refund(self, requests: Sequence[RefundRequest]) -> Sequence[Refund]:
        return [Refund(one.key, one.charge_id, one.amount_minor) for one in requests]

    async def end(self, requests: Sequence[Ending]) -> Sequence[Charge]:
        raise NotImplementedError

    async def reverse(self, requests: Sequence[Reversal]) -> Sequence[Charge]:
        raise NotImplementedError

    async def page(self, reference: str, after: str, limit: int) -> tuple[list[Charge], str]:
        return [], ""

    async def by_key(self, key: str) -> list[Charge]:
        return []


def desk_at(clock: ManualClock, memory: NoMemory) -> Desk:
    work = Work(
        Batcher("charges", memory.charge),
        Batcher("refunds", memory.refund),
        Batcher("endings", memory.end),
        Batcher("reversals", memory.reverse),
    )
    return Desk(work, memory, clock, 1.5)


def wanted(card: str, key: str = "k") -> ChargeRequest:
    return ChargeRequest(key, key, 4900, "EUR", card)


async def test_a_slow_card_answers_when_its_time_has_come() -> None:
    clock, memory = ManualClock(), NoMemory()
    desk = desk_at(clock, memory)
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(desk.charge(wanted("tok_slow")))
        assert (await desk.charge(wanted("tok_ok", "fast"))).status_code == 201
        clock.advance(1.4)
        assert (await desk.charge(wanted("tok_ok", "fast too"))).status_code == 201
        assert memory.charged == ["fast", "fast too"]
        clock.advance(0.2)
    assert slow.result().status_code == 201
    assert memory.charged[-1] == "k"


async def test_whoever_repeats_a_slow_charge_need_not_wait_again() -> None:
    clock = ManualClock()
    desk = desk_at(clock, NoMemory())
    async with asyncio.TaskGroup() as group:
        group.create_task(desk.charge(wanted("tok_slow")))
        await asyncio.sleep(0)
        assert (await desk.charge(wanted("tok_slow"))).status_code == 201
        clock.advance(1.5)


async def test_the_memory_of_tries_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TRIES_MAX", 2)
    desk = desk_at(ManualClock(), NoMemory())
    for key in ("k1", "k2", "k3"):
        with pytest.raises(Overloaded):
            await desk.charge(wanted("tok_rate_limited", key))
    # k3 is at its second try, k1 at its first again: after one more each, one is let through.
    for _ in range(FAILING_TRIES - 1):
        for key in ("k3", "k1"):
            with pytest.raises(Overloaded):
                await desk.charge(wanted("tok_rate_limited", key))
    assert (await desk.charge(wanted("tok_rate_limited", "k3"))).status_code == 201
    with pytest.raises(Overloaded):
        await desk.charge(wanted("tok_rate_limited", "k1"))
