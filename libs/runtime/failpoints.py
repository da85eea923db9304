"""Named places where a process can be made to die, so that tests can prove it does not matter where.

A place is declared when its module is imported and costs one comparison when nothing is armed. The process dies by
SIGKILL: no handler runs, no buffer is flushed, as in a power cut.
"""

import os
import signal
from dataclasses import dataclass

_declared: dict[str, None] = {}


@dataclass(slots=True)
class _Armed:
    name: str = ""
    hits_left: int = 0


_armed = _Armed()


def declare(*names: str) -> None:
    """Makes the names known to those who want to try them all."""
    _declared.update(dict.fromkeys(names))


def declared() -> tuple[str, ...]:
    """Every declared name, in order of declaration."""
    return tuple(_declared)


def arm(place: str) -> None:
    """Arms "name" or "name@N": the process dies the first, or the N-th, time it gets there. "" disarms."""
    name, _, hit = place.partition("@")
    _armed.name = name
    _armed.hits_left = int(hit or 1)


def failpoint(name: str) -> None:
    """Dies here if this place is armed."""
    if name != _armed.name:
        return
    _armed.hits_left -= 1
    if _armed.hits_left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
