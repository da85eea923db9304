"""Small sagas, gone through in every way they can go: all answers, crashes, lost lines, rivals, cancels, late messages.

What must hold is in `exploration.py`: nothing is undone once the pivot is done, a completed saga has every effect, an
undone one has none and cannot get one later, and every saga ends or is parked. Each machine with a planted bug must be
caught by the same search.
"""

from itertools import product

import pytest
from msgspec.structs import replace

from libs.saga import machine
from libs.saga.definition import Kind, Saga
from libs.saga.entries import AnyEntry, PivotDecided, Resumed, Skipped, TakenUp
from libs.saga.machine import Action, Phase, Progress, Record, State
from tests.unit.saga.exploration import DONE, REFUSED, Budget, Exploration, Rules, Violation
from tests.unit.saga.sagas import pivot, retriable, step

STUBBORN = Saga("stubborn", (step("take", tries=3), pivot("confirm", 3), retriable("tell", 3)))
TWO_UNDOS = Saga("two undos", (step("take", tries=1), step("charge"), pivot("confirm", 1)))
BRIEF = Saga("brief", (step("take", tries=1), step("charge", tries=1, undo_tries=1), pivot("confirm", 1)))
SHORT = Saga("short", (step("take", tries=2), pivot("confirm", 2)))
TOGETHER = Saga("together", (step("take", tries=1, group="g"), step("hold", tries=1, group="g"), pivot("confirm", 1)))
NO_PIVOT = Saga("no pivot", (step("take"), retriable("tell")))
ALL_UNDOABLE = Saga("all undoable", (step("take"), step("charge", tries=1)))
PIVOT_FIRST = Saga("pivot first", (pivot("cancel-booking"), retriable("refund", 1), retriable("restock", 1)))


def _named(value: object) -> str:
    match value:
        case Saga(name=name):
            return name
        case Rules(apply=apply) if apply is not machine.apply:
            return apply.__name__.strip("_")
        case Rules(next_actions=next_actions):
            return next_actions.__name__.strip("_")
        case Budget():
            return ",".join(f"{name}={count}" for name, count in value._asdict().items() if count)
        case _:
            return str(value)


@pytest.mark.parametrize(
    ("saga", "budget"),
    [
        (STUBBORN, Budget(crashes=1)),
        (TWO_UNDOS, Budget(crashes=1, cancels=1)),
        (SHORT, Budget(crashes=2, cancels=1)),
        (SHORT, Budget(crashes=1, cancels=1, resumes=1)),
        (SHORT, Budget(crashes=1, cancels=1, skips=1, forced=1)),
        (SHORT, Budget(rivals=1, resumes=1, skips=1, forced=1)),
        (BRIEF, Budget(cancels=1, resumes=1, skips=2, forced=1)),
        (TOGETHER, Budget(resumes=1, skips=2, forced=1)),
        (PIVOT_FIRST, Budget(crashes=1, resumes=1, skips=2, forced=1)),
        (SHORT, Budget(rivals=1)),
        (BRIEF, Budget(rivals=1, cancels=1)),
        (TOGETHER, Budget(crashes=1)),
        (NO_PIVOT, Budget(crashes=1, cancels=1)),
        (ALL_UNDOABLE, Budget(crashes=1, cancels=1)),
        (PIVOT_FIRST, Budget(crashes=1, cancels=1)),
    ],
    ids=_named,
)
def test_no_way_breaks_a_promise(saga: Saga, budget: Budget) -> None:
    explored = Exploration(saga, budget).run()
    print(f"{saga.name}: {explored.visited} states, ends {sorted(outcome for outcome, _ in explored.ends)}")
    assert explored.visited > 500
    outcomes = {outcome for outcome, _ in explored.ends}
    assert outcomes >= ({"completed", "undone"} if saga is not PIVOT_FIRST else {"completed"})
    assert ("forced" in outcomes) == bool(budget.forced)


@pytest.mark.parametrize("saga", [STUBBORN, TWO_UNDOS, TOGETHER, NO_PIVOT, ALL_UNDOABLE, PIVOT_FIRST], ids=_named)
def test_a_run_that_crashed_anywhere_ends_as_one_that_did_not(saga: Saga) -> None:
    for answers in _answers(saga):
        undisturbed = Exploration(saga, answers=answers, faults=False).run()
        disturbed = Exploration(saga, Budget(crashes=2), answers=answers, faults=False).run()
        assert len(undisturbed.ends) == 1
        assert disturbed.ends == undisturbed.ends


