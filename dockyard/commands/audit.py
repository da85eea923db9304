"""`dockyard audit`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dockyard.terminal import EXIT_FAILED, HomeOption, JsonOption, answer, complain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dockyard.audit.run import Report

# More would not be read by anybody on a terminal; --json has them all.
SHOWN_MAX = 50


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    home: HomeOption,
    settle_seconds: Annotated[
        float, typer.Option(min=0, max=600, help="Wait up to this long for orders under way to end.")
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Recompute the guarantees from every service's records and the card processor's; exit code 1 if any is broken."""
    import asyncio

    from dockyard.audit.run import audit_databases
    from dockyard.local.platform import Platform
    from libs.kernel.errors import Unavailable
    from libs.runtime.clock import SystemClock

    platform = Platform.open(home)
    if not platform.is_up():
        raise Unavailable(f"the platform in {platform.home.path} is not up: start it with `dockyard up --detach`")
    report = asyncio.run(audit_databases(platform.database_urls, SystemClock(), settle_seconds, complain))
    answer(
        {
            "settled": report.settled,
            "checked": report.checked,
            "violations": len(report.violations),
            "violations_by_coordination": report.by_coordination(),
            "found": report.violations,
        },
        as_json,
        lambda: _shown(report),
    )
    if report.violations:
        sys.exit(EXIT_FAILED)


def _shown(report: "Report") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.checked.items())
    parts: list[RenderableType] = [Text(f"checked {counts}")]
    if not report.settled:
        parts.append(Text("some orders were still under way: a violation may be one of them in passing", "yellow"))
    if not report.violations:
        parts.append(Text("no violation: the guarantees hold", "bold green"))
        return Group(*parts)
    table = Table(
        "guarantee",
        "rule",
        "coordination",
        "ids",
        "found",
        title=f"{len(report.violations)} violations",
        title_style="bold red",
    )
    for one in report.violations[:SHOWN_MAX]:
        table.add_row(one.guarantee, one.rule, one.coordination or "–", "\n".join(one.ids), one.message)
    if len(report.violations) > SHOWN_MAX:
        parts.append(Text(f"the first {SHOWN_MAX} are shown; --json has all"))
    return Group(*parts, table)
