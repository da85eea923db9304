"""Waiting in a program that has nothing else to do: for processes to be ready, or gone."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dockyard.local.problems import EnvironmentProblem
from libs.runtime.clock import Clock, SystemClock

# How often a starting process is asked; one ask costs well under a millisecond.
ASK_SECONDS = 0.01
LOG_TAIL_BYTES = 400


def wait_until(done: Callable[[], bool], clock: Clock, seconds: float) -> bool:
    """Asks again and again; whether it was done within `seconds`. Blocks the thread: not for an event loop."""
    deadline = clock.monotonic() + seconds
    while not done():
        if clock.monotonic() > deadline:
            return False
        pause()
    return True


def pause() -> None:
    """Lets other processes get on before they are asked again."""
    time.sleep(ASK_SECONDS)  # noqa: TID251  (other processes are waited for, and they tell nobody)


def wait_ready(
    process: "subprocess.Popen[bytes]",
    ready: Callable[[], bool],
    what: str,
    log: Path,
    *,
    seconds: float,
    clock: Clock | None = None,
) -> None:
    """Returns when `ready` says so. Raises EnvironmentProblem when the process ends before, or takes too long."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + seconds
    while not ready():
        try:
            code = process.wait(ASK_SECONDS)
        except subprocess.TimeoutExpired:
            if clock.monotonic() > deadline:
                process.kill()
                process.wait()
                raise EnvironmentProblem(f"{what} was not ready after {seconds:.0f} s; see {log}") from None
        else:
            raise EnvironmentProblem(f"{what} ended with code {code} while it started: {last_words(log)} (see {log})")


def last_words(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
