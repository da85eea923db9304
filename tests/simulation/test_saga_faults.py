"""Hundreds of sagas under a hostile network, crashes, two coordinators at once: all end, nothing twice, nothing half.

The real executor, in-memory participants behind the barrier, a clock that tests move, and faults drawn from a seed:
a failing run is repeated by its seed.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from random import Random  # noqa: TID251  (drawn from a seed)
from typing import Any

import pytest

from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import ManualClock
from libs.saga.calls import CommandContext
from libs.saga.definition import Command, Kind, Retry, Saga, Step
from libs.saga.entries import Ended
from libs.saga.executor import Executor
from libs.saga.log import Hold, Instance, Remembered, SagaLog, Tail
from libs.saga.machine import State
from libs.saga.memory_log import MemorySagaLog
from tests.simulation.shop import Deliver, Shop, settle
from tests.unit.saga.sagas import command

SAGAS_A_RUN = 200
SECONDS_MAX = 900
# Who crashes more often than a retry's longest delay, and never stops, gets nowhere: that is not what is promised.
CRASHES_MAX = 10
PATIENT = Retry(attempts_max=40, first_delay_seconds=0.1, delay_seconds_max=1.0)
BRISK = Retry(attempts_max=4, first_delay_seconds=0.1, delay_seconds_max=0.4)


def _undoable(name: str, group: str = "") -> Step:
    return Step(name, command(name), command(f"undo-{name}"), retry=BRISK, undo_retry=PATIENT, group=group)


CHECKOUT = Saga(
    "checkout",
    (
        _undoable("take"),
        _undoable("charge", group="reserve"),
        _undoable("book", group="reserve"),
        Step("confirm", command("confirm"), kind=Kind.PIVOT, retry=PATIENT),
        Step("tell", command("tell"), kind=Kind.RETRIABLE, retry=PATIENT),
    ),
)


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely each misfortune is, for each command or write."""

    never_sent: float = 0.0
    answer_lost: float = 0.0
    arrives_later: float = 0.0
    arrives_twice: float = 0.0
    write_fails: float = 0.0
    refused: float = 0.1
    cancelled: float = 0.1
    crash_every_seconds: float = 0.0
    coordinators: int = 1


class Network:
    """Loses, delays, repeats and reorders commands; a late one arrives whatever became of its sender."""

    def __init__(self, weather: Weather, random: Random, clock: ManualClock, group: asyncio.TaskGroup) -> None:
        self._weather = weather
        self._random = random
        # The manual clock's: it passes when the test says so.
        self._wait = clock.sleep
        self._group = group

    async def __call__(self, _: Command, __: CommandContext, deliver: Deliver) -> Any:
        weather = self._weather
        await self._wait(self._random.uniform(0, 0.2))
        if self._random.random() < weather.never_sent:
            raise Unavailable("closed")
        if self._random.random() < weather.arrives_later:
            self._group.create_task(self._later(deliver))
            raise InDoubt("no answer")
        if self._random.random() < weather.arrives_twice:
            self._group.create_task(self._later(deliver))
        answer = await deliver()
        if self._random.random() < weather.answer_lost:
            raise InDoubt("no answer")
        return answer

    async def _later(self, deliver: Deliver) -> None:
        await self._wait(self._random.expovariate(0.3))
        with suppress(DockyardError):
            await deliver()


class Line:
    """One coordinator's connection to the log: fails now and then, before or after the write, and can be cut."""

    def __init__(self, log: MemorySagaLog, weather: Weather, random: Random) -> None:
        self._log = log
        self._weather = weather
        self._random = random
        self.cut = False

    async def write(self, tails: Sequence[Tail]) -> Collection[str]:
        self._maybe_fail(Unavailable("the log is gone"))
        overtaken = await self._log.write(tails)
        self._maybe_fail(InDoubt("lost in the commit"))
        return overtaken

    async def unfinished(self, after: str, limit: int) -> Sequence[str]:
        self._maybe_fail(Unavailable("the log is gone"))
        return await self._log.unfinished(after, limit)

    async def load(self, saga_ids: Sequence[str]) -> Mapping[str, Remembered]:
        return await self._log.load(saga_ids)

    def exclusive(self) -> AbstractAsyncContextManager[Hold]:
        return self._exclusive()

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[Hold]:
        # Two coordinators at once is one of the faults: nobody is kept out.
        yield self

    async def check(self) -> None:
        self._maybe_fail(Unavailable("the right was lost"))

    def _maybe_fail(self, error: DockyardError) -> None:
        if self.cut or self._random.random() < self._weather.write_fails:
            raise error


