"""Processes are known by pid and birth, and children never outlive their parent."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.local.children import Program, start
from dockyard.local.processes import Identity, gone, identify, is_alive, send, usage
from dockyard.local.waiting import wait_until
from libs.runtime.clock import SystemClock

CLOCK = SystemClock()
FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = start(Program(FOREVER, tmp_path / "log", signal.SIGKILL, os.environ))
    yield process
    process.kill()
    process.wait()


def identity(process: "subprocess.Popen[bytes]") -> Identity:
    found = identify(process.pid)
    assert found is not None
    return found


def test_a_process_is_alive_until_it_ends_even_before_it_is_reaped(sleeper: "subprocess.Popen[bytes]") -> None:
    known = identity(sleeper)
    assert is_alive(known)
    assert send(known, signal.SIGKILL)
    assert gone([known], CLOCK, seconds=10) == []
    assert sleeper.returncode is None, "nobody has reaped it yet"
    assert identify(sleeper.pid) is None


def test_a_pid_that_was_given_away_is_never_signalled(sleeper: "subprocess.Popen[bytes]") -> None:
    somebody_before = replace(identity(sleeper), birth="another time")
    assert not is_alive(somebody_before)
    assert not send(somebody_before, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_process_that_is_gone_is_not_signalled(sleeper: "subprocess.Popen[bytes]") -> None:
    known = identity(sleeper)
    sleeper.kill()
    sleeper.wait()
    assert not send(known, signal.SIGTERM)
    assert usage(known) is None


def test_who_does_not_end_in_time_is_told(sleeper: "subprocess.Popen[bytes]") -> None:
    assert gone([identity(sleeper)], CLOCK, seconds=0) == [identity(sleeper)]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_usage_counts_descendants(tmp_path: Path) -> None:
    burn = "import os, signal; os.fork(); sum(range(3_000_000)); print('done', flush=True); signal.pause()"
    log = tmp_path / "log"
    process = start(Program([sys.executable, "-c", burn], log, signal.SIGKILL, os.environ))
    try:
        assert wait_until(lambda: log.read_text().count("done") == 2, CLOCK, seconds=30)
        whole = usage(identity(process))
        child = next(int(pid) for pid in children(process.pid))
        part = usage(Identity(child, identify(child).birth))  # type: ignore[union-attr]
        assert whole is not None and part is not None
        assert whole.cpu_seconds > part.cpu_seconds > 0
        assert whole.rss_bytes > 1024 * 1024
        os.kill(child, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
@pytest.mark.parametrize(
    "as_nobody", [False, pytest.param(True, marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root"))]
)
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, *, as_nobody: bool) -> None:
    parent_of_one = f"""
import signal, sys
from pathlib import Path
from dockyard.local.account import server_account
from dockyard.local.children import Program, start
account = server_account() if {as_nobody} else None
argv = ["/bin/sh", "-c", "echo ready; while :; do sleep 3600; done"]
log = Path({str(tmp_path / "log")!r})
child = start(Program(argv, log, signal.SIGKILL, {{"PATH": "/usr/bin:/bin"}}, account=account))
print(child.pid, flush=True)
signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", parent_of_one], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = identify(int(parent.stdout.readline()))
    assert child is not None
    assert wait_until(lambda: "ready" in (tmp_path / "log").read_text(), CLOCK, seconds=10)
    assert is_alive(child)
    parent.kill()
    parent.wait()
    assert gone([child], CLOCK, seconds=10) == []


def test_a_child_has_a_process_group_of_its_own(sleeper: "subprocess.Popen[bytes]") -> None:
    assert os.getpgid(sleeper.pid) == sleeper.pid
