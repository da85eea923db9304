"""`dockyard compare`."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dockyard.terminal import EXIT_FAILED, JsonOption, answer, complain

if TYPE_CHECKING:
    from dockyard.compare.plan import Plan
    from dockyard.compare.result import Comparison

ORDERS_MAX = 100_000
# Away from the ports of an instance that is up already.
PORT_OFFSET = 2000


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    orders: Annotated[int, typer.Option(min=10, max=ORDERS_MAX, help="How many orders of each style.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed draws the same orders, for every style.")] = 1,
    styles: Annotated[
        str, typer.Option(help="Which styles, in the order in which they are shown.")
    ] = "orchestrated,choreographed,tcc,twophase,naive",
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the result into this PNG file.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave its data and logs where they are.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the same orders under every style, in turns, and show what each costs and what it promises.

    Starts a platform of its own on free ports with empty databases, and removes it afterwards. Exit code 1 when a style
    other than naive left an order without an end, or the audit finds a violation of one.
    """
    from dockyard.compare.plan import HONEST, Plan, parse_styles
    from dockyard.compare.table import shown

    plan = Plan(parse_styles(styles), orders, seed)
    draw = None if plot is None else _drawing()
    comparison = _compared(plan, keep)
    if draw is not None and plot is not None:
        draw(comparison, plot)
        complain(f"drawn into {plot}")
    answer(comparison, as_json, lambda: shown(comparison))
    broken = any(one.coordination in HONEST and not one.kept_its_promise for one in comparison.styles)
    if broken or comparison.violations_of_nobody:
        sys.exit(EXIT_FAILED)


def _drawing() -> "Callable[[Comparison, Path], None]":
    """What draws the picture; asked for before minutes of work are in vain. Raises EnvironmentProblem."""
    from dockyard.local.problems import EnvironmentProblem

    try:
        from dockyard.compare.plot import draw
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"{error.name} is needed to draw: `pip install matplotlib`") from None
    return draw


def _compared(plan: "Plan", keep: bool) -> "Comparison":
    """Runs the plan on a platform in a fresh home, which is removed unless something went wrong or it is to be kept."""
    import uvloop

    from dockyard.compare.run import Comparing
    from dockyard.local.options import Options, allowing_naive
    from dockyard.local.platform import Platform
    from dockyard.local.services import free_offset
    from libs.runtime.clock import SystemClock

    above = Path(tempfile.mkdtemp(prefix="dockyard-compare-"))
    # As root, PostgreSQL runs as another user, who must get through.
    above.chmod(0o711)
    platform = Platform.open(above / "home")
    whole = False
    try:
        platform.up(allowing_naive(Options(port_offset=free_offset(PORT_OFFSET))), tethered=True, report=complain)
        comparison = uvloop.run(Comparing(plan, platform, SystemClock(), complain).compare())
        whole = True
    finally:
        platform.down()
        if whole and not keep:
            shutil.rmtree(above, ignore_errors=True)
        else:
            complain(f"data and logs are in {platform.home.path}")
    return comparison
