"""The lines of a saga's log: what happened, in the past tense; their names and fields are stored, so they stay."""

from enum import StrEnum
from typing import Any

import msgspec

CANCEL_REQUESTED = "cancel-requested"


class FaultKind(StrEnum):
    """Whether a failed try may have had its effect."""

    UNAVAILABLE = "unavailable"
    IN_DOUBT = "in-doubt"


class Entry(msgspec.Struct, frozen=True, tag=True):
    """A line of a saga's log."""


class Started(Entry, frozen=True):
    pass


class TakenUp(Entry, frozen=True):
    """Another process carries on here: what was done after the line before is not known. Durable before it does.

    The name makes this line differ from a rival's in the same place, so that only one of them can write on.
    """

    by: str


class StepDone(Entry, frozen=True):
    step: str
    result: Any = None


class StepRefused(Entry, frozen=True):
    step: str
    code: str
    message: str


class StepFailed(Entry, frozen=True):
    """A try of a do that got no answer; it may be tried again."""

    step: str
    attempt: int
    kind: FaultKind
    message: str


class PivotDecided(Entry, frozen=True):
    """From here on the pivot may have been sent. Durable before it is."""

    step: str


class UndoDecided(Entry, frozen=True):
    """From here on nothing is done any more, only undone. Durable before the first undo is sent."""

    step: str
    code: str
    message: str


class UndoDone(Entry, frozen=True):
    step: str
    result: Any = None


class UndoFailed(Entry, frozen=True):
    step: str
    attempt: int
    message: str


class CancelRequested(Entry, frozen=True):
    """Somebody wants the saga to go back; the code says who: its customer, or an operator."""

    reason: str
    code: str = CANCEL_REQUESTED


class Parked(Entry, frozen=True):
    """Nobody goes on by himself: the reason says which step needs an operator."""

    reason: str


class Resumed(Entry, frozen=True):
    """An operator lets a parked saga try again."""

    by: str
    why: str


class Skipped(Entry, frozen=True):
    """An operator proves that a step of a parked saga was done, or undone if it goes back: it counts as that.

    Nothing is sent for it any more, and the saga goes on.
    """

    step: str
    by: str
    why: str
    proof: str


class EndForced(Entry, frozen=True):
    """An operator ends a parked saga as it stands: nothing more is done, nothing is undone."""

    by: str
    why: str


class Ended(Entry, frozen=True):
    outcome: str


AnyEntry = (
    Started
    | TakenUp
    | StepDone
    | StepRefused
    | StepFailed
    | PivotDecided
    | UndoDecided
    | UndoDone
    | UndoFailed
    | CancelRequested
    | Parked
    | Resumed
    | Skipped
    | EndForced
    | Ended
)
