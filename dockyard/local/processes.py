"""Other processes by pid and birth: a pid that was given to somebody else since is not the process we knew."""

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dockyard.local.waiting import wait_until
from libs.runtime.clock import Clock

# Fields of /proc/PID/stat after the command name (proc(5)).
_STATE, _PARENT, _USER, _SYSTEM, _BORN = 0, 1, 11, 12, 19
_DEAD = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for certain: `birth` is its start time in the boot it lived in."""

    pid: int
    birth: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its descendants have taken. Memory that descendants share counts once."""

    cpu_seconds: float
    rss_bytes: int


def identify(pid: int) -> Identity | None:
    """Who has the pid now; None when nobody does or the process has ended and waits to be reaped."""
    birth = _birth(pid)
    return None if birth is None else Identity(pid, birth)


def is_alive(one: Identity) -> bool:
    return _birth(one.pid) == one.birth


def send(one: Identity, number: int) -> bool:
    """Signals that process and no other; False when it is gone."""
    with _pinned(one.pid) as handle:
        if not is_alive(one):
            return False
        try:
            if handle is None:
                os.kill(one.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
    return True


@contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A handle through which the process can be signalled even if its pid is given away meanwhile (Linux)."""
    if sys.platform != "linux":
        yield None
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def gone(processes: Collection[Identity], clock: Clock, seconds: float) -> list[Identity]:
    """Waits until all have ended; those that have not after `seconds`."""
    wait_until(lambda: not any(map(is_alive, processes)), clock, seconds)
    return [one for one in processes if is_alive(one)]


def usage(root: Identity) -> Usage | None:
    """What the process and its descendants take; None when it is gone or this is not Linux."""
    if sys.platform != "linux" or not is_alive(root):
        return None
    stats = {int(entry.name): fields for entry in Path("/proc").iterdir() if (fields := _stat(entry.name))}
    tree = [root.pid]
    for pid in tree:
        tree.extend(child for child, fields in stats.items() if int(fields[_PARENT]) == pid)
    ticks = sum(int(fields[_USER]) + int(fields[_SYSTEM]) for pid in tree if (fields := stats.get(pid)))
    pages = sum(_pages(pid, with_shared=pid == root.pid) for pid in tree)
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def _pages(pid: int, *, with_shared: bool) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(resident) - (0 if with_shared else int(shared))


def _birth(pid: int) -> str | None:
    if sys.platform != "linux":
        return _birth_by_ps(pid)
    fields = _stat(str(pid))
    if fields is None or fields[_STATE] in _DEAD:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{boot}-{fields[_BORN]}"


def _birth_by_ps(pid: int) -> str | None:
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    )
    state, _, birth = shown.stdout.strip().partition(" ")
    return None if not birth or state[0] in _DEAD else birth.strip()


def _stat(pid: str) -> list[str] | None:
    if not pid.isdigit():
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may contain anything, spaces included.
    return stat[stat.rindex(")") + 2 :].split()
