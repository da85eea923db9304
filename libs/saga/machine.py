"""What a saga does next, from its definition and its log alone: pure, so recovery is the ordinary path.

running ──every step done──▶ ended(completed)
   │ a step refused, or given up, before the pivot was done; or a cancel request
   ▼
undoing ──every done step undone──▶ ended(undone)

either ──a step that must succeed was given up──▶ parked(reason) ──an operator──▶ back
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec

from libs.saga.definition import Kind, Saga, Step

COMPLETED = "completed"
UNDONE = "undone"
CANCEL_REQUESTED = "cancel-requested"


class FaultKind(StrEnum):
    """Whether a failed try may have had its effect."""

    UNAVAILABLE = "unavailable"
    IN_DOUBT = "in-doubt"


class Entry(msgspec.Struct, frozen=True, tag=True):
    """A line of a saga's log."""


class Started(Entry, frozen=True):
    pass


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
    reason: str


class Parked(Entry, frozen=True):
    """Nobody goes on by himself: the reason says which step needs an operator."""

    reason: str


class Resumed(Entry, frozen=True):
    """An operator lets a parked saga try again."""

    by: str
    why: str


class Ended(Entry, frozen=True):
    outcome: str


AnyEntry = (
    Started
    | StepDone
    | StepRefused
    | StepFailed
    | UndoDecided
    | UndoDone
    | UndoFailed
    | CancelRequested
    | Parked
    | Resumed
    | Ended
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one step is. `failures` counts tries of the do, `undo_failures` of the undo, since the last resume."""

    done: bool = False
    refused: bool = False
    undone: bool = False
    in_doubt: bool = False
    failures: int = 0
    undo_failures: int = 0
    code: str = ""
    message: str = ""


_NOTHING = Progress()


@dataclass(frozen=True, slots=True)
class State:
    """What the log so far adds up to."""

    steps: Mapping[str, Progress] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    undo: UndoDecided | None = None
    cancel: str | None = None
    parked: str | None = None
    outcome: str | None = None

    def of(self, step: str) -> Progress:
        return self.steps.get(step, _NOTHING)


@dataclass(frozen=True, slots=True)
class Do:
    step: str
    attempt: int
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Undo:
    step: str
    attempt: int
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """Write this down durably before going on."""

    entry: UndoDecided | Parked | Ended


Action = Do | Undo | Record


def fold(entries: Iterable[AnyEntry]) -> State:
    """The state a log adds up to."""
    state = State()
    for entry in entries:
        state = apply(state, entry)
    return state


def apply(state: State, entry: AnyEntry) -> State:
    """The state after one more line."""
    match entry:
        case StepDone(step=step, result=result):
            done = _step(state, step, done=True)
            return replace(done, results={**state.results, step: result})
        case StepRefused(step=step, code=code, message=message):
            return _step(state, step, refused=True, code=code, message=message)
        case StepFailed(step=step, kind=kind, message=message):
            before = state.of(step)
            doubt = before.in_doubt or kind is FaultKind.IN_DOUBT
            return _step(state, step, failures=before.failures + 1, in_doubt=doubt, code=str(kind), message=message)
        case UndoDecided():
            return replace(state, undo=entry)
        case UndoDone(step=step):
            return _step(state, step, undone=True)
        case UndoFailed(step=step, message=message):
            return _step(state, step, undo_failures=state.of(step).undo_failures + 1, message=message)
        case CancelRequested(reason=reason):
            return replace(state, cancel=reason)
        case Parked(reason=reason):
            return replace(state, parked=reason)
        case Resumed():
            fresh = {name: replace(one, failures=0, undo_failures=0) for name, one in state.steps.items()}
            return replace(state, parked=None, steps=fresh)
        case Ended(outcome=outcome):
            return replace(state, outcome=outcome)
        case Started():
            return state


def _step(state: State, name: str, **changes: Any) -> State:
    return replace(state, steps={**state.steps, name: replace(state.of(name), **changes)})


def next_actions(saga: Saga, state: State) -> tuple[Action, ...]:
    """What to do now: tries to make together, or one line to write; nothing when the saga rests."""
    if state.outcome is not None or state.parked is not None:
        return ()
    return _going_back(saga, state) if state.undo else _going_on(saga, state)


def _going_on(saga: Saga, state: State) -> tuple[Action, ...]:
    group = next((group for group in saga.groups() if not all(state.of(step.name).done for step in group)), None)
    if group is None:
        return (Record(Ended(COMPLETED)),)
    kind = group[0].kind
    if state.cancel is not None and kind is not Kind.RETRIABLE and not _pivot_in_doubt(group, state):
        return (Record(UndoDecided(group[0].name, CANCEL_REQUESTED, state.cancel)),)
    stuck = next((step for step in group if _is_stuck(step, state.of(step.name))), None)
    if stuck is not None:
        return (Record(_when_stuck(stuck, state.of(stuck.name))),)
    return tuple(_do(step, state.of(step.name)) for step in group if not state.of(step.name).done)


def _pivot_in_doubt(group: tuple[Step, ...], state: State) -> bool:
    return any(step.kind is Kind.PIVOT and state.of(step.name).in_doubt for step in group)


def _is_stuck(step: Step, progress: Progress) -> bool:
    return progress.refused or (not progress.done and progress.failures >= step.retry.attempts_max)


def _when_stuck(step: Step, progress: Progress) -> UndoDecided | Parked:
    """Before the pivot giving up means going back; after it, or when the pivot may have happened, it means waiting."""
    must_succeed = step.kind is Kind.RETRIABLE or (
        step.kind is Kind.PIVOT and progress.in_doubt and not progress.refused
    )
    if must_succeed:
        what = "was refused" if progress.refused else f"failed {progress.failures} times"
        return Parked(f"step {step.name} {what}: {progress.message or progress.code}")
    return UndoDecided(step.name, progress.code, progress.message)


def _do(step: Step, progress: Progress) -> Do:
    attempt = progress.failures + 1
    return Do(step.name, attempt, step.retry.delay_seconds(attempt))


def _going_back(saga: Saga, state: State) -> tuple[Action, ...]:
    for group in reversed(saga.groups()):
        left = [step for step in group if _needs_undo(step, state.of(step.name))]
        exhausted = next(
            (step for step in left if state.of(step.name).undo_failures >= step.undo_retry.attempts_max), None
        )
        if exhausted is not None:
            progress = state.of(exhausted.name)
            return (
                Record(Parked(f"undo of {exhausted.name} failed {progress.undo_failures} times: {progress.message}")),
            )
        if left:
            return tuple(_undo(step, state.of(step.name)) for step in left)
    return (Record(Ended(UNDONE)),)


def _needs_undo(step: Step, progress: Progress) -> bool:
    """Done, or tried without an answer: the barrier makes undoing what never happened safe. Refused means not done."""
    tried = progress.done or (progress.failures > 0 or progress.in_doubt)
    return step.undo is not None and tried and not progress.refused and not progress.undone


def _undo(step: Step, progress: Progress) -> Undo:
    attempt = progress.undo_failures + 1
    return Undo(step.name, attempt, step.undo_retry.delay_seconds(attempt))
