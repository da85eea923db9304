"""Runs sagas that complete, are refused, parked, or taken over, once for each failpoint, and says which of them kill.

Each run is a forked process of its own: a failpoint ends it by SIGKILL.
"""

import asyncio
import os
from typing import Any

from libs.kernel.errors import Unavailable
from libs.runtime import failpoints
from libs.runtime.clock import ManualClock
from libs.saga.calls import CommandContext
from libs.saga.definition import Command, Saga
from libs.saga.executor import Executor, failpoints_of
from libs.saga.log import Instance
from libs.saga.memory_log import MemorySagaLog
from tests.simulation.shop import Deliver, Shop, pass_time, settle
from tests.unit.saga.sagas import pivot, retriable, step

CHECKOUT = Saga("checkout", (step("take"), step("charge"), pivot("confirm"), retriable("tell")))
SCENARIOS = ("completes", "refused", "given-up", "parked", "taken-over")


async def _network(_: Command, context: CommandContext, deliver: Deliver) -> Any:
    if context.saga_id == "given-up" and context.step == "charge" and context.operation == "do":
        raise Unavailable("closed")
    if context.saga_id == "parked" and context.step == "tell":
        raise Unavailable("closed")
    return await deliver()


async def _play(scenario: str) -> None:
    clock, log = ManualClock(), MemorySagaLog()
    shop = Shop(_network, frozenset({("refused", "confirm")}))
    executor = Executor({"checkout": CHECKOUT}, {"shop": shop}, log, clock)
    instance = Instance(scenario, "checkout", 1, {}, "", clock.now())
    async with asyncio.TaskGroup() as group:
        running = group.create_task(executor.run())
        if scenario == "taken-over":
            log.start([instance])
        await settle()
        log.start([instance])
        executor.start([instance])
        await pass_time(clock, 5)
        running.cancel()
    assert not await log.unfinished("", 1), f"{scenario} is not at rest"


def _killed_at(place: str, scenario: str) -> bool:
    child = os.fork()
    if child == 0:
        failpoints.arm(place)
        asyncio.run(_play(scenario))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"{scenario} failed by itself"
    return os.WIFSIGNALED(status)


def main() -> None:
    for place in failpoints_of(CHECKOUT):
        if any(_killed_at(place, scenario) for scenario in SCENARIOS):
            print(place)


if __name__ == "__main__":
    main()
