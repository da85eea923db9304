"""A whole comparison on a platform that is up: warm up, measure in turns, kill services, audit, read the records."""

import asyncio
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path

import asyncpg

from dockyard.audit.evidence import Violation
from dockyard.audit.run import audit_databases
from dockyard.compare.code import lines_of
from dockyard.compare.counters import Counters, Meter
from dockyard.compare.drive import Placed, place_all, when
from dockyard.compare.intervals import Life, inconsistent_ms, quantile, stock_kept_ms
from dockyard.compare.plan import Plan, Slice, patience_seconds, slices
from dockyard.compare.read import read_lives, read_names, read_statement
from dockyard.compare.result import SCHEMA, Code, Comparison, Cost, Faults, Refused, Spread, Style
from dockyard.load.bench import Target
from dockyard.load.demo import KILLS, SHARES
from dockyard.load.machine import describe
from dockyard.load.orders import Draw, Drawn, Lines, Twist
from dockyard.load.seed import seed
from dockyard.local.platform import Platform
from libs.kernel.errors import NotFound
from libs.runtime.clock import Clock, Ids

REFUSED_SHARE = 0.1
STOCK = 10**9
PARCELS_PER_DAY = 10**6
IDLE_SECONDS = 3.0
SETTLE_SECONDS = 60.0
# After a slice, nothing has moved for as long as this; one whose orders never come to rest is not waited for longer.
QUIET_SECONDS, QUIET_SECONDS_MAX = 0.3, 10.0
LOOK_SECONDS = 0.1
# A slice of which no order ended took no less.
MOMENT_SECONDS = 0.001
SERVERS = ("postgres", "redis")
NOBODY = ""

UNDER_WAY = "SELECT count(*) FROM sagas WHERE status IN ('running', 'undoing')"
LISTENED = "SELECT count(*) FROM choreographies WHERE status IN ('running', 'withdrawn')"
LAST_EVENT = "SELECT pg_sequence_last_value(pg_get_serial_sequence('events', 'sequence')::regclass)"

Tell = Callable[[str], None]


@dataclass(slots=True)
class Measured:
    """One style so far."""

    placed: Placed = field(default_factory=Placed)
    seconds: float = 0.0
    per_second: list[float] = field(default_factory=list)
    used: Counters = field(default_factory=Counters)
    disturbed: Placed = field(default_factory=Placed)
    disturbed_seconds: float = 0.0
    killed: list[str] = field(default_factory=list)


