"""The saga's state is a table, and what comes next follows from the log alone."""

from typing import get_args

import pytest

from libs.saga.definition import NOTHING_TO_UNDO, Retry, Saga, Step
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
from libs.saga.machine import TRANSITIONS, Do, Phase, Record, State, Undo, apply, fold, next_actions, skippable
from tests.unit.saga.sagas import command, pivot, retriable, step

Log = list[AnyEntry]

CHECKOUT = Saga("checkout", (step("take"), step("charge", tries=3), pivot("confirm"), retriable("tell")))
DONE_BEFORE_PIVOT: tuple[AnyEntry, ...] = (Started(), StepDone("take"), StepDone("charge"))
COMMITTING: tuple[AnyEntry, ...] = (*DONE_BEFORE_PIVOT, PivotDecided("confirm"))
EXAMPLES: tuple[AnyEntry, ...] = (
    Started(),
    TakenUp("run_2"),
    StepDone("take", {"sku": "lamp"}),
    StepRefused("take", "out-of-stock", "no lamp left"),
    StepFailed("take", 1, FaultKind.IN_DOUBT, "no answer"),
    PivotDecided("confirm"),
    UndoDecided("take", "out-of-stock", "no lamp left"),
    UndoDone("take"),
    UndoFailed("take", 1, "no answer"),
    CancelRequested("changed my mind"),
    Parked("step tell failed"),
    Resumed("ops", "fixed it"),
    Skipped("tell", "ops", "told them by phone", "ticket 7"),
    EndForced("ops", "nobody will fix it"),
    Ended("completed"),
)
LOGS: dict[Phase, tuple[AnyEntry, ...]] = {
    Phase.RUNNING: (Started(),),
    Phase.COMMITTING: COMMITTING,
    Phase.UNDOING: (Started(), UndoDecided("take", "out-of-stock", "")),
    Phase.PARKED_COMMITTING: (*COMMITTING, Parked("stuck")),
    Phase.PARKED_UNDOING: (Started(), UndoDecided("take", "out-of-stock", ""), Parked("stuck")),
    Phase.ENDED: (Started(), Ended("completed")),
}


def after(*log: AnyEntry, saga: Saga = CHECKOUT) -> tuple[object, ...]:
    return next_actions(saga, fold(log))


def failed(name: str, attempt: int, kind: FaultKind = FaultKind.UNAVAILABLE) -> StepFailed:
    return StepFailed(name, attempt, kind, "no answer" if kind is FaultKind.IN_DOUBT else "closed")


def test_every_kind_of_line_has_an_example_here() -> None:
    assert {type(entry) for entry in EXAMPLES} == set(get_args(AnyEntry))


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: type(entry).__name__)
def test_a_line_follows_as_the_table_says_or_is_a_loud_bug(phase: Phase, entry: AnyEntry) -> None:
    state = fold(LOGS[phase])
    assert state.phase is phase
    kind: type[Entry] = type(entry)
    if kind in TRANSITIONS[phase]:
        assert apply(state, entry).phase is TRANSITIONS[phase][kind]
    else:
        with pytest.raises(AssertionError, match=f"{kind.__name__} cannot follow while {phase}"):
            apply(state, entry)


def test_steps_run_in_order_and_the_saga_completes() -> None:
    assert after(Started()) == (Do("take", 1, 0),)
    assert after(Started(), StepDone("take")) == (Do("charge", 1, 0),)
    assert after(*DONE_BEFORE_PIVOT) == (Record(PivotDecided("confirm")),)
    assert after(*COMMITTING) == (Do("confirm", 1, 0),)
    assert after(*COMMITTING, StepDone("confirm")) == (Do("tell", 1, 0),)
    assert after(*COMMITTING, StepDone("confirm"), StepDone("tell")) == (Record(Ended("completed")),)
    assert after(*COMMITTING, StepDone("confirm"), StepDone("tell"), Ended("completed")) == ()


def test_results_are_there_for_the_steps_that_follow() -> None:
    state = fold([Started(), StepDone("take", {"lot": 7}), StepDone("charge", {"id": "ch_1"})])
    assert state.results == {"take": {"lot": 7}, "charge": {"id": "ch_1"}}


