"""One process is kept alive."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dockyard.local.children import Program, start
from dockyard.local.keeper import FIRST_STARTS_MAX, Exits, Keeper, Process, Ward
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.processes import is_alive
from dockyard.local.restarts import RestartPolicy
from dockyard.local.state import Running
from libs.runtime.clock import SystemClock

SOON = RestartPolicy(first_delay_seconds=0.001, delay_seconds_max=0.001)
RUNS = "import signal; print('ready', flush=True); signal.pause()"
ON_SIGTERM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: {})
print("ready", flush=True)
while True:
    signal.pause()
"""
IGNORES_SIGTERM = ON_SIGTERM.format("None")
ENDS_WELL = ON_SIGTERM.format("sys.exit(0)")


class Watched:
    """A keeper of a small program, and everything it said."""

    def __init__(self, log: Path, source: str, *, stop_seconds: float = 10.0) -> None:
        self.log = log
        self.exits = Exits()
        self.said: list[Running] = []
        self._news = asyncio.Event()
        self.starts = 0

        def spawn() -> Process:
            self.starts += 1
            log.write_bytes(b"")
            return start(Program([sys.executable, "-c", source], log, signal.SIGKILL, os.environ))

        def said_ready() -> bool:
            return "ready" in log.read_text()

        async def ready(_: Process) -> bool:
            return said_ready()

        ward = Ward("lamp", log, spawn, ready, ((signal.SIGTERM, stop_seconds),), policy=SOON)
        self.keeper = Keeper(ward, self.exits, SystemClock(), self._changed)

    def _changed(self, name: str, running: Running) -> None:
        assert name == "lamp"
        self.said.append(running)
        self._news.set()

    async def until(self, told: Callable[[Running], bool]) -> Running:
        async with asyncio.timeout(20):
            while not told(self.keeper.running):
                self._news.clear()
                await self._news.wait()
        return self.keeper.running


@asynccontextmanager
async def kept(log: Path, source: str, *, stop_seconds: float = 10.0) -> AsyncIterator[Watched]:
    watched = Watched(log, source, stop_seconds=stop_seconds)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, watched.exits.child_ended)
    try:
        async with asyncio.TaskGroup() as group:
            run = group.create_task(watched.keeper.run())
            try:
                yield watched
            finally:
                run.cancel()
    finally:
        await watched.keeper.stop()
        loop.remove_signal_handler(signal.SIGCHLD)


def pid(running: Running) -> int:
    assert running.process is not None
    return running.process.pid


async def test_a_killed_process_is_started_again_and_the_restart_is_counted(tmp_path: Path) -> None:
    async with kept(tmp_path / "log", RUNS) as watched:
        first = await watched.until(lambda one: one.phase == "ready")
        os.kill(pid(first), signal.SIGKILL)
        second = await watched.until(lambda one: one.phase == "ready" and one.restarts == 1)
        assert pid(second) != pid(first)
        assert second.last_exit == "killed by SIGKILL"
        assert [one.phase for one in watched.said] == ["starting", "ready", "restarting", "starting", "ready"]


async def test_a_process_that_ends_well_is_started_again_too(tmp_path: Path) -> None:
    async with kept(tmp_path / "log", ENDS_WELL) as watched:
        first = await watched.until(lambda one: one.phase == "ready")
        os.kill(pid(first), signal.SIGTERM)
        again = await watched.until(lambda one: one.phase == "ready" and one.restarts == 1)
        assert again.last_exit == "exit code 0"


async def test_a_stopped_process_stays_down(tmp_path: Path) -> None:
    async with kept(tmp_path / "log", RUNS) as watched:
        first = await watched.until(lambda one: one.phase == "ready")
        await watched.keeper.stop()
        assert first.process is not None and not is_alive(first.process)
        assert watched.keeper.running.phase == "stopped"
        assert watched.starts == 1


async def test_a_process_that_ignores_the_gentle_signal_is_killed(tmp_path: Path) -> None:
    async with kept(tmp_path / "log", IGNORES_SIGTERM, stop_seconds=0.05) as watched:
        await watched.until(lambda one: one.phase == "ready")
        await watched.keeper.stop()
        stopped = await watched.until(lambda one: one.last_exit != "")
        assert stopped.last_exit == "killed by SIGKILL"


async def test_a_wish_ends_the_process_and_starts_the_next(tmp_path: Path) -> None:
    async with kept(tmp_path / "log", RUNS) as watched:
        first = await watched.until(lambda one: one.phase == "ready")
        await watched.keeper.fulfil(1, wanted=True)
        second = await watched.until(lambda one: one.phase == "ready" and one.serial == 1)
        assert pid(second) != pid(first)
        assert second.restarts == 0, "a wish is not a crash"
        await watched.keeper.fulfil(2, wanted=False)
        assert watched.keeper.running.phase == "stopped"
        assert watched.keeper.running.serial == 2
        await watched.keeper.fulfil(3, wanted=True)
        await watched.until(lambda one: one.phase == "ready" and one.serial == 3)


async def problem_of(watched: Watched) -> EnvironmentProblem:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, watched.exits.child_ended)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(EnvironmentProblem) as raised:
                await watched.keeper.run()
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)
    return raised.value


async def test_wrong_settings_fail_the_first_start_at_once_with_the_last_words(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "log", "import sys; sys.exit(print('ORDER_PORT is missing; set it') or 2)")
    problem = await problem_of(watched)
    assert str(problem).startswith("lamp does not start (exit code 2): ORDER_PORT is missing; set it (see ")
    assert watched.starts == 1


async def test_a_process_that_never_became_ready_is_tried_a_few_times(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "log", "raise SystemExit(1)")
    problem = await problem_of(watched)
    assert "lamp does not start (exit code 1): it said nothing" in str(problem)
    assert watched.starts == FIRST_STARTS_MAX
