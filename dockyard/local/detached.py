"""`python -m dockyard.local.detached HOME`: a supervisor in a session of its own, and how to start one.

It reads its options from the first line of standard input and tells on standard output, one JSON object a line, how
it gets on, until it is up. A tethered one stops when its standard input ends: when whoever started it is gone,
however that went.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.local.home import Home
from dockyard.local.options import Options
from dockyard.local.problems import EnvironmentProblem


@dataclass(frozen=True, slots=True)
class Briefing:
    """What the supervisor is started with."""

    options: Options
    tethered: bool


@dataclass(frozen=True, slots=True)
class News:
    """One line from the starting supervisor: what it does, or how the start ended."""

    doing: str = ""
    # up, already-up or problem
    ended: str = ""
    problem: str = ""


def launch(home: Home, briefing: Briefing, report: Callable[[str], None]) -> "tuple[bool, subprocess.Popen[bytes]]":
    """Starts a supervisor and returns when the instance is up: whether it was this start, and the process.

    Raises EnvironmentProblem. Keep the process of a tethered supervisor: it lives as long as its standard input.
    """
    home.create()
    with home.log("supervisor").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dockyard.local.detached", str(home.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=home.path,
            start_new_session=True,
        )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(msgspec.json.encode(briefing) + b"\n")
    process.stdin.flush()
    if not briefing.tethered:
        process.stdin.close()
    try:
        with process.stdout:
            ended = _listen(process, report)
    except KeyboardInterrupt:
        # Whoever gives up waiting for the start does not want the rest of it either.
        process.terminate()
        process.wait()
        raise
    if ended.ended == "up":
        return True, process
    process.stdin.close()
    process.wait()
    if ended.ended == "already-up":
        return False, process
    raise EnvironmentProblem(
        ended.problem or f"the supervisor ended with code {process.returncode}; see {home.log('supervisor')}"
    )


def _listen(process: "subprocess.Popen[bytes]", report: Callable[[str], None]) -> News:
    """Passes on what it does until it says how its start ended; nothing when it ended without saying."""
    assert process.stdout is not None
    for line in process.stdout:
        news = msgspec.json.decode(line, type=News)
        if news.ended:
            return news
        report(news.doing)
    return News()


class _Teller:
    """Tells on standard output until the start has ended, or until nobody listens."""

    def __init__(self) -> None:
        self._listened_to = True

    def doing(self, what: str) -> None:
        self._tell(News(doing=what))

    def end(self, news: News) -> None:
        self._tell(news)
        if self._listened_to:
            self._listened_to = False
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)

    def _tell(self, news: News) -> None:
        if not self._listened_to:
            return
        try:
            os.write(sys.stdout.fileno(), msgspec.json.encode(news) + b"\n")
        except BrokenPipeError:
            self._listened_to = False


async def _supervise(home: Home, briefing: Briefing, teller: _Teller) -> None:
    from dockyard.local.supervisor import AlreadyUp, Supervisor
    from libs.runtime.clock import SystemClock

    supervisor = Supervisor(home, briefing.options, SystemClock(), teller.doing)
    loop = asyncio.get_running_loop()
    if briefing.tethered:
        loop.add_reader(sys.stdin.fileno(), _cut, loop, supervisor.stop)
    try:
        await supervisor.run(up=lambda _: teller.end(News(ended="up")))
    except AlreadyUp:
        teller.end(News(ended="already-up"))
    except EnvironmentProblem as problem:
        teller.end(News(ended="problem", problem=str(problem)))
        raise


def _cut(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    loop.remove_reader(sys.stdin.fileno())
    stop()


def _main() -> int:
    from libs.telemetry.logs import configure_logging, get_logger

    configure_logging("supervisor", "INFO")
    briefing = msgspec.json.decode(sys.stdin.buffer.readline(), type=Briefing)
    try:
        asyncio.run(_supervise(Home(Path(sys.argv[1])), briefing, _Teller()))
    except EnvironmentProblem as problem:
        get_logger(__name__).error("cannot go on: %s", problem)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(_main())