class Comparing:
    """One run of a plan against a platform that nobody else uses."""

    def __init__(self, plan: Plan, platform: Platform, clock: Clock, tell: Tell) -> None:
        self._plan = plan
        self._platform = platform
        self._clock = clock
        self._tell = tell
        self._target = target_of(platform)
        self._run = Ids(clock).new("compare")
        self._styles = {style: Measured() for style in plan.styles}
        self._meter = Meter(self._target, platform.redis_url)

    async def compare(self) -> Comparison:
        """Raises Unavailable when the platform cannot be measured."""
        began = self._clock.monotonic()
        load_average = os.getloadavg()[0]
        self._tell("preparing 1,000 products and two carriers")
        await seed(self._target.addresses, self._clock, run=self._run, stock=STOCK, parcels_per_day=PARCELS_PER_DAY)
        async with self._meter as meter:
            machine = describe() | {
                "postgres": await meter.postgres_version(),
                "redis": await meter.redis_version(),
                "data_filesystem": filesystem_of(self._platform.home.path),
                "load_average_at_start": round(load_average, 2),
            }
            await self._quiet()
            idle = await self._idle()
            since = await self._measure()
        broken_from = await self._break()
        styles, of_nobody = await self._judge(since, broken_from)
        return Comparison(
            schema=SCHEMA,
            seed=self._plan.seed,
            orders_per_style=self._plan.orders,
            customers=self._plan.customers,
            rounds=self._plan.rounds,
            refused_share=REFUSED_SHARE,
            seconds=round(self._clock.monotonic() - began, 1),
            machine=machine,
            idle_per_s=idle,
            styles=styles,
            violations_of_nobody=of_nobody,
        )

    # What is measured.

    async def _idle(self) -> Mapping[str, float]:
        """What the platform uses each second when nobody orders anything: part of every cost below."""
        self._tell(f"measuring the idle platform for {IDLE_SECONDS:.0f} s")
        before, began = await self._meter.read(), self._clock.monotonic()
        await self._clock.sleep(IDLE_SECONDS)
        cost = cost_of(await self._meter.read() - before, self._clock.monotonic() - began)
        return {
            "cpu_ms": cost.cpu_ms,
            "writing_transactions": cost.writing_transactions,
            "wal_bytes": cost.wal_bytes,
            "grpc_calls": cost.grpc_calls,
            "loopback_bytes": cost.loopback_bytes,
        }

    async def _measure(self) -> datetime:
        """Warms every style up, then runs the slices; the time at which these began."""
        draws = {style: iter(self._draw(style, {Twist.UNSERVED_ZONE: REFUSED_SHARE}, 0)) for style in self._styles}
        for style, draw in draws.items():
            self._tell(f"warming {style} up with {self._plan.warm_up_orders} orders")
            await self._place(style, list(islice(draw, self._plan.warm_up_orders)), Placed())
            await self._quiet()
        since = self._clock.now()
        planned = slices(self._plan)
        for number, one in enumerate(planned, 1):
            per_second = await self._slice(one, list(islice(draws[one.style], one.orders)))
            self._tell(f"[{number}/{len(planned)}] {one.style}: {one.orders} orders, {per_second:.0f} a second")
        return since

    async def _slice(self, one: Slice, orders: Sequence[Drawn]) -> float:
        measured, placed = self._styles[one.style], Placed()
        before, began = await self._meter.read(), self._clock.monotonic()
        await self._place(one.style, orders, placed)
        seconds = max(placed.last_end - began, MOMENT_SECONDS)
        await self._quiet()
        measured.used += await self._meter.read() - before
        measured.seconds += seconds
        measured.per_second.append(len(placed.ended) / seconds)
        measured.placed.add(placed)
        return len(placed.ended) / seconds

    async def _break(self) -> datetime:
        """Places further orders of each style while services are killed; the time at which this began."""
        began = self._clock.now()
        for style, measured in self._styles.items():
            self._tell(f"{style}: {self._plan.fault_orders} orders while services are killed")
            orders = list(islice(self._draw(style, SHARES, 1), self._plan.fault_orders))
            started = self._clock.monotonic()
            async with asyncio.TaskGroup() as group:
                placing = group.create_task(self._place(style, orders, measured.disturbed))
                group.create_task(self._kill(measured, placing.done))
            measured.disturbed_seconds = self._clock.monotonic() - started
            await asyncio.to_thread(self._all_ready)
            await self._quiet()
            left = len(measured.disturbed.unended)
            self._tell(f"{style}: {len(measured.disturbed.ended)} ended, {left} did not")
        return began

    async def _kill(self, measured: Measured, over: Callable[[], bool]) -> None:
        for share, service in KILLS:
            enough = share * self._plan.fault_orders
            if not await when(partial(measured.disturbed.reached, enough), self._clock, over):
                return
            try:
                self._platform.kill(service, signal.SIGKILL)
            except NotFound:
                continue  # it is starting again: nothing there to kill
            measured.killed.append(service)
            self._tell(f"  SIGKILL to {service}")

    def _all_ready(self) -> None:
        for name in self._platform.services:
            self._platform.wait_ready(name)

    def _draw(self, style: str, shares: Mapping[Twist, float], number: int) -> Draw:
        """The same orders for every style; only their keys and their style differ."""
        return Draw(self._plan.seed + number, shares, Lines.ONE, f"{self._run}-{style}-{number}", style)

    async def _place(self, style: str, orders: Sequence[Drawn], placed: Placed) -> None:
        address = self._target.addresses["order"]
        await place_all(address, orders, self._plan.customers, patience_seconds(style), self._clock, placed)

    async def _quiet(self) -> None:
        """Returns when no order moves any more: what a slice left for later is part of its cost."""
        connection = await asyncpg.connect(self._target.database_urls["order"])
        try:
            listening = await connection.fetchval("SELECT to_regclass('choreographies') IS NOT NULL")
            until, still_since, last = self._clock.monotonic() + QUIET_SECONDS_MAX, self._clock.monotonic(), None
            while self._clock.monotonic() < until:
                moving = await connection.fetchval(UNDER_WAY)
                if listening:
                    moving += await connection.fetchval(LISTENED)
                now = (await connection.fetchval(LAST_EVENT), moving)
                if moving or now != last:
                    still_since, last = self._clock.monotonic(), now
                elif self._clock.monotonic() - still_since >= QUIET_SECONDS:
                    return
                await self._clock.sleep(LOOK_SECONDS)
        finally:
            await connection.close()

    # What came of it.

    async def _judge(self, since: datetime, broken_from: datetime) -> tuple[tuple[Style, ...], int]:
        self._tell("auditing")
        urls = self._target.database_urls
        report = await audit_databases(urls, self._clock, SETTLE_SECONDS, self._tell)
        lives = await read_lives(urls)
        blamed = blame(report.violations, lives, await read_names(urls))
        styles = []
        for style, measured in self._styles.items():
            mine = [life for life in lives.values() if life.coordination == style]
            judged = Judged(
                quiet=[life for life in mine if since <= life.placed_at < broken_from],
                violations=[
                    one for one, life in blamed[style] if life is None or since <= life.placed_at < broken_from
                ],
                broken=[one for one, life in blamed[style] if life is not None and life.placed_at >= broken_from],
                early=sum(life is not None and life.placed_at < since for _, life in blamed[style]),
            )
            refused = [
                one.order_id
                for one in measured.placed.ended
                if one.drawn.twist is Twist.UNSERVED_ZONE and one.status == "rejected"
            ]
            statement = await read_statement(urls, refused)
            shown = Refused(statement.orders, statement.shows, statement.lines_per_order, statement.kept_minor_units)
            styles.append(style_of(style, measured, judged, shown))
        return tuple(styles), len(blamed[NOBODY])


