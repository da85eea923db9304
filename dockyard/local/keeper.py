"""Keeps one process alive: starts it, waits until it is ready, starts it again when it ends, stops it for good."""

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dockyard.local.problems import EnvironmentProblem
from dockyard.local.processes import identify
from dockyard.local.restarts import RestartPolicy
from dockyard.local.state import Running
from dockyard.local.waiting import last_words
from libs.runtime.clock import Clock
from libs.telemetry.logs import get_logger

# A process that has never been ready is tried this often before the whole start fails.
FIRST_STARTS_MAX = 3
# Services use them for "my settings are wrong" and "the environment does not let me": to try again would not help.
FINAL_EXIT_CODES = frozenset({2, 3})
READY_SECONDS = 60.0

log = get_logger(__name__)

Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Ward:
    """A process to be kept.

    `stop` lists signals, each with the seconds it may take, before SIGKILL. `ask_seconds` lie between two questions
    whether it is ready.
    """

    name: str
    log: Path
    spawn: Callable[[], Process]
    ready: Callable[[Process], Awaitable[bool]]
    stop: Sequence[tuple[signal.Signals, float]]
    ask_seconds: float = 0.01
    policy: RestartPolicy = field(default=RestartPolicy())


class Exits:
    """Tells when children end. `child_ended` is to be called on SIGCHLD."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def child_ended(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def of(self, process: Process) -> int:
        """The exit code; negative is the signal that ended it."""
        # Whoever ends between the question and the wait is reported by a callback that can only run during the wait.
        while (code := process.poll()) is None:
            await self._changed.wait()
        return code


class Keeper:
    """One kept process. `running` always says how it is; `changed` is called whenever that changes."""

    def __init__(self, ward: Ward, exits: Exits, clock: Clock, changed: Callable[[str, Running], None]) -> None:
        self._ward = ward
        self._exits = exits
        self._clock = clock
        self._changed = changed
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._was_ready = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()
        self._process: Process | None = None
        self._failed_starts = 0
        self._crashes_in_a_row = 0
        self.running = Running("stopped")

    @property
    def name(self) -> str:
        return self._ward.name

    async def first_ready(self) -> None:
        """Returns when the process has been ready for the first time."""
        await self._was_ready.wait()

    async def run(self) -> None:
        """Keeps the process until cancelled, which leaves it running: `stop` ends it. Raises EnvironmentProblem."""
        while True:
            await self._wanted.wait()
            self._stopped.clear()
            await self._live()
            self._stopped.set()

    async def _live(self) -> None:
        """One life of the process, from its start until it may be started again."""
        began = self._clock.monotonic()
        process = self._process = self._ward.spawn()
        self._set("starting", process=identify(process.pid), since_unix_ms=self._clock.unix_ms())
        if await self._became_ready(process):
            self._was_ready.set()
            self._set("ready")
        code = await self._exits.of(process)
        self._process = None
        exit_ = _told(code)
        if not self._wanted.is_set():
            self._set("stopped", process=None, last_exit=exit_)
            return
        if not self._was_ready.is_set():
            self._judge_first_start(code)
        ran = self._clock.monotonic() - began
        self._crashes_in_a_row = self._ward.policy.crashes_in_a_row(self._crashes_in_a_row, ran)
        delay = self._ward.policy.delay_seconds(self._crashes_in_a_row)
        log.warning("restarting", extra={"child": self.name, "exit": exit_, "ran_seconds": ran, "delay_seconds": delay})
        self._set("restarting", process=None, last_exit=exit_, restarts=self.running.restarts + 1)
        await self._clock.sleep(delay)

    async def _became_ready(self, process: Process) -> bool:
        deadline = self._clock.monotonic() + READY_SECONDS
        while process.poll() is None:
            if await self._ward.ready(process):
                return True
            if self._clock.monotonic() > deadline:
                log.error("killed because it did not become ready", extra={"child": self.name})
                process.kill()
                return False
            await self._clock.sleep(self._ward.ask_seconds)
        return False

    def _judge_first_start(self, code: int) -> None:
        self._failed_starts += 1
        if code in FINAL_EXIT_CODES or self._failed_starts >= FIRST_STARTS_MAX:
            raise EnvironmentProblem(
                f"{self.name} does not start ({_told(code)}): {last_words(self._ward.log)} (see {self._ward.log})"
            )

    async def stop(self) -> None:
        """Ends the process for good, gently first; returns when it is gone."""
        self._wanted.clear()
        process = self._process
        if process is not None:
            await self._end(process)
        self._process = None
        self._set("stopped", process=None)

    def kill(self) -> None:
        """Ends the present process at once."""
        if self._process is not None:
            self._process.kill()

    async def _end(self, process: Process) -> None:
        for number, seconds in self._ward.stop:
            if process.poll() is not None:
                return
            process.send_signal(number)
            try:
                async with asyncio.timeout(seconds):
                    await self._exits.of(process)
            except TimeoutError:
                log.warning("did not stop in time", extra={"child": self.name, "signal": number.name})
        process.kill()
        await self._exits.of(process)

    async def fulfil(self, serial: int, *, wanted: bool) -> None:
        """Fulfils a wish: ends the present process, then starts it again if it is wanted."""
        await self.stop()
        # `run` notices by itself; a start that waits for its delay must be over before the next begins.
        await self._stopped.wait()
        self.running = replace(self.running, serial=serial)
        self._set("starting" if wanted else "stopped")
        if wanted:
            self._wanted.set()

    def _set(self, phase: str, **changes: object) -> None:
        self.running = replace(self.running, phase=phase, **changes)  # type: ignore[arg-type]  # fields of Running
        self._changed(self.name, self.running)


def _told(code: int) -> str:
    """An exit code in words."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
