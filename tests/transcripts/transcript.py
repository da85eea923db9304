"""Transcripts: what was said, `----`, what happened; a blank line between two exchanges, `#` before a remark.

The format is that of cockroachdb's datadriven tests. `make transcripts` rewrites what happened; the diff is the review.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RULER = "----"

# Takes what is said, line by line, and answers with the lines of what happened.
Interpreter = Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """`remarks` stand above what was said and are kept as they are."""

    remarks: tuple[str, ...]
    said: tuple[str, ...]
    happened: tuple[str, ...]


def read(path: Path) -> list[Exchange]:
    return [_exchange(path, block) for block in path.read_text().strip().split("\n\n")]


def write(path: Path, exchanges: list[Exchange]) -> None:
    blocks = ["\n".join([*one.remarks, *one.said, RULER, *one.happened]) for one in exchanges]
    path.write_text("\n\n".join(blocks) + "\n")


def play(exchanges: list[Exchange], interpret: Interpreter) -> list[Exchange]:
    """The same exchanges with what really happened."""
    return [Exchange(one.remarks, one.said, tuple(interpret(list(one.said)))) for one in exchanges]


def _exchange(path: Path, block: str) -> Exchange:
    lines = block.split("\n")
    assert lines.count(RULER) == 1, f"{path.name}: one {RULER} between what is said and what happens, not in:\n{block}"
    ruler = lines.index(RULER)
    remarks = tuple(line for line in lines[:ruler] if line.startswith("#"))
    said = tuple(line for line in lines[:ruler] if not line.startswith("#"))
    assert said, f"{path.name}: nothing is said in:\n{block}"
    return Exchange(remarks, said, tuple(lines[ruler + 1 :]))