@dataclass(frozen=True, slots=True)
class Judged:
    """What the records and the audit say of one style: its measured orders, and violations of these and of others."""

    quiet: Sequence[Life]
    violations: Sequence[Violation]
    broken: Sequence[Violation]
    early: int


def blame(
    violations: Sequence[Violation], lives: Mapping[str, Life], names: Mapping[str, str]
) -> Mapping[str, list[tuple[Violation, Life | None]]]:
    """The violations by the style of the order that they are about, with that order; "" for those about no order.

    `names` says of which order a payment or a shipment is.
    """
    blamed: dict[str, list[tuple[Violation, Life | None]]] = defaultdict(list)
    for one in violations:
        orders = (names.get(name, name) for name in one.ids)
        life = next((lives[order_id] for order_id in orders if order_id in lives), None)
        blamed[one.coordination or (life.coordination if life is not None else NOBODY)].append((one, life))
    return blamed


def style_of(style: str, measured: Measured, judged: Judged, refused: Refused) -> Style:
    """The figures of one style."""
    placed, apart = measured.placed, [inconsistent_ms(life) for life in judged.quiet]
    return Style(
        coordination=style,
        orders=placed.count,
        ended=len(placed.ended),
        never_ended=len(placed.unended),
        failed=len(placed.failed),
        outcomes=dict(placed.outcomes().most_common()),
        orders_per_s=round(len(placed.ended) / max(measured.seconds, MOMENT_SECONDS), 1),
        orders_per_s_by_slice=tuple(round(each, 1) for each in measured.per_second),
        latency_ms=spread([one.seconds * 1000 for one in placed.ended]),
        cost_per_order=cost_of(measured.used, max(len(placed.ended), 1)),
        stock_kept_ms=spread([ms for life in judged.quiet if (ms := stock_kept_ms(life)) is not None]),
        inconsistent_ms=spread([ms for ms in apart if ms is not None]),
        never_consistent=sum(ms is None for ms in apart),
        refused_by_shipping=refused,
        violations=len(judged.violations),
        orders_violated=_orders(judged.violations),
        rules=_rules(judged.violations),
        warm_up_violations=judged.early,
        faults=faults_of(measured, judged.broken),
        lines_of_code=Code(*lines_of(style)),
    )


def faults_of(measured: Measured, violations: Sequence[Violation]) -> Faults:
    placed = measured.disturbed
    return Faults(
        orders=placed.count,
        ended=len(placed.ended),
        never_ended=len(placed.unended),
        failed=len(placed.failed),
        killed=tuple(measured.killed),
        seconds=round(measured.disturbed_seconds, 1),
        outcomes=dict(placed.outcomes().most_common()),
        violations=len(violations),
        orders_violated=_orders(violations),
        rules=_rules(violations),
    )


def _orders(violations: Sequence[Violation]) -> int:
    return len({one.ids[0] for one in violations})


def _rules(violations: Sequence[Violation]) -> dict[str, int]:
    return dict(Counter(f"{one.guarantee} {one.rule}" for one in violations).most_common())


def spread(values: Sequence[float]) -> Spread:
    """Median, 99th percentile and largest of these values."""
    return Spread(
        len(values), round(quantile(values, 0.5), 1), round(quantile(values, 0.99), 1), round(max(values, default=0), 1)
    )


def cost_of(used: Counters, by: float) -> Cost:
    """What was used, divided."""
    cpu = {name: round(seconds * 1000 / by, 2) for name, seconds in used.cpu_seconds.items()}
    return Cost(
        cpu_ms=round(sum(used.cpu_seconds.values()) * 1000 / by, 2),
        cpu_ms_by_process=dict(sorted(cpu.items(), key=lambda one: -one[1])),
        writing_transactions=round(used.transactions / by, 2),
        wal_bytes=round(used.wal_bytes / by),
        messages=round(used.messages / by, 2),
        redis_bytes=round(used.redis_bytes / by),
        grpc_calls=round(used.grpc_calls / by, 2),
        loopback_bytes=round(used.loopback_bytes / by),
    )


def target_of(platform: Platform) -> Target:
    """A platform all of whose servers are its own."""
    addresses = {name: (one.host, one.http_port) for name, one in platform.addresses.items()}
    pids = {name: platform.pid(name) for name in (*platform.services, *SERVERS)}
    return Target(addresses, platform.database_urls, pids)


def filesystem_of(path: Path) -> str:
    """The kind of file system that a commit waits for ("ext4", "overlay", "tmpfs"), or "unknown"."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    entries = [line.split() for line in mounts.read_text().splitlines()]
    holding = [entry for entry in entries if path.resolve().is_relative_to(entry[1])]
    return max(holding, key=lambda entry: len(entry[1]))[2] if holding else "unknown"
