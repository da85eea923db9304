"""What every command shares: its common options, answers for people or programs, exit codes.

Exit codes: 0 done, 1 it failed, 2 wrong usage or settings, 3 the environment does not allow it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dockyard.local.home import default_home

if TYPE_CHECKING:
    from rich.console import RenderableType

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3

HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="DOCKYARD_HOME",
        default_factory=default_home,
        show_default="/var/lib/dockyard as root, else ~/.local/state/dockyard",
        help="Where this instance keeps its data, state and logs.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]


def answer(value: Any, as_json: bool, shown: "Callable[[], RenderableType]") -> None:
    """Prints `value` as one JSON line for programs, or what `shown` makes of it for people."""
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        sys.stdout.flush()
    else:
        from rich.console import Console

        Console().print(shown())


def complain(sentence: str) -> None:
    """One sentence on standard error."""
    sys.stderr.write(sentence.rstrip() + "\n")
