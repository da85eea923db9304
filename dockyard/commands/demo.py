"""`dockyard demo`."""

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dockyard.load.orders import Coordination
from dockyard.terminal import EXIT_FAILED, HomeOption, JsonOption, answer, complain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dockyard.load.demo import Story

ORDERS_MAX = 100_000
# A line of progress in a log, where no bar can be drawn, after so many orders.
PROGRESS_EVERY = 50
SHOWN_MAX = 10


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    home: HomeOption,
    orders: Annotated[int, typer.Option(min=1, max=ORDERS_MAX, help="How many orders to place.")] = 500,
    coordination: Annotated[
        Coordination, typer.Option(help="How the orders are coordinated; naive is expected to fail.")
    ] = Coordination.ORCHESTRATED,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform up, if this command started it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Place orders as TPC-C draws them, kill payment and then order on the way, and account for every one.

    Starts the platform if it is not up. Exit code 1 when an order was lost, ended otherwise than it must, or the audit
    finds a violation: so naive, which has neither a log nor an undo, ends with 1, and that is its expected outcome.
    Exit code 2 when naive orders are asked of a platform that was started without `--allow-naive`.
    """
    from dockyard.local.options import allowing_naive, from_environ
    from dockyard.local.platform import Platform
    from libs.runtime.clock import SystemClock

    platform = Platform.open(home)
    options = from_environ(os.environ)
    if coordination is Coordination.NAIVE:
        options = allowing_naive(options)
    started = not platform.is_up() and platform.up(options, tethered=not keep, report=complain)
    try:
        story = _played(platform, orders, coordination, SystemClock())
    finally:
        if started and not keep:
            platform.down()
    summary = _summary(story, orders)
    answer(summary, as_json, lambda: _shown(story, summary))
    if summary["ended"] != orders or summary["violations"] or summary["parked"] or story.surprises:
        sys.exit(EXIT_FAILED)


def _played(platform: Any, orders: int, coordination: str, clock: Any) -> "Story":
    import uvloop
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from dockyard.load.demo import Demonstration

    console = Console(stderr=True)
    columns = (TextColumn("orders ended"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("orders", total=orders)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total)
            if what:
                bar.console.print(f"[{done}/{total}] {what}", highlight=False)
            elif not console.is_terminal and done % PROGRESS_EVERY == 0:
                console.print(f"[{done}/{total}]", highlight=False)

        return uvloop.run(Demonstration(platform, orders, coordination, clock, progress).play())


def _summary(story: "Story", orders: int) -> dict[str, Any]:
    tally = story.tally
    return {
        "coordination": story.coordination,
        "placed": len(tally.ended) + len(tally.failed),
        "ended": len(tally.ended),
        "parked": story.report.checked["parked"],
        "violations": len(story.violations),
        "violations_by_coordination": story.report.by_coordination(),
        "kills": len(story.kills),
        "killed": [service for service, _ in story.kills],
        "outcomes": dict(tally.outcomes().most_common()),
        "surprises": list(story.surprises),
        "failed": [message for _, message in tally.failed],
        "asked_again": sum(one.tries > 1 for one in tally.ended),
        "seconds": round(story.seconds, 1),
        "p50_ms": tally.latency_ms(0.5),
        "p99_ms": tally.latency_ms(0.99),
        "settled": story.report.settled,
        "checked": story.report.checked,
        "found": story.violations,
        "orders": orders,
    }


def _shown(story: "Story", summary: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    outcomes = Table("outcome", "orders", title="How the orders ended")
    for outcome, count in summary["outcomes"].items():
        outcomes.add_row(outcome, str(count))
    parts: list[RenderableType] = [outcomes]
    if story.timeline is not None:
        timeline = Table("time", "service", "what happened", "detail", title=f"One order: {story.timeline.order_id}")
        for entry in story.timeline.entries:
            timeline.add_row(entry.at[11:23], entry.service, entry.what, entry.detail)
        parts.append(timeline)
    parts.append(
        Text(
            f"{summary['ended']} of {summary['placed']} orders ended in {summary['seconds']} s "
            f"(p50 {summary['p50_ms']} ms, p99 {summary['p99_ms']} ms), {summary['asked_again']} after asking again; "
            f"killed on the way: {', '.join(summary['killed']) or 'nobody'}; {summary['parked']} parked"
        )
    )
    parts += [Text(line, "bold red") for line in _some([f"unexpected: {one}" for one in story.surprises])]
    parts += [Text(line, "red") for line in _some([f"lost: {message}" for message in summary["failed"]])]
    if story.violations:
        parts.append(_violations(story))
    checked = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary["checked"].items())
    parts.append(Text(f"audited {checked}"))
    parts.append(Text(_verdict(story), "bold red" if story.violations else "bold green"))
    return Group(*parts)


def _some(lines: list[str]) -> list[str]:
    """As many as anybody reads on a terminal."""
    more = [f"… and {len(lines) - SHOWN_MAX} more, --json has all"] if len(lines) > SHOWN_MAX else []
    return lines[:SHOWN_MAX] + more


def _violations(story: "Story") -> "RenderableType":
    """How often each promise was broken, with an example; the audit has every case."""
    from rich.table import Table

    kinds = Counter((one.guarantee, one.rule, one.coordination) for one in story.violations)
    examples = {(one.guarantee, one.rule, one.coordination): one for one in reversed(story.violations)}
    table = Table(
        "guarantee", "rule", "coordination", "found", "for example", title="Broken promises", title_style="red"
    )
    for kind, count in sorted(kinds.items()):
        one = examples[kind]
        table.add_row(*kind[:2], one.coordination or "–", str(count), f"{' '.join(one.ids)}: {one.message}")
    return table


def _verdict(story: "Story") -> str:
    if not story.violations:
        return "no violation: the guarantees hold"
    counts = ", ".join(f"{count} {style or 'of no order'}" for style, count in story.report.by_coordination().items())
    verdict = f"{len(story.violations)} violations ({counts})"
    if story.coordination == Coordination.NAIVE:
        return f"{verdict}: as expected of calls in a row, which have neither a log nor an undo"
    return verdict
