"""`dockyard up`, `down`, `status`, `logs`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dockyard.terminal import EXIT_FAILED, EXIT_USAGE, HomeOption, JsonOption, answer, complain

if TYPE_CHECKING:
    from rich.table import Table

    from dockyard.local.options import Options
    from dockyard.local.platform import Platform

# dockyard.local.services.PORT_OFFSET_MAX, without importing it for every command.
PORT_OFFSET_MAX = 50_000
MEBIBYTE = 1024 * 1024

PortOffsetOption = Annotated[
    int | None,
    typer.Option(
        "--port-offset",
        min=0,
        max=PORT_OFFSET_MAX,
        show_default="as last time, at first 0",
        help="Add this to every port, so that instances run side by side.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(logs)


def up(
    home: HomeOption,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready.")] = False,
    port_offset: PortOffsetOption = None,
    allow_naive: Annotated[
        bool, typer.Option("--allow-naive", help="Take naive orders too, which lose money when anything goes wrong.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start PostgreSQL, Redis and the services, and keep them alive until Ctrl-C (or `dockyard down`).

    If they are up, --allow-naive starts the order service again, and nothing else happens.
    """
    from dockyard.local.options import allowing_naive, from_environ
    from dockyard.local.platform import Platform

    platform = Platform.open(home)
    options = from_environ(os.environ, port_offset)
    if allow_naive:
        options = allowing_naive(options)
    if detach or platform.is_up():
        started = platform.up(options, report=_tell)
        if allow_naive and not started:
            platform.restart("order", environ=options.environ["order"])
        _show_up(platform, as_json, already=not started)
    else:
        _stay(platform, options, as_json)


def _stay(platform: "Platform", options: "Options", as_json: bool) -> None:
    """The supervisor in the foreground."""
    import asyncio

    from dockyard.local.supervisor import AlreadyUp, Supervisor
    from libs.runtime.clock import SystemClock
    from libs.telemetry.logs import configure_logging

    home = platform.home
    home.create()

    async def run() -> None:
        supervisor = Supervisor(home, options, SystemClock(), _tell)
        await supervisor.run(up=lambda _: _show_up(platform, as_json, already=False))

    with home.log("supervisor").open("a") as log:
        configure_logging("supervisor", "INFO", log)
        try:
            asyncio.run(run())
        except AlreadyUp:
            platform.up(options)
            _show_up(platform, as_json, already=True)


def _tell(what: str) -> None:
    complain(f"· {what}")


def _show_up(platform: "Platform", as_json: bool, *, already: bool) -> None:
    value = {
        "home": str(platform.home.path),
        "already_up": already,
        "services": {
            name: {"url": one.url, "grpc": one.grpc_address if one.grpc_port else None}
            for name, one in platform.services.items()
            if name in platform.state.running
        },
    }
    answer(value, as_json, lambda: _urls_table(value))


def _urls_table(value: dict[str, Any]) -> "Table":
    from rich.table import Table

    title = f"{'already up' if value['already_up'] else 'up'} in {value['home']}"
    table = Table("service", "HTTP (OpenAPI at /docs)", "gRPC (with reflection)", title=title, title_justify="left")
    for name, one in sorted(value["services"].items()):
        table.add_row(name, one["url"], one["grpc"] or "–")
    return table


def down(home: HomeOption, as_json: JsonOption = False) -> None:
    """Stop the instance: services first, then Redis and PostgreSQL."""
    from dockyard.local.platform import Platform

    stopped = Platform.open(home).down()
    sentence = f"{home} is down" if stopped else f"nothing was up in {home}"
    answer({"home": str(home), "was_up": stopped}, as_json, lambda: sentence)


def status(home: HomeOption, as_json: JsonOption = False) -> None:
    """Show what runs: processes, ports, uptime, restarts, CPU and memory. Exit code 1 when it is not up."""
    from dockyard.local.platform import Platform
    from dockyard.local.status import take
    from libs.runtime.clock import SystemClock

    taken = take(Platform.open(home), SystemClock())
    answer(taken, as_json, lambda: _status_table(taken))
    if taken.phase != "up":
        raise typer.Exit(EXIT_FAILED)


def _status_table(taken: Any) -> "Table | str":
    if not taken.processes:
        return f"nothing is up in {taken.home}: start it with `dockyard up`"
    from rich.table import Table

    table = Table(title=f"{taken.phase} in {taken.home}", title_justify="left")
    table.add_column("process")
    table.add_column("phase")
    for name in ("pid", "ports", "up s", "restarts", "CPU s", "MiB"):
        table.add_column(name, justify="right")
    for one in taken.processes:
        table.add_row(
            one.name,
            one.phase,
            str(one.pid or "–"),
            " ".join(map(str, one.ports)) or "–",
            f"{one.uptime_seconds:.0f}",
            f"{one.restarts}{f' ({one.last_exit})' if one.last_exit else ''}",
            "–" if one.cpu_seconds is None else f"{one.cpu_seconds:.1f}",
            "–" if one.rss_bytes is None else f"{one.rss_bytes / MEBIBYTE:.0f}",
        )
    return table


def logs(
    service: Annotated[
        str, typer.Argument(help="order, payment, inventory, shipping, psp, postgres, redis, supervisor")
    ],
    home: HomeOption,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the end of a process's log; --json shows the lines as they are written, an object each."""
    from dockyard.local.home import Home
    from dockyard.local.logfiles import Follower, shown, tail

    place = Home(Path(home)).log(service)
    if not place.exists():
        known = ", ".join(sorted(path.stem for path in place.parent.glob("*.log"))) or "none yet"
        complain(f"there is no log of {service!r} in {place.parent}; there are: {known}")
        raise typer.Exit(EXIT_USAGE)
    follower = Follower(place) if follow else None

    def write(line: str) -> None:
        sys.stdout.write(shown(line, as_json) + "\n")
        sys.stdout.flush()

    for line in tail(place, lines):
        write(line)
    if follower is not None:
        follower.run(write)
