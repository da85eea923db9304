"""What a saga does next, from its definition and its log alone: pure, so recovery is the ordinary path.

running ──all compensatable steps done──▶ committing ──every step done──▶ ended(completed)
   │ refused, given up, or cancelled          │ the pivot was refused, or certainly not done
   └────────────────▶ undoing ◀───────────────┘
                         └──every done step undone──▶ ended(undone)
committing, undoing ──a step that must succeed was given up──▶ parked ──an operator──▶ back to where it was

The log may lag behind: what was sent and answered since its last line is lost with the process that ran the saga.
Two lines keep that harmless. `TakenUp` marks where another run carries on from a log that may lag; going back from
there undoes every step that could have been sent. `PivotDecided` is durable before the pivot is sent; without it the
pivot was never sent, with it nobody turns back before its answer is known.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from libs.saga.definition import Group, Kind, Saga, Step

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


class TakenUp(Entry, frozen=True):
    """Another run carries on here: what the run before did after its last line is not known."""


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
    | Ended
)


class Phase(StrEnum):
    RUNNING = "running"
    COMMITTING = "committing"
    UNDOING = "undoing"
    PARKED_COMMITTING = "parked-committing"
    PARKED_UNDOING = "parked-undoing"
    ENDED = "ended"


_TRIES_OF_DO = (StepDone, StepRefused, StepFailed)
_TRIES_OF_UNDO = (UndoDone, UndoFailed)


def _stays(phase: Phase, *entries: type[Entry]) -> dict[type[Entry], Phase]:
    return dict.fromkeys(entries, phase)


TRANSITIONS: Mapping[Phase, Mapping[type[Entry], Phase]] = {
    Phase.RUNNING: {
        **_stays(Phase.RUNNING, Started, TakenUp, CancelRequested, *_TRIES_OF_DO),
        PivotDecided: Phase.COMMITTING,
        UndoDecided: Phase.UNDOING,
        Ended: Phase.ENDED,
    },
    Phase.COMMITTING: {
        **_stays(Phase.COMMITTING, TakenUp, CancelRequested, *_TRIES_OF_DO),
        UndoDecided: Phase.UNDOING,
        Parked: Phase.PARKED_COMMITTING,
        Ended: Phase.ENDED,
    },
    Phase.UNDOING: {
        **_stays(Phase.UNDOING, TakenUp, CancelRequested, *_TRIES_OF_UNDO),
        Parked: Phase.PARKED_UNDOING,
        Ended: Phase.ENDED,
    },
    Phase.PARKED_COMMITTING: {
        **_stays(Phase.PARKED_COMMITTING, CancelRequested),
        Resumed: Phase.COMMITTING,
    },
    Phase.PARKED_UNDOING: {
        **_stays(Phase.PARKED_UNDOING, CancelRequested),
        Resumed: Phase.UNDOING,
    },
    Phase.ENDED: _stays(Phase.ENDED, CancelRequested),
}


class Progress(msgspec.Struct, frozen=True):
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


class State(msgspec.Struct, frozen=True):
    """What the log so far adds up to.

    `lagging`: steps may have been sent of which the log knows nothing.
    """

    phase: Phase = Phase.RUNNING
    steps: Mapping[str, Progress] = {}
    results: Mapping[str, Any] = {}
    lagging: bool = False
    undo: UndoDecided | None = None
    cancel: str | None = None
    parked: str | None = None
    outcome: str | None = None

    def of(self, step: str) -> Progress:
        return self.steps.get(step, _NOTHING)


class Do(msgspec.Struct, frozen=True):
    step: str
    attempt: int
    delay_seconds: float


class Undo(msgspec.Struct, frozen=True):
    step: str
    attempt: int
    delay_seconds: float


class Record(msgspec.Struct, frozen=True):
    """Write this down durably before going on."""

    entry: PivotDecided | UndoDecided | Parked | Ended


Action = Do | Undo | Record


def fold(entries: Iterable[AnyEntry]) -> State:
    """The state a log adds up to."""
    state = State()
    for entry in entries:
        state = apply(state, entry)
    return state


def apply(state: State, entry: AnyEntry) -> State:
    """The state after one more line; a line that cannot follow is a bug."""
    phase = TRANSITIONS[state.phase].get(type(entry))
    assert phase is not None, f"{type(entry).__name__} cannot follow while {state.phase}"
    match entry:
        case StepDone(step=step, result=result):
            return _step(state, step, replace(state.of(step), done=True), {**state.results, step: result})
        case StepRefused(step=step, code=code, message=message):
            return _step(state, step, replace(state.of(step), refused=True, code=code, message=message))
        case StepFailed(step=step):
            return _step(state, step, _failed(state.of(step), entry))
        case UndoDone(step=step):
            return _step(state, step, replace(state.of(step), undone=True))
        case UndoFailed(step=step, message=message):
            before = state.of(step)
            return _step(state, step, replace(before, undo_failures=before.undo_failures + 1, message=message))
        case PivotDecided():
            return replace(state, phase=phase, lagging=False)
        case UndoDecided():
            return replace(state, phase=phase, undo=entry)
        case CancelRequested(reason=reason):
            return replace(state, cancel=reason)
        case Parked(reason=reason):
            return replace(state, phase=phase, parked=reason)
        case Resumed():
            return replace(state, phase=phase, parked=None, steps=_fresh(state.steps, phase))
        case Ended(outcome=outcome):
            return replace(state, phase=phase, outcome=outcome)
        case TakenUp():
            # What was done before an undo was decided is in the log, up to the decision.
            return state if phase is Phase.UNDOING else replace(state, lagging=True)
        case Started():
            return state


def _step(state: State, name: str, progress: Progress, results: Mapping[str, Any] | None = None) -> State:
    steps = {**state.steps, name: progress}
    return replace(state, steps=steps) if results is None else replace(state, steps=steps, results=results)


def _failed(before: Progress, entry: StepFailed) -> Progress:
    return replace(
        before,
        failures=before.failures + 1,
        in_doubt=before.in_doubt or entry.kind is FaultKind.IN_DOUBT,
        code=str(entry.kind),
        message=entry.message,
    )


def _fresh(steps: Mapping[str, Progress], phase: Phase) -> Mapping[str, Progress]:
    """The operator's new chance: tries count from the start, and what must succeed may be asked again after a no."""
    asked_again = phase is Phase.COMMITTING
    return {
        name: replace(one, failures=0, undo_failures=0, refused=one.refused and not asked_again)
        for name, one in steps.items()
    }


