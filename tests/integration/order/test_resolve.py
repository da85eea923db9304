"""What became of an order, asked by its participants: only what is committed is answered, and asking fixes it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from libs.coordination.outcomes import Outcome
from libs.runtime import ablation
from libs.runtime.clock import SystemClock
from libs.saga.calls import CommandContext, Participant
from libs.saga.definition import Command
from libs.saga.executor import Executor
from libs.saga.postgres_log import PostgresSagaLog
from services.order.adapters.local import OrderParticipant
from services.order.adapters.naive import NaiveRunner
from services.order.domain import CHOREOGRAPHED, COORDINATIONS, TCC, TWO_PHASE
from services.order.handlers import Confirm, EndUnconfirmed, Ship, change_orders
from services.order.main import Runners
from services.order.saga import INPUTS, SAGAS
from tests.integration.order.bureau import NOON, TRACE, Bureau

HOLDING = (TCC, TWO_PHASE)
CONFIRM, CANCEL, UNDECIDED = Outcome.CONFIRM, Outcome.CANCEL, Outcome.UNDECIDED


async def resolve(bureau: Bureau, *order_ids: str) -> list[Outcome]:
    return list(await bureau.coordinator.resolve(order_ids))


async def test_decided_orders_are_answered_and_left_as_they_are(bureau: Bureau) -> None:
    for order_id in ("confirmed", "shipped", "rejected", "cancelling"):
        await bureau.place(order_id, TCC)
    for order_id in ("confirmed", "shipped", "cancelling"):
        await bureau.confirm(order_id)
    await bureau.change(Ship("shipped", "shp_1", NOON))
    await bureau.change(EndUnconfirmed("rejected", "card-declined", "", NOON))
    await bureau.cancel("cancelling")
    ((before,),) = await bureau.rows("SELECT count(*) FROM events")
    assert await resolve(bureau, "confirmed", "shipped", "rejected", "cancelling") == [
        CONFIRM,
        CONFIRM,
        CANCEL,
        CONFIRM,
    ]
    ((after,),) = await bureau.rows("SELECT count(*) FROM events")
    assert before == after


async def test_an_order_that_is_not_known_was_never_placed(bureau: Bureau) -> None:
    assert await resolve(bureau, "nobody's") == [CANCEL]


@pytest.mark.parametrize("style", COORDINATIONS)
async def test_an_undecided_order_is_withdrawn_before_the_answer_and_never_confirmed(
    style: str, bureau: Bureau
) -> None:
    await bureau.place("o1", style)
    assert await resolve(bureau, "o1") == [CANCEL]
    assert await bureau.events("o1") == ["OrderPlaced", "CheckoutWithdrawn"]
    assert await bureau.confirm("o1") == "lease-ended"
    assert await bureau.withdrawals() == (["o1 lease-ended"] if style == CHOREOGRAPHED else [])


async def test_a_cancellation_that_was_asked_for_is_a_decision(bureau: Bureau) -> None:
    await bureau.place("o1", TCC)
    await bureau.cancel("o1")
    assert await resolve(bureau, "o1") == [CANCEL]
    assert await bureau.events("o1") == ["OrderPlaced", "CancelRequested"]


async def test_who_asks_again_or_twice_at_once_hears_the_same(bureau: Bureau, replica: Bureau) -> None:
    for order_id in ("o1", "o2"):
        await bureau.place(order_id, TCC)
    await bureau.confirm("o2")
    asked = ("o1", "o2", "o1")
    answers = await asyncio.gather(resolve(bureau, *asked), resolve(replica, *asked), resolve(bureau, *asked))
    # A rival for the same withdrawal may leave one of them without an answer; never with another.
    assert {answer[1] for answer in answers} == {CONFIRM}
    assert {answer[0] for answer in answers} <= {CANCEL, UNDECIDED}
    assert await resolve(bureau, *asked) == [CANCEL, CONFIRM, CANCEL]
    assert await bureau.events("o1") == ["OrderPlaced", "CheckoutWithdrawn"]


async def test_a_confirmation_under_way_is_waited_for(bureau: Bureau, replica: Bureau) -> None:
    await bureau.place("o1", TCC)
    async with asyncio.TaskGroup() as group, bureau.database.transaction() as connection:
        await change_orders(bureau.units.joining(connection), [Confirm("o1", NOON, TRACE)])
        asked = group.create_task(resolve(replica, "o1"))
        await bureau.until_somebody_waits()
        assert not asked.done()
    assert asked.result() == [CONFIRM]
    assert await bureau.events("o1") == ["OrderPlaced", "OrderConfirmed"]


async def test_a_confirmation_under_way_that_is_lost_leaves_the_order_to_the_asking(
    bureau: Bureau, replica: Bureau
) -> None:
    await bureau.place("o1", TCC)
    async with asyncio.TaskGroup() as group, bureau.database.transaction() as connection:
        await change_orders(bureau.units.joining(connection), [Confirm("o1", NOON, TRACE)])
        asked = group.create_task(resolve(replica, "o1"))
        await bureau.until_somebody_waits()
        await connection.rollback()
    assert asked.result() == [CANCEL]
    assert await bureau.confirm("o1") == "lease-ended"


async def test_whoever_is_faster_everybody_hears_one_outcome(bureau: Bureau, replica: Bureau) -> None:
    order_ids = [f"o{number}" for number in range(30)]
    for order_id in order_ids:
        await bureau.place(order_id, TCC)
    early, late = order_ids[:15], order_ids[15:]
    await asyncio.gather(
        *(bureau.confirm(order_id) for order_id in order_ids),
        resolve(bureau, *early),
        resolve(replica, *late),
        resolve(replica, *early),
    )
    answers = dict(zip(order_ids, await resolve(bureau, *order_ids), strict=True))
    for order_id, answer in answers.items():
        confirmed = "OrderConfirmed" in await bureau.events(order_id)
        assert answer is (CONFIRM if confirmed else CANCEL), order_id


async def test_what_cannot_be_written_down_is_not_decided(bureau: Bureau) -> None:
    await bureau.place("o1", TCC)
    await bureau.changing.drain()
    assert await resolve(bureau, "o1") == [UNDECIDED]
    assert await bureau.events("o1") == ["OrderPlaced"]


async def test_without_the_decision_log_it_answers_and_forgets(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "LEFT_OUT", frozenset({"decision-log"}))
    await bureau.place("o1", TCC)
    assert await resolve(bureau, "o1") == [CANCEL]
    assert await bureau.confirm("o1") == "confirmed"


# With the executor at work.


@dataclass
class Holder:
    """All participants: what they were told; somebody may do something first when a command comes."""

    first: Mapping[str, Callable[[], Awaitable[None]]]
    told: list[str] = field(default_factory=list)

    async def execute(self, command: Command, context: CommandContext) -> Any:
        self.told.append(command.name)
        if command.name in self.first:
            await self.first[command.name]()
        return {}


@dataclass
class Before:
    """The order's own part, and what happens before it does something."""

    participant: Participant
    first: Mapping[str, Callable[[], Awaitable[None]]]

    async def execute(self, command: Command, context: CommandContext) -> Any:
        if command.name in self.first:
            await self.first[command.name]()
        return await self.participant.execute(command, context)