def _answers(saga: Saga) -> list[dict[str, str]]:
    choices = [(DONE,) if step.kind is Kind.RETRIABLE else (DONE, REFUSED) for step in saga.steps]
    return [dict(zip((step.name for step in saga.steps), given, strict=True)) for given in product(*choices)]


def _forgets_who_ran_before(state: State, entry: AnyEntry) -> State:
    return state if isinstance(entry, TakenUp) else machine.apply(state, entry)


def _believes_the_log_about_the_pivot(state: State, entry: AnyEntry) -> State:
    return state if isinstance(entry, TakenUp) and state.phase is Phase.COMMITTING else machine.apply(state, entry)


def _counts_no_further_than_one(state: State, entry: AnyEntry) -> State:
    after = machine.apply(state, entry)
    return replace(
        after, steps={name: replace(one, failures=min(one.failures, 1)) for name, one in after.steps.items()}
    )


def _forgets_on_resume_what_failed(state: State, entry: AnyEntry) -> State:
    after = machine.apply(state, entry)
    if not isinstance(entry, Resumed):
        return after
    return replace(after, steps={name: replace(one, failures=0, in_doubt=False) for name, one in after.steps.items()})


def _takes_one_proof_for_all(state: State, entry: AnyEntry) -> State:
    after = machine.apply(state, entry)
    if not isinstance(entry, Skipped):
        return after
    return replace(after, steps={name: replace(one, done=True, undone=True) for name, one in after.steps.items()})


def _sends_the_pivot_undecided(saga: Saga, state: State) -> tuple[Action, ...]:
    match machine.next_actions(saga, state):
        case (Record(entry=PivotDecided()),):
            return machine.next_actions(saga, replace(state, phase=Phase.COMMITTING))
        case actions:
            return actions


def _undoes_only_what_was_answered(saga: Saga, state: State) -> tuple[Action, ...]:
    certain = {name: one if one.done else Progress(refused=one.refused) for name, one in state.steps.items()}
    return machine.next_actions(saga, replace(state, steps=certain) if state.phase is Phase.UNDOING else state)


def _undoes_once_and_hopes(saga: Saga, state: State) -> tuple[Action, ...]:
    hoping = {name: replace(one, undone=one.undone or one.undo_failures > 0) for name, one in state.steps.items()}
    return machine.next_actions(saga, replace(state, steps=hoping))


def _cancels_at_any_time(saga: Saga, state: State) -> tuple[Action, ...]:
    certain = {name: replace(one, in_doubt=False) for name, one in state.steps.items()}
    return machine.next_actions(saga, replace(state, steps=certain) if state.cancel else state)


def _rests_after_a_cancel(saga: Saga, state: State) -> tuple[Action, ...]:
    return () if state.cancel and state.phase is Phase.UNDOING else machine.next_actions(saga, state)


CRASH_AND_CANCEL = Budget(crashes=1, cancels=1)


@pytest.mark.parametrize(
    ("rules", "saga", "budget", "broken"),
    [
        (Rules(apply=_forgets_who_ran_before), ALL_UNDOABLE, CRASH_AND_CANCEL, "undone, but something stands"),
        (Rules(apply=_believes_the_log_about_the_pivot), SHORT, CRASH_AND_CANCEL, "although the pivot is done"),
        (Rules(apply=_counts_no_further_than_one), SHORT, Budget(), "it may go round for ever"),
        (Rules(apply=_forgets_on_resume_what_failed), BRIEF, Budget(resumes=1), "undone, but something stands"),
        (Rules(apply=_takes_one_proof_for_all), TOGETHER, Budget(skips=1), "undone, but something stands"),
        (Rules(next_actions=_sends_the_pivot_undecided), SHORT, CRASH_AND_CANCEL, "although the pivot is done"),
        (Rules(next_actions=_undoes_only_what_was_answered), SHORT, Budget(), "undone, but something stands"),
        (Rules(next_actions=_undoes_once_and_hopes), SHORT, Budget(), "undone, but something stands"),
        (Rules(next_actions=_cancels_at_any_time), SHORT, Budget(cancels=1), "although the pivot is done"),
        (Rules(next_actions=_rests_after_a_cancel), SHORT, Budget(cancels=1), "neither ended nor was it parked"),
        (Rules(says_when_it_takes_over=False), SHORT, Budget(rivals=1), "although the pivot is done"),
    ],
    ids=_named,
)
def test_a_planted_bug_is_found(rules: Rules, saga: Saga, budget: Budget, broken: str) -> None:
    with pytest.raises(Violation, match=broken):
        Exploration(saga, budget, rules=rules).run()