def next_actions(saga: Saga, state: State) -> tuple[Action, ...]:
    """What to do now: tries to make together, or one line to write; nothing when the saga rests."""
    match state.phase:
        case Phase.RUNNING | Phase.COMMITTING:
            return _going_on(saga, state)
        case Phase.UNDOING:
            return _going_back(saga, state)
        case Phase.PARKED_COMMITTING | Phase.PARKED_UNDOING | Phase.ENDED:
            return ()


def _going_on(saga: Saga, state: State) -> tuple[Action, ...]:
    group = _current(saga, state)
    if group is None:
        return (Record(Ended(COMPLETED)),)
    stuck = next((step for step in group if _is_stuck(step, state.of(step.name))), None)
    if stuck is not None and state.of(stuck.name).refused:
        return (Record(_when_stuck(stuck, state)),)
    if state.cancel is not None and _may_turn_back(group, state):
        return (Record(UndoDecided(group[0].name, CANCEL_REQUESTED, state.cancel)),)
    if stuck is not None:
        return (Record(_when_stuck(stuck, state)),)
    if state.phase is Phase.RUNNING and group[0].kind is not Kind.COMPENSATABLE:
        return (Record(PivotDecided(group[0].name)),)
    return tuple(_do(step, state.of(step.name)) for step in group if not state.of(step.name).done)


def _current(saga: Saga, state: State) -> Group | None:
    """The first group in which something is left to do."""
    return next((group for group in saga.groups() if not all(state.of(step.name).done for step in group)), None)


def _may_turn_back(group: Group, state: State) -> bool:
    """Whether nothing that cannot be undone was done: the pivot was not sent, or each try of it certainly failed."""
    if state.phase is Phase.RUNNING:
        return True
    in_doubt = state.lagging or any(state.of(step.name).in_doubt for step in group)
    return group[0].kind is Kind.PIVOT and not in_doubt


def _is_stuck(step: Step, progress: Progress) -> bool:
    return progress.refused or (not progress.done and progress.failures >= step.retry.attempts_max)


def _when_stuck(step: Step, state: State) -> UndoDecided | Parked:
    """Giving up means going back while that is possible, and waiting for an operator when it is not."""
    progress = state.of(step.name)
    refused_pivot = step.kind is Kind.PIVOT and progress.refused
    if refused_pivot or _may_turn_back((step,), state):
        return UndoDecided(step.name, progress.code, progress.message)
    what = "was refused" if progress.refused else f"failed {progress.failures} times"
    return Parked(f"step {step.name} {what}: {progress.message or progress.code}")


def _do(step: Step, progress: Progress) -> Do:
    attempt = progress.failures + 1
    return Do(step.name, attempt, step.retry.delay_seconds(attempt))


def _going_back(saga: Saga, state: State) -> tuple[Action, ...]:
    for group in reversed(_reached(saga, state)):
        left = [step for step in group if _needs_undo(step, state)]
        exhausted = next((step for step in left if state.of(step.name).undo_failures >= step.retry.attempts_max), None)
        if exhausted is not None:
            progress = state.of(exhausted.name)
            reason = f"undo of {exhausted.name} failed {progress.undo_failures} times: {progress.message}"
            return (Record(Parked(reason)),)
        if left:
            return tuple(_undo(step, state.of(step.name)) for step in left)
    return (Record(Ended(UNDONE)),)


def _reached(saga: Saga, state: State) -> tuple[Group, ...]:
    """The groups of which something may have been sent.

    A refusal is remembered and repeated, so nothing after a refused step was ever sent, whoever ran the saga before.
    """
    assert state.undo is not None, "going back was decided somewhere"
    if state.lagging and not state.of(state.undo.step).refused:
        return saga.groups()
    last = next(at for at, group in enumerate(saga.groups()) if saga.step(state.undo.step) in group)
    return saga.groups()[: last + 1]


def _needs_undo(step: Step, state: State) -> bool:
    """Done, or perhaps done: the barrier makes undoing what never happened safe. Refused means not done."""
    progress = state.of(step.name)
    sent = progress.done or progress.failures > 0 or progress.in_doubt or state.lagging
    return step.undone_by is not None and sent and not progress.refused and not progress.undone


def _undo(step: Step, progress: Progress) -> Undo:
    attempt = progress.undo_failures + 1
    return Undo(step.name, attempt, step.retry.delay_seconds(attempt))
