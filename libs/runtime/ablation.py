"""Parts of Dockyard that can be left out, so that tests can show what each of them is there for.

A process is started without a part by naming it in DOCKYARD_WITHOUT ("barrier", "inbox", "decision-log", separated by
commas). It is decided when the process starts and never changes; nobody who wants to keep their money leaves anything
out, and every process that does says so in its log.
"""

import os
from collections.abc import Mapping

VARIABLE = "DOCKYARD_WITHOUT"
PARTS = frozenset({"barrier", "inbox", "decision-log"})


class UnknownPart(ValueError):
    """There is no such part to leave out."""


def left_out(environ: Mapping[str, str]) -> frozenset[str]:
    """The parts this environment leaves out. Raises UnknownPart."""
    named = frozenset(part.strip() for part in environ.get(VARIABLE, "").split(",") if part.strip())
    if unknown := sorted(named - PARTS):
        raise UnknownPart(f"{VARIABLE} knows {', '.join(sorted(PARTS))}, not {', '.join(unknown)}")
    return named


LEFT_OUT = left_out(os.environ)


def without(part: str) -> bool:
    """Whether this process runs without the part."""
    assert part in PARTS, f"{part} cannot be left out"
    return part in LEFT_OUT
