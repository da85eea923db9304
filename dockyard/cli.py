"""The command line. A module in dockyard/commands/ that has `register(app)` is a group of commands."""

import pkgutil
import sys
from importlib import import_module

import typer

from dockyard import commands
from dockyard.local.problems import EnvironmentProblem
from dockyard.terminal import EXIT_ENVIRONMENT, EXIT_FAILED, EXIT_USAGE, complain
from libs.kernel.errors import DockyardError, Invalid


def application() -> typer.Typer:
    """The whole command line; modules import what is slow only inside the command that needs it."""
    app = typer.Typer(
        name="dockyard",
        help="The Dockyard workbench: start the platform, place orders, break it, audit it, measure it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for module in pkgutil.iter_modules(commands.__path__):
        import_module(f"{commands.__name__}.{module.name}").register(app)
    return app


def main() -> None:
    """Runs one command; what the world does not allow is one sentence, not a traceback."""
    try:
        application()()
    except EnvironmentProblem as error:
        complain(str(error))
        sys.exit(EXIT_ENVIRONMENT)
    except Invalid as error:
        complain(error.message)
        sys.exit(EXIT_USAGE)
    except DockyardError as error:
        complain(error.message)
        sys.exit(EXIT_FAILED)
