"""The executor does what the machine says, writes down what must be durable, and can be stopped anywhere."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from libs.kernel.errors import Conflict, InDoubt, Unavailable
from libs.runtime.clock import ManualClock
from libs.saga.calls import CommandContext
from libs.saga.definition import Command, Retry, Saga, Step
from libs.saga.entries import AnyEntry, Ended, Resumed, Started, StepDone, TakenUp, UndoDecided
from libs.saga.executor import FAILED_SECONDS, FLUSH_SECONDS, SWEEP_SECONDS, Executor
from libs.saga.log import ENDED, PARKED, RUNNING, Hold, Instance, Line, Remembered, Tail
from libs.saga.machine import State
from libs.saga.memory_log import MemorySagaLog
from tests.simulation.shop import Deliver, Network, Shop, pass_time, reliable, settle
from tests.unit.saga.sagas import command, pivot, retriable, step

CHECKOUT = Saga("checkout", (step("take"), step("charge"), pivot("confirm"), retriable("tell")))
SAGAS = {"checkout": CHECKOUT}


class GatedLog:
    """A log whose writes wait for a gate, fail on demand, and are remembered in order."""

    def __init__(self, log: MemorySagaLog) -> None:
        self._log = log
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.held = True

    async def write(self, tails: Sequence[Tail]) -> Collection[str]:
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        return await self._log.write(tails)

    async def unfinished(self, after: str, limit: int) -> Sequence[str]:
        return await self._log.unfinished(after, limit)

    async def load(self, saga_ids: Sequence[str]) -> Mapping[str, Remembered]:
        return await self._log.load(saga_ids)

    def exclusive(self) -> AbstractAsyncContextManager[Hold]:
        return self._exclusive()

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[Hold]:
        async with self._log.exclusive():
            yield self

    async def check(self) -> None:
        if not self.held:
            raise Unavailable("the right was lost")


@dataclass
class Bench:
    """An executor on a clock that stands still, with all its surroundings."""

    clock: ManualClock
    memory: MemorySagaLog
    log: GatedLog
    shop: Shop
    executor: Executor
    rested: list[tuple[str, State]]

    def start(self, *saga_ids: str, saga: Saga = CHECKOUT) -> None:
        instances = [self.instance(saga_id, saga) for saga_id in saga_ids]
        self.memory.start(instances)
        self.executor.start(instances)

    def instance(self, saga_id: str, saga: Saga = CHECKOUT) -> Instance:
        return Instance(saga_id, saga.name, saga.version, {"order": saga_id}, "", self.clock.now())

    async def remembered(self, saga_id: str) -> Remembered:
        return (await self.memory.load([saga_id]))[saga_id]

    async def entries(self, saga_id: str) -> list[AnyEntry]:
        return [line.entry for line in (await self.remembered(saga_id)).lines]

    async def words(self, saga_id: str) -> list[str]:
        return [type(entry).__name__ for entry in await self.entries(saga_id)]


@asynccontextmanager
async def bench(
    *,
    network: Network = reliable,
    sold_out: Collection[tuple[str, str]] = (),
    sagas: Mapping[str, Saga] = SAGAS,
    memory: MemorySagaLog | None = None,
    in_flight_max: int = 100,
    before: Callable[[Bench], None] = lambda _: None,
) -> AsyncIterator[Bench]:
    clock = ManualClock()
    kept = memory or MemorySagaLog()
    log = GatedLog(kept)
    shop = Shop(network, frozenset(sold_out))
    rested: list[tuple[str, State]] = []
    executor = Executor(
        sagas,
        {"shop": shop},
        log,
        clock,
        in_flight_max=in_flight_max,
        on_rest=lambda instance, state: rested.append((instance.saga_id, state)),
    )
    made = Bench(clock, kept, log, shop, executor, rested)
    before(made)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(executor.run())
        await settle()
        yield made
        running.cancel()


async def test_a_saga_runs_through_and_its_log_tells_the_story() -> None:
    async with bench() as b:
        b.start("o1")
        await settle()
        steps = ["StepDone", "StepDone", "PivotDecided", "StepDone", "StepDone"]
        assert await b.words("o1") == ["Started", *steps, "Ended"]
        assert (await b.remembered("o1")).status == ENDED
        assert b.shop.calls == ["o1 take.do", "o1 charge.do", "o1 confirm.do", "o1 tell.do"]
        assert [(saga_id, state.outcome) for saga_id, state in b.rested] == [("o1", "completed")]


async def test_a_refused_saga_is_undone_backwards_and_each_undo_knows_why() -> None:
    async with bench(sold_out=[("o1", "confirm")]) as b:
        b.start("o1")
        await settle()
        assert b.shop.calls[-3:] == ["o1 confirm.do", "o1 charge.undo", "o1 take.undo"]
        why = [(context.undo_code, context.undo_message) for context in b.shop.contexts[-2:]]
        assert why == [("sold-out", "none left")] * 2
        assert b.rested[0][1].outcome == "undone"


async def test_step_results_are_not_waited_for_but_the_pivot_waits_for_its_decision() -> None:
    async with bench() as b:
        b.log.gate.clear()
        b.start("o1")
        await settle()
        assert b.shop.calls == ["o1 take.do", "o1 charge.do"]
        assert await b.words("o1") == []
        b.log.gate.set()
        await settle()
        assert "o1 confirm.do" in b.shop.calls


async def test_no_undo_is_sent_before_the_decision_is_durable() -> None:
    async with bench(sold_out=[("o1", "charge")]) as b:
        b.log.gate.clear()
        b.start("o1")
        await settle()
        assert b.shop.calls == ["o1 take.do", "o1 charge.do"]
        b.log.gate.set()
        await settle()
        assert b.shop.calls[-1] == "o1 take.undo"
        assert (await b.words("o1"))[:4] == ["Started", "StepDone", "StepRefused", "UndoDecided"]


async def test_nobody_hears_of_the_end_before_it_is_durable() -> None:
    only_take = Saga("checkout", (step("take"),))
    async with bench(sagas={"checkout": only_take}) as b:
        b.log.gate.clear()
        b.start("o1", saga=only_take)
        await settle()
        assert b.shop.calls == ["o1 take.do"] and b.rested == []
        b.log.gate.set()
        await settle()
        assert [saga_id for saga_id, _ in b.rested] == ["o1"]


async def _hang_at_charge(_: Command, context: CommandContext, deliver: Deliver) -> Any:
    return await (asyncio.Event().wait() if context.step == "charge" and context.operation == "do" else deliver())


async def test_what_a_slow_saga_noted_is_written_before_long() -> None:
    async with bench(network=_hang_at_charge) as b:
        b.start("o1")
        await settle()
        assert await b.words("o1") == []
        await pass_time(b.clock, 2 * FLUSH_SECONDS)
        assert await b.words("o1") == ["Started", "StepDone"]


async def test_a_step_without_an_answer_in_time_is_in_doubt_tried_again_and_undone() -> None:
    hasty = Saga("checkout", (step("take"), replace(step("charge"), timeout_seconds=0.001)))
    async with bench(network=_hang_at_charge, sagas={"checkout": hasty}) as b:
        b.start("o1", saga=hasty)
        async with asyncio.timeout(5):
            while not b.rested:
                await pass_time(b.clock, 0.1)
        assert b.shop.calls.count("o1 charge.do") == 2
        decided = next(entry for entry in await b.entries("o1") if isinstance(entry, UndoDecided))
        assert (decided.step, decided.code) == ("charge", "in-doubt")
        assert decided.message == "timeout: no answer within 0.001 s"
        assert b.shop.calls[-2:] == ["o1 charge.undo", "o1 take.undo"]


async def test_a_try_waits_its_delay_and_has_a_deadline_of_its_own() -> None:
    slow = Step("take", command("take"), command("untake"), retry=Retry(3, 10.0, 60.0), timeout_seconds=5)
    saga = Saga("checkout", (slow,))
    async with bench(network=_closed, sagas={"checkout": saga}) as b:
        b.start("o1", saga=saga)
        await pass_time(b.clock, 9.9, tick=0.3)
        assert len(b.shop.calls) == 1
        await pass_time(b.clock, 30, tick=0.5)
        first, second, *_ = b.shop.contexts
        assert (first.attempt, second.attempt) == (1, 2)
        assert first.deadline_unix_ms == 5000 + int(ManualClock().now().timestamp() * 1000)
        assert second.deadline_unix_ms - first.deadline_unix_ms >= 10_000


async def _closed(_: Command, context: CommandContext, deliver: Deliver) -> Any:
    if context.operation == "do":
        raise Unavailable("closed")
    return await deliver()


async def test_an_undo_has_its_own_deadline_however_late_the_do_was() -> None:
    async with bench(network=_closed) as b:
        b.start("o1")
        await pass_time(b.clock, 3)
        undo = b.shop.contexts[-1]
        assert undo.operation == "undo"
        assert undo.deadline_unix_ms == b.shop.contexts[-2].deadline_unix_ms  # at the same moment, in full
        assert b.rested[0][1].undo == UndoDecided("take", "unavailable", "closed")


async def test_a_participant_that_breaks_stops_no_other_saga_and_is_not_tried_for_ever() -> None:
    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        if context.saga_id == "bad" and context.operation == "do":
            raise KeyError("a bug")
        return await deliver()

    async with bench(network=network) as b:
        b.start("bad", "good")
        await pass_time(b.clock, 2)
        assert {saga_id: state.outcome for saga_id, state in b.rested} == {"good": "completed", "bad": "undone"}


async def test_an_answer_reads_the_same_from_memory_and_from_the_log() -> None:
    @dataclass
    class Taken:
        lot: int

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        await deliver()
        return Taken(7) if context.step == "take" else object()

    seen: list[Mapping[str, Any]] = []

    def charge(_: Any, results: Mapping[str, Any]) -> Command:
        seen.append(results)
        return Command("shop", "charge", None)

    saga = Saga("checkout", (step("take"), Step("charge", charge, command("refund"), retry=Retry(1))))
    async with bench(network=network, sagas={"checkout": saga}) as b:
        b.start("o1", saga=saga)
        await pass_time(b.clock, 1)
        assert seen == [{"take": {"lot": 7}}]
        # What the log could not hold is no answer: in doubt, and undone.
        assert "o1 charge.undo" in b.shop.calls


async def test_steps_of_a_group_are_asked_at_the_same_time() -> None:
    both = Saga("checkout", (step("take", group="g"), step("hold", group="g"), pivot("confirm")))
    waiting = 0
    together = asyncio.Event()

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        nonlocal waiting
        if context.step != "confirm":
            waiting += 1
            if waiting == 2:
                together.set()
            await together.wait()
        return await deliver()

    async with bench(network=network, sagas={"checkout": both}) as b:
        b.start("o1", saga=both)
        await settle()
        assert b.rested[0][1].outcome == "completed"


async def test_the_log_says_whom_of_a_group_the_saga_waits_for() -> None:
    both = Saga("checkout", (step("take", group="g"), step("hold", group="g"), pivot("confirm")))
    go_on = asyncio.Event()

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        if context.step == "hold":
            await go_on.wait()
        return await deliver()

    async with bench(network=network, sagas={"checkout": both}) as b:
        b.start("o1", saga=both)
        await pass_time(b.clock, 2 * FLUSH_SECONDS)
        assert [entry.step for entry in await b.entries("o1") if isinstance(entry, StepDone)] == ["take"]
        go_on.set()
        await settle()
        assert b.rested[0][1].outcome == "completed"


async def test_a_cancel_request_stops_a_saga_before_its_pivot() -> None:
    go_on = asyncio.Event()

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        if context.step == "charge" and context.operation == "do":
            await go_on.wait()
        return await deliver()

    async with bench(network=network) as b:
        b.start("o1")
        await settle()
        b.executor.request_cancel("o1", "changed my mind")
        b.executor.request_cancel("o2", "who is that?")
        go_on.set()
        await settle()
        assert b.rested[0][1].undo == UndoDecided("confirm", "cancel-requested", "changed my mind")
        assert b.shop.standing("o1", "charge") == 0


async def test_a_saga_that_must_go_on_and_cannot_is_parked_with_its_reason() -> None:
    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        if context.step == "tell":
            raise Unavailable("nobody listens")
        return await deliver()

    async with bench(network=network) as b:
        b.start("o1")
        await pass_time(b.clock, 1)
        assert b.rested[0][1].parked == "step tell failed 2 times: nobody listens"
        assert (await b.remembered("o1")).status == PARKED
        await pass_time(b.clock, 2 * SWEEP_SECONDS)
        assert len(b.rested) == 1


async def test_a_parked_saga_that_was_resumed_goes_on_at_once_when_it_is_told_of() -> None:
    closed = True

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        if closed and context.step == "tell":
            raise Unavailable("closed")
        return await deliver()

    async with bench(network=network) as b:
        b.start("o1")
        await pass_time(b.clock, 1)
        parked = await b.remembered("o1")
        assert parked.status == PARKED
        closed = False
        line = Line(parked.lines[-1].seq + 1, b.clock.now(), Resumed("ops", "it is open again"))
        await b.memory.write([Tail("o1", [line])])
        await b.executor.take_up("o1")
        await settle()
        assert (await b.remembered("o1")).status == ENDED
        assert b.shop.standing("o1", "tell") == 1


async def test_who_may_not_run_sagas_takes_none_up() -> None:
    memory = MemorySagaLog()
    executor = Executor(SAGAS, {"shop": Shop()}, memory, ManualClock())
    memory.start([Instance("o1", "checkout", 1, {}, "", ManualClock().now())])
    await executor.take_up("o1")
    assert (await memory.load(["o1"]))["o1"].lines == []


async def test_sagas_without_room_wait_in_the_log_and_are_found() -> None:
    async with bench(in_flight_max=2) as b:
        b.start(*(f"o{number}" for number in range(7)))
        await settle()
        assert len(b.rested) == 2
        await pass_time(b.clock, 4 * SWEEP_SECONDS)
        assert len(b.rested) == 7
        assert all(b.shop.dos[f"o{number}", "tell"] == 1 for number in range(7))


async def test_no_more_of_a_kind_run_at_once_than_it_says_and_who_waits_has_begun_nothing() -> None:
    few = replace(CHECKOUT, at_once_max=2)
    go_on = asyncio.Event()

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        await go_on.wait()
        return await deliver()

    async with bench(network=network, sagas={"checkout": few}) as b:
        b.start(*(f"o{number}" for number in range(5)), saga=few)
        await settle()
        assert b.shop.calls == ["o0 take.do", "o1 take.do"]
        b.executor.request_cancel("o4", "changed my mind")
        go_on.set()
        await pass_time(b.clock, SWEEP_SECONDS)
        outcomes = {saga_id: state.outcome for saga_id, state in b.rested}
        assert outcomes == {"o0": "completed", "o1": "completed", "o2": "completed", "o3": "completed", "o4": "undone"}


async def test_a_saga_that_has_begun_does_not_wait_for_its_turn_when_it_is_taken_up() -> None:
    few = replace(CHECKOUT, at_once_max=1)
    go_on = asyncio.Event()

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        if context.saga_id == "slow":
            await go_on.wait()
        return await deliver()

    async with bench(network=network, sagas={"checkout": few}) as b:
        b.start("slow", "next", saga=few)
        await settle()
        b.memory.start([b.instance("placed elsewhere", few), b.instance("begun elsewhere", few)])
        begun = (Line(1, b.clock.now(), Started()), Line(2, b.clock.now(), StepDone("take")))
        await b.memory.write([Tail("begun elsewhere", begun)])
        await pass_time(b.clock, 2 * SWEEP_SECONDS)
        assert [saga_id for saga_id, _ in b.rested] == ["begun elsewhere"]
        go_on.set()
        await pass_time(b.clock, SWEEP_SECONDS)
        assert len(b.rested) == 4


async def test_unfinished_sagas_are_carried_on_when_the_executor_starts() -> None:
    def crashed_before(b: Bench) -> None:
        b.memory.start([b.instance("o1"), b.instance("o2")])

    async with bench(before=crashed_before) as b:
        assert [saga_id for saga_id, _ in b.rested] == ["o1", "o2"]
        assert (await b.words("o1"))[:3] == ["Started", "TakenUp", "StepDone"]


async def test_a_saga_is_taken_over_durably_before_anything_is_done_for_it() -> None:
    def crashed_before(b: Bench) -> None:
        b.memory.start([b.instance("o1")])
        b.log.gate.clear()

    async with bench(before=crashed_before) as b:
        assert b.shop.calls == []
        b.log.gate.set()
        await settle()
        assert b.rested[0][1].outcome == "completed"


async def test_a_saga_that_ends_while_the_sweep_reads_is_not_run_again() -> None:
    class SlowToAnswer(GatedLog):
        async def load(self, saga_ids: Sequence[str]) -> Mapping[str, Remembered]:
            found = await super().load(saga_ids)
            if "o1" in saga_ids:
                b.executor.start([b.instance("o1")])
                await settle(200)
            return found

    memory = MemorySagaLog()
    async with bench(memory=memory) as b:
        b.executor._log = SlowToAnswer(memory)
        memory.start([b.instance("o1")])
        await pass_time(b.clock, 2 * SWEEP_SECONDS)
        assert len(b.rested) == 1
        assert b.shop.calls.count("o1 take.do") == 1


async def test_a_saga_of_an_unknown_definition_waits_and_holds_nobody_up() -> None:
    newer = replace(CHECKOUT, version=2)
    async with bench() as b:
        b.start("new", saga=newer)
        b.start("old")
        await pass_time(b.clock, 2 * SWEEP_SECONDS)
        assert [saga_id for saga_id, _ in b.rested] == ["old"]
        assert (await b.remembered("new")).status == RUNNING


async def test_a_saga_runs_by_the_version_it_began_with() -> None:
    newer = Saga("checkout", (step("take"),), version=2)
    async with bench(sagas={"old": CHECKOUT, "new": newer}) as b:
        b.start("o1")
        b.start("o2", saga=newer)
        await settle()
        assert [call for call in b.shop.calls if call.startswith("o2")] == ["o2 take.do"]
        assert "o1 tell.do" in b.shop.calls


async def test_a_run_that_finds_another_writer_in_its_log_stops_and_the_log_decides() -> None:
    go_on = asyncio.Event()

    async def network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
        if context.step == "charge" and context.operation == "do":
            await go_on.wait()
        return await deliver()

    async with bench(network=network) as b:
        b.start("o1")
        await settle()
        now = b.clock.now()
        rivals: list[AnyEntry] = [Started(), TakenUp("rival"), UndoDecided("take", "unavailable", "closed")]
        lines = [Line(seq, now, entry) for seq, entry in enumerate(rivals, 1)]
        assert await b.memory.write([Tail("o1", lines)]) == set()
        go_on.set()
        await settle()
        assert "o1 confirm.do" not in b.shop.calls
        await pass_time(b.clock, 2 * SWEEP_SECONDS)
        assert b.rested[-1][1].outcome == "undone"
        assert b.shop.standing("o1", "take") == b.shop.standing("o1", "charge") == 0


async def test_a_saga_whose_log_cannot_be_written_is_left_to_the_next_sweep() -> None:
    for failure in (Unavailable("database gone"), InDoubt("lost in the commit"), Conflict("no"), ValueError("a bug")):
        async with bench() as b:
            b.log.failures.append(failure)
            b.start("o1")
            await settle()
            assert b.rested == [] and "o1 confirm.do" not in b.shop.calls
            await pass_time(b.clock, 2 * SWEEP_SECONDS)
            assert b.rested[0][1].outcome == "completed"
            assert b.shop.dos["o1", "charge"] == 1


async def test_who_loses_the_right_to_run_sagas_stops_until_it_has_it_again() -> None:
    async with bench(network=_hang_at_charge) as b:
        b.start("o1")
        await settle()
        b.log.held = False
        await pass_time(b.clock, 2 * SWEEP_SECONDS)
        calls = len(b.shop.calls)
        b.start("o2")
        await settle()
        assert len(b.shop.calls) == calls
        b.log.held = True
        await pass_time(b.clock, FAILED_SECONDS + 2 * SWEEP_SECONDS)
        assert {"o1 charge.do", "o2 charge.do"} <= set(b.shop.calls[calls:])


async def test_a_stopped_executor_writes_what_it_noted_and_another_carries_on() -> None:
    memory = MemorySagaLog()
    async with bench(memory=memory, network=_hang_at_charge) as b:
        b.start("o1")
        await settle()
    await b.executor.drain()
    assert await b.entries("o1") == [Started(), StepDone("take", {"done": "take"})]
    async with bench(memory=memory) as b:
        assert b.rested[0][1].outcome == "completed"
        assert (await b.entries("o1"))[-1] == Ended("completed")
