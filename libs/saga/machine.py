"""What a saga does next, from its definition and its log alone: pure, so recovery is the ordinary path.

running ──all compensatable steps done──▶ committing ──every step done──▶ ended(completed)
   │ refused, given up, or cancelled          │ the pivot was refused, or certainly not done
   └────────────────▶ undoing ◀───────────────┘
                         └──every done step undone──▶ ended(undone)
committing, undoing ──a step that must succeed was given up──▶ parked ──an operator──▶ back to where it was
                                                                     └──an operator──▶ ended(forced)

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
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    Ended,
    EndForced,
    Entry,
    FaultKind,
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

COMPLETED = "completed"
UNDONE = "undone"
FORCED = "forced"


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
        Skipped: Phase.COMMITTING,
        EndForced: Phase.ENDED,
    },
    Phase.PARKED_UNDOING: {
        **_stays(Phase.PARKED_UNDOING, CancelRequested),
        Resumed: Phase.UNDOING,
        Skipped: Phase.UNDOING,
        EndForced: Phase.ENDED,
    },
    Phase.ENDED: _stays(Phase.ENDED, CancelRequested),
}


Try = StepDone | StepRefused | StepFailed | UndoDone | UndoFailed


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
    cancel: CancelRequested | None = None
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
            return _with(replace(state, results={**state.results, step: result}), entry)
        case StepRefused() | StepFailed() | UndoDone() | UndoFailed():
            return _with(state, entry)
        case CancelRequested():
            return replace(state, cancel=entry)
        case PivotDecided():
            return replace(state, phase=phase, lagging=False)
        case UndoDecided():
            return replace(state, phase=phase, undo=entry)
        case Parked(reason=reason):
            return replace(state, phase=phase, parked=reason)
        case Resumed():
            return replace(state, phase=phase, parked=None, steps=_asked_again(state.steps, phase))
        case Skipped(step=step):
            return replace(state, phase=phase, parked=None, steps=_taken_as_done(state, step, phase))
        case EndForced():
            return replace(state, phase=phase, parked=None, outcome=FORCED)
        case Ended(outcome=outcome):
            return replace(state, phase=phase, outcome=outcome)
        case TakenUp():
            # What led to going back was durable with the decision: of that nothing lags.
            return state if phase is Phase.UNDOING else replace(state, lagging=True)
        case Started():
            return state


def _with(state: State, entry: Try) -> State:
    return replace(state, steps={**state.steps, entry.step: _after(state.of(entry.step), entry)})


def _after(before: Progress, entry: Try) -> Progress:
    match entry:
        case StepDone():
            return replace(before, done=True)
        case StepRefused(code=code, message=message):
            return replace(before, refused=True, code=code, message=message)
        case StepFailed(kind=kind, message=message):
            doubt = before.in_doubt or kind is FaultKind.IN_DOUBT
            return replace(before, failures=before.failures + 1, in_doubt=doubt, code=str(kind), message=message)
        case UndoDone():
            return replace(before, undone=True)
        case UndoFailed(message=message):
            return replace(before, undo_failures=before.undo_failures + 1, message=message)


def _asked_again(steps: Mapping[str, Progress], phase: Phase) -> Mapping[str, Progress]:
    """The operator's new chance: tries count from the start, and what must succeed may be asked again after a no."""
    if phase is Phase.UNDOING:
        return {name: replace(one, undo_failures=0) for name, one in steps.items()}
    return {name: replace(one, failures=0, refused=False) for name, one in steps.items()}


def _taken_as_done(state: State, step: str, phase: Phase) -> Mapping[str, Progress]:
    """The operator's proof stands for the answer that never came; the others' tries count from the start."""
    proven = {"undone": True} if phase is Phase.UNDOING else {"done": True}
    before = state.of(step)
    assert not (before.undone if phase is Phase.UNDOING else before.done), f"{step} needs no proof any more"
    steps = _asked_again(state.steps, phase)
    return {**steps, step: replace(steps.get(step, _NOTHING), **proven)}


def skippable(saga: Saga, state: State) -> tuple[str, ...]:
    """The steps of a parked saga that an operator may prove to be done or undone, the one it is stuck at first.

    Never the pivot, and nothing after it while its answer is not known: whoever decides must be asked.
    """
    match state.phase:
        case Phase.PARKED_UNDOING:
            left = [
                (step, state.of(step.name).undo_failures >= step.undo_retry.attempts_max)
                for group in reversed(_reached(saga, state))
                for step in group
                if _needs_undo(step, state)
            ]
        case Phase.PARKED_COMMITTING:
            undone = [step for step in saga.steps if not state.of(step.name).done]
            decided = all(step.kind is not Kind.PIVOT for step in undone)
            left = [(step, _is_stuck(step, state.of(step.name))) for step in undone if decided]
        case _:
            return ()
    return tuple(step.name for step, stuck in sorted(left, key=lambda one: not one[1]))


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
    if state.cancel is not None and _has_begun(group, state) and _may_turn_back(group, state):
        return (Record(UndoDecided(group[0].name, state.cancel.code, state.cancel.reason)),)
    stuck = next((step for step in group if _is_stuck(step, state.of(step.name))), None)
    if stuck is not None:
        return (Record(_when_stuck(stuck, state)),)
    if state.phase is Phase.RUNNING and group[0].kind is not Kind.COMPENSATABLE:
        return (Record(PivotDecided(group[0].name)),)
    return tuple(_do(step, state.of(step.name)) for step in group if not state.of(step.name).done)


def _current(saga: Saga, state: State) -> Group | None:
    """The first group in which something is left to do."""
    return next((group for group in saga.groups() if not all(state.of(step.name).done for step in group)), None)


def _has_begun(group: Group, state: State) -> bool:
    """Whether there is something to go back over: what opens a saga is done first, for its undo closes it."""
    return bool(state.steps) or state.lagging or group[0].kind is not Kind.COMPENSATABLE


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
        exhausted = next(
            (step for step in left if state.of(step.name).undo_failures >= step.undo_retry.attempts_max), None
        )
        if exhausted is not None:
            progress = state.of(exhausted.name)
            reason = f"undo of {exhausted.name} failed {progress.undo_failures} times: {progress.message}"
            return (Record(Parked(reason)),)
        if left:
            return tuple(_undo(step, state.of(step.name)) for step in left)
    return (Record(Ended(UNDONE)),)


def _reached(saga: Saga, state: State) -> tuple[Group, ...]:
    """The groups of which something may have been sent.

    Behind a step that was refused as well: what was prepared, and rolled back when its participant asked, is refused
    when it is asked for again, and by then the steps behind it had been sent.
    """
    assert state.undo is not None, "going back was decided somewhere"
    if state.lagging:
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
    return Undo(step.name, attempt, step.undo_retry.delay_seconds(attempt))