def test_a_refusal_sends_the_saga_back_without_undoing_what_was_refused() -> None:
    log: Log = [Started(), StepDone("take"), StepRefused("charge", "card-declined", "no money")]
    decided = UndoDecided("charge", "card-declined", "no money")
    assert after(*log) == (Record(decided),)
    assert after(*log, decided) == (Undo("take", 1, 0),)
    assert after(*log, decided, UndoDone("take")) == (Record(Ended("undone")),)


def test_a_try_that_failed_is_repeated_later_and_later() -> None:
    log: Log = [Started(), StepDone("take"), failed("charge", 1)]
    assert after(*log) == (Do("charge", 2, 0.1),)
    assert after(*log, failed("charge", 2)) == (Do("charge", 3, 0.2),)


@pytest.mark.parametrize("kind", FaultKind)
def test_giving_up_before_the_pivot_undoes_that_step_too(kind: FaultKind) -> None:
    log: Log = [Started(), StepDone("take"), *(failed("charge", attempt, kind) for attempt in (1, 2, 3))]
    decided = UndoDecided("charge", str(kind), log[-1].message)  # type: ignore[union-attr]
    assert after(*log) == (Record(decided),)
    assert after(*log, decided) == (Undo("charge", 1, 0),)
    assert after(*log, decided, UndoDone("charge")) == (Undo("take", 1, 0),)


def test_a_cancel_request_before_the_pivot_sends_the_saga_back() -> None:
    log: Log = [Started(), StepDone("take"), CancelRequested("changed my mind")]
    decided = UndoDecided("charge", "cancel-requested", "changed my mind")
    assert after(*log) == (Record(decided),)
    # Charge was never sent: there is nothing of it to undo.
    assert after(*log, decided) == (Undo("take", 1, 0),)


def test_a_cancel_request_is_honoured_while_the_pivot_certainly_failed() -> None:
    log: Log = [*COMMITTING, failed("confirm", 1), CancelRequested("late")]
    assert after(*log) == (Record(UndoDecided("confirm", "cancel-requested", "late")),)


def test_a_cancel_request_waits_while_the_pivot_is_in_doubt() -> None:
    log: Log = [*COMMITTING, failed("confirm", 1, FaultKind.IN_DOUBT), CancelRequested("late")]
    assert after(*log) == (Do("confirm", 2, 0.1),)
    assert after(*log, StepRefused("confirm", "cancelled", "")) == (Record(UndoDecided("confirm", "cancelled", "")),)


def test_a_cancel_request_after_the_pivot_changes_nothing() -> None:
    assert after(*COMMITTING, StepDone("confirm"), CancelRequested("late")) == (Do("tell", 1, 0),)


def test_a_pivot_that_certainly_failed_is_given_up_and_undone() -> None:
    log: Log = [*COMMITTING, failed("confirm", 1), failed("confirm", 2)]
    assert after(*log) == (Record(UndoDecided("confirm", "unavailable", "closed")),)


def test_a_pivot_in_doubt_is_never_given_up_but_parked() -> None:
    log: Log = [*COMMITTING, failed("confirm", 1, FaultKind.IN_DOUBT), failed("confirm", 2)]
    assert after(*log) == (Record(Parked("step confirm failed 2 times: closed")),)


def test_a_step_after_the_pivot_that_fails_or_refuses_is_parked() -> None:
    log: Log = [*COMMITTING, StepDone("confirm")]
    tired: Log = [*log, failed("tell", 1), failed("tell", 2)]
    assert after(*tired) == (Record(Parked("step tell failed 2 times: closed")),)
    refused: Log = [*log, StepRefused("tell", "no-such-address", "who is that?")]
    assert after(*refused) == (Record(Parked("step tell was refused: who is that?")),)


def test_an_operator_gives_a_parked_step_new_tries_even_after_a_refusal() -> None:
    log: Log = [*COMMITTING, StepDone("confirm"), StepRefused("tell", "no", ""), Parked("no"), Resumed("ops", "fixed")]
    assert after(*log[:-1]) == ()
    assert after(*log) == (Do("tell", 1, 0),)


TIRED: tuple[AnyEntry, ...] = (*COMMITTING, StepDone("confirm"), failed("tell", 1), failed("tell", 2), Parked("stuck"))


def test_a_step_that_was_proven_done_is_not_sent_any_more() -> None:
    assert skippable(CHECKOUT, fold(TIRED)) == ("tell",)
    assert after(*TIRED, Skipped("tell", "ops", "told by phone", "ticket 7")) == (Record(Ended("completed")),)


