"""Where sagas are remembered."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from libs.saga.entries import AnyEntry, Ended, EndForced, Parked, Resumed, Skipped, UndoDecided
from libs.saga.machine import FORCED

RUNNING = "running"
UNDOING = "undoing"
PARKED = "parked"
ENDED = "ended"
# Not a status: an operator let it go on, and whether it goes on or back the whole log says.
RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class Instance:
    """A saga to run: its definition's name and version, what it is about, and the trace it belongs to."""

    saga_id: str
    saga: str
    version: int
    input: Any
    traceparent: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Line:
    """A log entry with its place in the log and its time."""

    seq: int
    at: datetime
    entry: AnyEntry


@dataclass(frozen=True, slots=True)
class Remembered:
    """An instance with its whole log, oldest line first."""

    instance: Instance
    status: str
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Tail:
    """Lines to add to one saga's log."""

    saga_id: str
    lines: Sequence[Line]


def status_after(lines: Sequence[Line]) -> tuple[str, str, str] | None:
    """The status these lines lead to, with outcome and parked reason; None when they do not change it.

    RESUMED stands for undoing in a log that holds UndoDecided, and for running in any other.
    """
    for line in reversed(lines):
        match line.entry:
            case Ended(outcome=outcome):
                return ENDED, outcome, ""
            case EndForced():
                return ENDED, FORCED, ""
            case Parked(reason=reason):
                return PARKED, "", reason
            case UndoDecided():
                return UNDOING, "", ""
            case Resumed() | Skipped():
                return RESUMED, "", ""
    return None


class SagaLog(Protocol):
    """The promise: what `write` took survives, and of two writers of one saga one finds out."""

    async def write(self, tails: Sequence[Tail]) -> Collection[str]:
        """Adds the lines of many sagas in one transaction.

        Writing the same lines again changes nothing. A saga that has another line in the place of one of these keeps
        its log as it is, and is in the answer: somebody else went on with it.
        """
        ...

    async def unfinished(self, after: str, limit: int) -> Sequence[str]:
        """The ids, in order, of sagas that are neither ended nor parked, after this id."""
        ...

    async def load(self, saga_ids: Sequence[str]) -> Mapping[str, Remembered]:
        """The sagas that exist among these."""
        ...

    def exclusive(self) -> AbstractAsyncContextManager["Hold"]:
        """Waits until no other process runs this log's sagas, then holds that right."""
        ...


class Hold(Protocol):
    async def check(self) -> None:
        """Returns while the right is still held. Raises Unavailable when it is lost."""
        ...
