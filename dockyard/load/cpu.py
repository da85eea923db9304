"""CPU seconds of whole process trees, read from /proc: what an order costs, all of it."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the command name (proc(5)).
_PARENT, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 11, 12, 13, 14


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    own_seconds: float
    reaped_seconds: float


def tree_seconds(roots: Collection[int]) -> Mapping[int, float]:
    """User and system seconds of each root with all its descendants, those that ended included. Linux only."""
    processes = _processes()
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    return {root: _subtree(root, processes, children) for root in roots}


def _subtree(root: int, processes: Mapping[int, _Process], children: Mapping[int, list[int]]) -> float:
    seconds, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        process = processes.get(pid)
        if process is not None:
            seconds += process.own_seconds + process.reaped_seconds
            waiting.extend(children.get(pid, ()))
    return seconds


def _processes() -> dict[int, _Process]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(entry.name)] = _parse(stat)
    return found


def _parse(stat: str) -> _Process:
    # The command name is in parentheses and may contain anything, spaces included.
    fields = stat[stat.rindex(")") + 2 :].split()
    own = int(fields[_USER]) + int(fields[_SYSTEM])
    reaped = int(fields[_CHILDREN_USER]) + int(fields[_CHILDREN_SYSTEM])
    return _Process(int(fields[_PARENT]), own / _TICKS, reaped / _TICKS)
