"""What a supervisor that died may have left running: recorded processes, ended by pid and birth, never by name."""

import signal
from collections.abc import Mapping

from dockyard.local.processes import Identity, gone, is_alive, send
from dockyard.local.state import State
from libs.runtime.clock import Clock

# Postgres is asked, everybody else is durable elsewhere and ends at once.
POSTGRES_SECONDS = 20.0
END_SECONDS = 5.0


def found(state: State) -> Mapping[str, Identity]:
    """The recorded processes that are still there."""
    recorded = {name: one.process for name, one in state.running.items()}
    return {name: process for name, process in recorded.items() if process is not None and is_alive(process)}


def end(state: State, clock: Clock) -> None:
    """Ends them all; returns when they are gone."""
    left = found(state)
    for name, process in left.items():
        send(process, signal.SIGINT if name == "postgres" else signal.SIGKILL)
    for seconds, number in ((POSTGRES_SECONDS, signal.SIGQUIT), (END_SECONDS, signal.SIGKILL)):
        for process in gone(left.values(), clock, seconds):
            send(process, number)
    gone(left.values(), clock, END_SECONDS)