class Run:
    """Everything one simulated run consists of."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.random = Random(seed)  # noqa: S311
        self.clock = ManualClock()
        self.log = MemorySagaLog()
        self.rested: list[tuple[str, State]] = []
        self.crashes = 0
        names = [f"o{number:03}" for number in range(SAGAS_A_RUN)]
        steps = [step.name for step in CHECKOUT.steps if step.kind is not Kind.RETRIABLE]
        pairs = [(name, step) for name in names for step in steps]
        self.sold_out = frozenset(pair for pair in pairs if self.random.random() < weather.refused / len(steps))
        self.names = names
        self.shop = Shop()

    async def play(self) -> None:
        async with asyncio.TaskGroup() as late, asyncio.TaskGroup() as coordinators:
            self.shop = Shop(Network(self.weather, self.random, self.clock, late), self.sold_out)
            running = [self._coordinator(coordinators) for _ in range(self.weather.coordinators)]
            instances = [Instance(name, "checkout", 1, {}, "", self.clock.now()) for name in self.names]
            self.log.start(instances)
            running[0][0].start(instances[::2])
            next_crash = self.weather.crash_every_seconds or SECONDS_MAX
            while await self.log.unfinished("", 1):
                await self._tick(running)
                if self.clock.monotonic() > next_crash and self.crashes < CRASHES_MAX:
                    next_crash += self.weather.crash_every_seconds
                    self._crash(running.pop(0))
                    running.append(self._coordinator(coordinators))
                assert self.clock.monotonic() < SECONDS_MAX, "some sagas never end"
            for _, _, task in running:
                task.cancel()
            await self._let_late_messages_arrive()

    async def _tick(self, running: list[tuple[Executor, Line, asyncio.Task[None]]]) -> None:
        await settle(15)
        if self.random.random() < self.weather.cancelled:
            running[0][0].request_cancel(self.random.choice(self.names), "changed my mind")
        self.clock.advance(0.1)

    def _coordinator(self, group: asyncio.TaskGroup) -> tuple[Executor, Line, asyncio.Task[None]]:
        line = Line(self.log, self.weather, self.random)
        executor = Executor(
            {"checkout": CHECKOUT},
            {"shop": self.shop},
            line,
            self.clock,
            in_flight_max=120,
            on_rest=lambda instance, state: self.rested.append((instance.saga_id, state)),
        )
        return executor, line, group.create_task(executor.run())

    def _crash(self, coordinator: tuple[Executor, Line, asyncio.Task[None]]) -> None:
        """From here on it writes nothing and sends nothing; what it noted is lost."""
        _, line, task = coordinator
        line.cut = True
        task.cancel()
        self.crashes += 1

    async def _let_late_messages_arrive(self) -> None:
        for _ in range(100):
            await settle(5)
            self.clock.advance(5)


FAIR = Weather(refused=0.4)
LOSSY = Weather(never_sent=0.15, answer_lost=0.15, arrives_later=0.1, arrives_twice=0.1)
WEATHERS = {
    "fair": FAIR,
    "lossy": LOSSY,
    "the log fails too": replace(LOSSY, write_fails=0.05),
    "crashes": replace(LOSSY, write_fails=0.02, crash_every_seconds=0.7),
    "two coordinators and crashes": replace(LOSSY, coordinators=2, crash_every_seconds=1.0, write_fails=0.02),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weather", WEATHERS.values(), ids=WEATHERS.keys())
async def test_every_saga_ends_whole_or_not_at_all(weather: Weather, seed: int) -> None:
    run = Run(weather, seed)
    await run.play()
    found = await run.log.load(run.names)
    outcomes = {name: _outcome(found[name]) for name in run.names}
    completed = sum(outcome == "completed" for outcome in outcomes.values())
    print(
        f"{completed} completed, {len(outcomes) - completed} undone, {run.crashes} crashes, {run.clock.monotonic()} s"
    )
    assert set(outcomes.values()) == {"completed", "undone"}
    assert max(run.shop.dos.values()) == 1 and max(run.shop.undos.values()) == 1
    for name, outcome in outcomes.items():
        standing = {step.name: run.shop.standing(name, step.name) for step in CHECKOUT.steps}
        assert set(standing.values()) == {1 if outcome == "completed" else 0}, f"{name} {outcome}: {standing}"
    told = dict(run.rested)
    assert all(outcomes[name] == state.outcome for name, state in told.items())


def _outcome(saga: Remembered) -> str:
    last = saga.lines[-1].entry
    return last.outcome if isinstance(last, Ended) else saga.status


async def test_a_memory_log_behind_a_line_is_a_saga_log() -> None:
    line: SagaLog = Line(MemorySagaLog(), FAIR, Random(1))  # noqa: S311
    assert await line.unfinished("", 1) == []