@asynccontextmanager
async def coordinating(bureau: Bureau, **first: Callable[[], Awaitable[None]]) -> AsyncIterator[Holder]:
    """Runs checkouts as the service does; `first` happens before these commands, with - for _."""
    named = {name.replace("_", "-"): what for name, what in first.items()}
    clock, holder = SystemClock(), Holder(named)
    everybody: dict[str, Participant] = {
        "order": Before(OrderParticipant(bureau.changing, clock), named),
        "inventory": holder,
        "payment": holder,
        "shipping": holder,
    }
    executor = Executor(SAGAS, everybody, PostgresSagaLog(bureau.database, INPUTS, clock), clock)
    bureau.units.on_commit = Runners([], executor, NaiveRunner(everybody, bureau.changing, clock, 1)).committed
    async with asyncio.TaskGroup() as group:
        running = group.create_task(executor.run())
        yield holder
        running.cancel()
    await executor.drain()


async def ended(bureau: Bureau, order_id: str) -> str:
    """How its saga ended."""
    async with asyncio.timeout(10):
        while True:
            found = await bureau.rows("SELECT status, outcome FROM sagas WHERE saga_id = $1", order_id)
            if found and found[0][0] in {"ended", "parked"}:
                return f"{found[0][0]} {found[0][1]}".strip()
            await asyncio.sleep(0.02)


CONFIRMS = {
    TCC: {"confirm-stock", "capture", "confirm-place"},
    TWO_PHASE: {"commit-stock", "commit-payment", "commit-shipment"},
}
UNDOS = {
    TCC: {"release-stock", "void", "release-place"},
    TWO_PHASE: {"roll-back-stock", "roll-back-payment", "roll-back-shipment"},
}
LAST_TRY = {TCC: "hold_place", TWO_PHASE: "prepare_shipment"}
A_CONFIRM = {TCC: "capture", TWO_PHASE: "commit_payment"}


@pytest.mark.parametrize("place", ["last try", "decision"])
@pytest.mark.parametrize("style", HOLDING)
async def test_asked_before_the_decision_the_running_checkout_goes_back(style: str, place: str, bureau: Bureau) -> None:
    answers: list[Outcome] = []

    async def ask() -> None:
        if not answers:
            answers.extend(await resolve(bureau, "o1"))

    async with coordinating(bureau, **{LAST_TRY[style] if place == "last try" else "confirm_order": ask}) as holder:
        await bureau.place("o1", style)
        assert await ended(bureau, "o1") == "ended undone"
    assert answers == [CANCEL]
    assert set(holder.told) & CONFIRMS[style] == set()
    assert set(holder.told) >= UNDOS[style]
    assert await bureau.order("o1") == "rejected lease-ended"


@pytest.mark.parametrize("style", HOLDING)
async def test_asked_after_the_decision_the_answer_is_what_was_decided(style: str, bureau: Bureau) -> None:
    answers: list[Outcome] = []

    async def ask() -> None:
        answers.extend(await resolve(bureau, "o1"))

    async with coordinating(bureau, **{A_CONFIRM[style]: ask}) as holder:
        await bureau.place("o1", style)
        assert await ended(bureau, "o1") == "ended completed"
    assert answers == [CONFIRM]
    assert set(holder.told) & UNDOS[style] == set()


@pytest.mark.parametrize("style", HOLDING)
async def test_an_order_withdrawn_while_its_coordinator_was_away_is_taken_back_when_it_returns(
    style: str, bureau: Bureau
) -> None:
    await bureau.place("o1", style)
    assert await resolve(bureau, "o1") == [CANCEL]
    async with coordinating(bureau) as holder:
        assert await ended(bureau, "o1") == "ended undone"
    assert set(holder.told) & CONFIRMS[style] == set()
    assert await bureau.order("o1") == "rejected lease-ended"
