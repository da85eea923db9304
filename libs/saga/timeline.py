"""A saga's log in words, for people: what was tried, what came of it, and what it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.saga.definition import Saga
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    Ended,
    EndForced,
    Parked,
    PivotDecided,
    Resumed,
    Skipped,
    Started,
    StepDone,
    StepFailed,
    StepRefused,
    TakenUp,
    UndoDecided,
    UndoDone,
    UndoFailed,
)
from libs.saga.log import Line
from libs.saga.machine import Action, Do, Record, Undo, fold, next_actions


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of a timeline; `step` and `attempt` are empty and 0 where it is about the whole saga."""

    at: datetime
    what: str
    step: str = ""
    attempt: int = 0
    detail: str = ""


def moments(lines: Sequence[Line]) -> list[Moment]:
    """The log in words, oldest first."""
    return [Moment(line.at, *_words(line.entry)) for line in lines]


def state_of(lines: Sequence[Line]) -> str:
    """running, undoing, parked, completed, undone or forced."""
    state = fold(line.entry for line in lines)
    if state.outcome is not None:
        return state.outcome
    if state.parked is not None:
        return "parked"
    return "undoing" if state.undo is not None else "running"


def waits_for(saga: Saga, lines: Sequence[Line]) -> str:
    """What an unfinished saga waits for since when; "" when it has ended."""
    what, colon, reason = awaited(saga, lines).partition(": ")
    since = f" since {lines[-1].at.isoformat(timespec='milliseconds')}" if what and lines else ""
    return f"{what}{since}{colon}{reason}"


def awaited(saga: Saga, lines: Sequence[Line]) -> str:
    """What an unfinished saga waits for since its last line; "" when it has ended."""
    state = fold(line.entry for line in lines)
    if state.outcome is not None:
        return ""
    if state.parked is not None:
        return f"an operator: {state.parked}"
    return " and ".join(_awaited(action) for action in next_actions(saga, state))


def _awaited(action: Action) -> str:
    match action:
        case Do(step=step, attempt=attempt):
            return f"{step} (try {attempt})"
        case Undo(step=step, attempt=attempt):
            return f"the undo of {step} (try {attempt})"
        case Record():
            return "its log"


def _words(entry: AnyEntry) -> tuple[str, str, int, str]:
    """What happened, at which step, at which try, and what more there is to say."""
    match entry:
        case Started():
            return "saga started", "", 0, ""
        case TakenUp(by=by):
            return (
                "carried on by another process",
                "",
                0,
                f"{by}; what was answered since the line before is asked again",
            )
        case StepDone(step=step, result=result):
            return f"{step} done", step, 0, _detail(result)
        case StepRefused(step=step, code=code, message=message):
            return f"{step} refused: {code}", step, 0, message
        case StepFailed(step=step, attempt=attempt, kind=kind, message=message):
            return f"{step} {kind}", step, attempt, message
        case PivotDecided(step=step):
            return f"pivot decided: {step}", step, 0, "nothing is undone before its answer is known"
        case UndoDecided(step=step, code=code, message=message):
            return f"undo decided: {code}", step, 0, message
        case UndoDone(step=step, result=result):
            return f"{step} undone", step, 0, _detail(result)
        case UndoFailed(step=step, attempt=attempt, message=message):
            return f"undo of {step} failed", step, attempt, message
        case CancelRequested(reason=reason, code=code):
            return code.replace("-", " "), "", 0, reason
        case Parked(reason=reason):
            return "parked", "", 0, reason
        case Resumed(by=by, why=why):
            return f"resumed by {by}", "", 0, why
        case Skipped(step=step, by=by, why=why, proof=proof):
            return f"{step} skipped by {by}", step, 0, f"{why}; proof: {proof}"
        case EndForced(by=by, why=why):
            return f"ended by {by}", "", 0, why
        case Ended(outcome=outcome):
            return f"saga ended: {outcome}", "", 0, ""


def _detail(result: Any) -> str:
    if isinstance(result, dict):
        return " ".join(f"{name}={value}" for name, value in result.items())
    return "" if result is None else str(result)
