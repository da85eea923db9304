"""Finished orders per second, their latency, and what one of them costs in CPU, load generator included."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dockyard.audit.run import audit_databases
from dockyard.load.cpu import tree_seconds
from dockyard.load.drive import Tally, check_allowed, closed_loop
from dockyard.load.machine import describe
from dockyard.load.orders import Draw, Lines, Twist
from dockyard.load.seed import Addresses, seed
from libs.runtime.clock import Clock, Ids

# Connections open, pools fill, statements are prepared: none of it is measured.
WARM_UP_SECONDS = 3.0
SETTLE_SECONDS = 60.0
# Enough that no product sells out and no carrier fills up during any run.
STOCK = 10**9
PARCELS_PER_DAY = 10**6
REFUSED_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: how the orders are coordinated, how many customers at once, for how long, with how many lines each."""

    coordination: str
    concurrency: int
    seconds: float
    lines: Lines
    seed: int


@dataclass(frozen=True, slots=True)
class Target:
    """The platform under load: where it listens, what it keeps, and its processes by name."""

    addresses: Addresses
    database_urls: Mapping[str, str]
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of a run. `cpu_ms_by_process` adds up to `cpu_ms_per_order`."""

    coordination: str
    concurrency: int
    seconds: float
    lines: str
    orders: int
    orders_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_order: float
    cpu_ms_by_process: Mapping[str, float]
    outcomes: Mapping[str, int]
    failed: int
    violations: int
    violations_by_coordination: Mapping[str, int]
    machine: Mapping[str, str | int | float]


async def run(plan: Plan, target: Target, clock: Clock, tell: Callable[[str], None]) -> Result:
    """One run of the plan against a platform that is up, and the audit after it.

    Raises Invalid when the platform does not take orders of this style.
    """
    await check_allowed(*target.addresses["order"], plan.coordination, clock)
    name = Ids(clock).new("bench")
    tell("preparing 1,000 products and two carriers")
    await seed(target.addresses, clock, run=name, stock=STOCK, parcels_per_day=PARCELS_PER_DAY)
    draw = Draw(plan.seed, {Twist.UNSERVED_ZONE: REFUSED_SHARE}, plan.lines, name, plan.coordination)
    host, port = target.addresses["order"]

    async def load(seconds: float) -> Tally:
        tally = Tally()
        await closed_loop(host, port, iter(draw), plan.concurrency, clock.monotonic() + seconds, clock, tally)
        return tally

    tell(f"warming up for {WARM_UP_SECONDS:.0f} s")
    await load(WARM_UP_SECONDS)
    tell(f"measuring for {plan.seconds:.0f} s with {plan.concurrency} customers")
    cpu_before, own_before, began = tree_seconds(target.pids.values()), time.process_time(), clock.monotonic()
    tally = await load(plan.seconds)
    wall, own = clock.monotonic() - began, time.process_time() - own_before
    cpu_after = tree_seconds(target.pids.values())
    tell("auditing")
    report = await audit_databases(target.database_urls, clock, SETTLE_SECONDS, tell)
    orders = max(len(tally.ended), 1)
    cpu = {name: (cpu_after[pid] - cpu_before[pid]) * 1000 / orders for name, pid in target.pids.items()}
    cpu["load"] = own * 1000 / orders
    return Result(
        coordination=plan.coordination,
        concurrency=plan.concurrency,
        seconds=round(wall, 1),
        lines=plan.lines.value,
        orders=len(tally.ended),
        orders_per_s=round(len(tally.ended) / wall, 1),
        p50_ms=tally.latency_ms(0.5),
        p99_ms=tally.latency_ms(0.99),
        cpu_ms_per_order=round(sum(cpu.values()), 2),
        cpu_ms_by_process={name: round(ms, 2) for name, ms in sorted(cpu.items(), key=lambda one: -one[1])},
        outcomes=dict(tally.outcomes().most_common()),
        failed=len(tally.failed),
        violations=len(report.violations),
        violations_by_coordination=report.by_coordination(),
        machine=describe(),
    )