def test_an_undo_that_was_proven_is_not_sent_any_more_and_the_others_are_tried_anew() -> None:
    both = (step("take", group="reserve"), step("hold", group="reserve"))
    saga = Saga("checkout", (step("look"), *both, pivot("confirm")))
    log: Log = [Started(), StepDone("look"), StepDone("take"), StepDone("hold"), CancelRequested("no")]
    log += [UndoDecided("confirm", "cancel-requested", "no"), UndoFailed("take", 1, ""), UndoFailed("hold", 1, "")]
    log += [UndoFailed("take", 2, ""), UndoFailed("hold", 2, ""), Parked("stuck")]
    assert skippable(saga, fold(log)) == ("take", "hold", "look")
    log += [Skipped("hold", "ops", "put back by hand", "ticket 7")]
    assert after(*log, saga=saga) == (Undo("take", 1, 0),)
    assert after(*log, UndoDone("take"), saga=saga) == (Undo("look", 1, 0),)


def test_the_step_it_is_stuck_at_comes_first_among_those_that_may_be_skipped() -> None:
    saga = Saga("checkout", (pivot("confirm"), retriable("tell"), retriable("thank")))
    log: Log = [Started(), PivotDecided("confirm"), StepDone("confirm"), StepRefused("tell", "no", ""), Parked("no")]
    assert skippable(saga, fold(log)) == ("tell", "thank")
    log = [Started(), StepDone("take"), StepDone("charge"), TakenUp("run_2"), CancelRequested("no")]
    log += [UndoDecided("confirm", "cancel-requested", "no"), UndoDone("charge")]
    log += [UndoFailed("take", 1, ""), UndoFailed("take", 2, ""), Parked("stuck")]
    assert skippable(CHECKOUT, fold(log)) == ("take",)


def test_nobody_proves_the_pivot_nor_what_comes_after_it_before_it_has_answered() -> None:
    log: Log = [*COMMITTING, failed("confirm", 1, FaultKind.IN_DOUBT), failed("confirm", 2), Parked("stuck")]
    assert skippable(CHECKOUT, fold(log)) == ()


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.COMMITTING, Phase.UNDOING, Phase.ENDED])
def test_only_steps_of_a_parked_saga_may_be_skipped(phase: Phase) -> None:
    assert skippable(CHECKOUT, fold(LOGS[phase])) == ()


def test_proving_a_step_twice_is_a_loud_bug() -> None:
    with pytest.raises(AssertionError, match="take needs no proof any more"):
        fold([*TIRED, Skipped("take", "ops", "", "")])


@pytest.mark.parametrize("phase", [Phase.PARKED_COMMITTING, Phase.PARKED_UNDOING])
def test_a_forced_end_is_the_end(phase: Phase) -> None:
    state = fold([*LOGS[phase], EndForced("ops", "nobody will fix it")])
    assert (state.phase, state.outcome, state.parked) == (Phase.ENDED, "forced", None)
    assert next_actions(CHECKOUT, state) == ()


def test_a_resumed_pivot_that_is_refused_meanwhile_sends_the_saga_back() -> None:
    log: Log = [*COMMITTING, failed("confirm", 1, FaultKind.IN_DOUBT), failed("confirm", 2), Parked("stuck")]
    log += [Resumed("ops", "turn back"), TakenUp("run_2")]
    assert after(*log) == (Do("confirm", 1, 0),)
    refused: Log = [*log, StepRefused("confirm", "compensated-by-operator", "")]
    assert after(*refused) == (Record(UndoDecided("confirm", "compensated-by-operator", "")),)


def test_who_asked_for_the_way_back_is_remembered_with_it() -> None:
    log: Log = [Started(), StepDone("take"), CancelRequested("wrong price", "compensated-by-operator")]
    assert after(*log) == (Record(UndoDecided("charge", "compensated-by-operator", "wrong price")),)


def test_an_undo_has_its_own_patience_and_is_parked_after_it() -> None:
    take = Step("take", command("take"), command("untake"), retry=Retry(1), undo_retry=Retry(2, 0.5, 5))
    saga = Saga("checkout", (take,))
    log: Log = [Started(), failed("take", 1), UndoDecided("take", "unavailable", "closed")]
    assert after(*log, saga=saga) == (Undo("take", 1, 0),)
    assert after(*log, UndoFailed("take", 1, "closed"), saga=saga) == (Undo("take", 2, 0.5),)
    log += [UndoFailed("take", 1, "closed"), UndoFailed("take", 2, "closed")]
    assert after(*log, saga=saga) == (Record(Parked("undo of take failed 2 times: closed")),)


