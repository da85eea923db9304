"""`dockyard bench`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dockyard.load.orders import Coordination, Lines
from dockyard.terminal import EXIT_FAILED, HomeOption, JsonOption, answer, complain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dockyard.load.bench import Plan, Result, Target
    from dockyard.local.platform import Platform

CONCURRENCY_MAX = 1000
SERVERS = ("postgres", "redis")


def register(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    home: HomeOption,
    coordination: Annotated[
        Coordination, typer.Option(help="How the orders are coordinated; naive is expected to fail.")
    ] = Coordination.ORCHESTRATED,
    concurrency: Annotated[int, typer.Option(min=1, max=CONCURRENCY_MAX, help="Customers at once.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to measure.")] = 15.0,
    lines: Annotated[Lines, typer.Option(help="Lines of each order: one, or 5 to 15 as in TPC-C.")] = Lines.ONE,
    seed: Annotated[int, typer.Option(help="The same seed draws the same orders.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure finished orders per second, latency and CPU per order; starts the platform if it is not up.

    One order in ten is refused at shipping and undone. Exit code 1 when the audit after it finds a violation: so naive,
    which undoes nothing, ends with 1. Exit code 2 when naive orders are asked of a platform that was started without
    `--allow-naive`.
    """
    from dockyard.load.bench import Plan
    from dockyard.local.options import allowing_naive, from_environ
    from dockyard.local.platform import Platform

    platform = Platform.open(home)
    options = from_environ(os.environ)
    if coordination is Coordination.NAIVE:
        options = allowing_naive(options)
    started = not platform.is_up() and platform.up(options, tethered=True, report=complain)
    try:
        result = _measured(Plan(coordination, concurrency, seconds, lines, seed), platform)
    finally:
        if started:
            platform.down()
    answer(result, as_json, lambda: _shown(result))
    if result.violations or result.failed:
        sys.exit(EXIT_FAILED)


def _measured(plan: "Plan", platform: "Platform") -> "Result":
    import uvloop

    from dockyard.load.bench import run
    from libs.runtime.clock import SystemClock

    return uvloop.run(run(plan, target_of(platform), SystemClock(), complain))


def target_of(platform: "Platform") -> "Target":
    """The running platform as a target; servers that are not ours to start are not ours to count."""
    from dockyard.load.bench import Target
    from libs.kernel.errors import NotFound

    addresses = {name: (one.host, one.http_port) for name, one in platform.addresses.items()}
    pids = {name: platform.pid(name) for name in platform.services}
    for name in SERVERS:
        try:
            pids[name] = platform.pid(name)
        except NotFound:
            complain(f"{name} is a server of your own: its CPU is not counted")
    return Target(addresses, platform.database_urls, pids)


def _shown(result: "Result") -> "RenderableType":
    from rich.table import Table

    table = Table(title=f"{result.coordination}, {result.concurrency} customers, {result.seconds} s", show_header=False)
    table.add_row("orders per second", f"{result.orders_per_s} ({result.orders} finished)")
    table.add_row("latency", f"p50 {result.p50_ms} ms, p99 {result.p99_ms} ms")
    table.add_row("CPU per order", f"{result.cpu_ms_per_order} ms")
    table.add_row("", "  ".join(f"{name} {ms}" for name, ms in result.cpu_ms_by_process.items()))
    table.add_row("outcomes", "\n".join(f"{count} {outcome}" for outcome, count in result.outcomes.items()))
    by_style = ", ".join(f"{n} {style or 'of no order'}" for style, n in result.violations_by_coordination.items())
    table.add_row("violations", f"{result.violations} ({by_style})" if by_style else "0")
    if result.failed:
        table.add_row("without an end", f"{result.failed} orders")
    table.add_row("machine", ", ".join(f"{value} {name}" for name, value in result.machine.items()))
    return table