def test_a_resumed_undo_does_not_forget_the_step_that_only_failed() -> None:
    log: Log = [Started(), StepDone("take"), *(failed("charge", attempt) for attempt in (1, 2, 3))]
    log += [UndoDecided("charge", "unavailable", "closed"), UndoFailed("charge", 1, ""), UndoFailed("charge", 2, "")]
    assert after(*log, Parked("stuck"), Resumed("ops", "fixed")) == (Undo("charge", 1, 0),)


def test_who_takes_a_saga_up_undoes_whatever_may_have_been_sent() -> None:
    """The log stops after take; charge may be done, or not. Only its undo can tell."""
    log: Log = [Started(), StepDone("take"), TakenUp("run_2"), CancelRequested("changed my mind")]
    log += [UndoDecided("charge", "cancel-requested", "changed my mind")]
    assert after(*log) == (Undo("charge", 1, 0),)
    assert after(*log, UndoDone("charge")) == (Undo("take", 1, 0),)


def test_who_took_the_saga_up_undoes_what_its_predecessor_may_have_sent_behind_a_step_that_is_refused_now() -> None:
    log: Log = [Started(), TakenUp("run_2"), StepRefused("take", "undone-before-done", "")]
    log.append(UndoDecided("take", "undone-before-done", ""))
    assert after(*log) == (Undo("charge", 1, 0),)
    assert after(*log, UndoDone("charge")) == (Record(Ended("undone")),)


def test_a_saga_that_is_cancelled_before_its_first_call_is_opened_so_that_it_can_be_closed() -> None:
    log: Log = [Started(), CancelRequested("rain")]
    assert after(*log) == (Do("take", 1, 0),)
    assert after(*log, StepDone("take")) == (Record(UndoDecided("charge", "cancel-requested", "rain")),)


def test_who_takes_a_saga_up_after_the_pivot_was_decided_does_not_turn_back() -> None:
    log: Log = [*COMMITTING, TakenUp("run_2"), CancelRequested("late")]
    assert after(*log) == (Do("confirm", 1, 0),)
    tired: Log = [*log, failed("confirm", 1), failed("confirm", 2)]
    assert after(*tired) == (Record(Parked("step confirm failed 2 times: closed")),)


def test_steps_of_a_group_are_tried_and_undone_together() -> None:
    both = (step("take", group="reserve", tries=3), step("hold", group="reserve"))
    saga = Saga("checkout", (*both, pivot("confirm")))
    assert after(Started(), saga=saga) == (Do("take", 1, 0), Do("hold", 1, 0))
    log: Log = [Started(), failed("take", 1), StepDone("hold")]
    assert after(*log, saga=saga) == (Do("take", 2, 0.1),)
    log += [StepRefused("take", "out-of-stock", ""), UndoDecided("take", "out-of-stock", "")]
    assert after(*log, saga=saga) == (Undo("hold", 1, 0),)
    done: Log = [
        Started(),
        StepDone("take"),
        StepDone("hold"),
        PivotDecided("confirm"),
        StepRefused("confirm", "no", ""),
    ]
    assert after(*done, UndoDecided("confirm", "no", ""), saga=saga) == (Undo("take", 1, 0), Undo("hold", 1, 0))


def test_nothing_is_sent_for_a_step_that_leaves_nothing_behind() -> None:
    saga = Saga("checkout", (Step("check", command("check"), NOTHING_TO_UNDO), step("take")))
    log: Log = [Started(), StepDone("check"), StepRefused("take", "no", ""), UndoDecided("take", "no", "")]
    assert after(*log, saga=saga) == (Record(Ended("undone")),)


def test_a_saga_without_a_pivot_decides_before_its_first_step_that_cannot_be_undone() -> None:
    saga = Saga("checkout", (step("take"), retriable("tell")))
    log: Log = [Started(), StepDone("take")]
    assert after(*log, saga=saga) == (Record(PivotDecided("tell")),)
    assert after(*log, PivotDecided("tell"), CancelRequested("late"), saga=saga) == (Do("tell", 1, 0),)


def test_a_fresh_state_has_nothing_done() -> None:
    assert next_actions(CHECKOUT, State()) == (Do("take", 1, 0),)
