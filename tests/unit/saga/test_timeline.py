"""A saga's log in words, and what an unfinished saga waits for since when."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from libs.saga import timeline
from libs.saga.definition import Saga
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    Ended,
    EndForced,
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
from libs.saga.log import Line
from tests.unit.saga.sagas import pivot, retriable, step

CHECKOUT = Saga("checkout", (step("take", group="g"), step("hold", group="g"), pivot("confirm"), retriable("tell")))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HELD: tuple[AnyEntry, ...] = (Started(), StepDone("take"), StepDone("hold"))


def lines(*entries: AnyEntry) -> list[Line]:
    return [Line(seq, NOON + timedelta(seconds=seq), entry) for seq, entry in enumerate(entries, 1)]


def test_every_line_has_words_a_step_a_try_and_a_detail() -> None:
    told: dict[AnyEntry, tuple[str, str, int, str]] = {
        Started(): ("saga started", "", 0, ""),
        TakenUp("run_2"): ("carried on by another process", "", 0, "run_2"),
        StepDone("take", "lot-7"): ("take done", "take", 0, "lot-7"),
        StepDone("take"): ("take done", "take", 0, ""),
        StepRefused("take", "out-of-stock", "no lamp left"): ("take refused: out-of-stock", "take", 0, "no lamp left"),
        StepFailed("take", 3, FaultKind.IN_DOUBT, "no answer"): ("take in-doubt", "take", 3, "no answer"),
        PivotDecided("confirm"): ("pivot decided: confirm", "confirm", 0, "nothing is undone before its answer"),
        UndoDecided("take", "out-of-stock", "no lamp"): ("undo decided: out-of-stock", "take", 0, "no lamp"),
        UndoDone("take"): ("take undone", "take", 0, ""),
        UndoFailed("take", 2, "closed"): ("undo of take failed", "take", 2, "closed"),
        CancelRequested("changed my mind"): ("cancel requested", "", 0, "changed my mind"),
        Parked("step tell failed"): ("parked", "", 0, "step tell failed"),
        CancelRequested("wrong price", "compensated-by-operator"): ("compensated by operator", "", 0, "wrong price"),
        Resumed("ops", "fixed"): ("resumed by ops", "", 0, "fixed"),
        Skipped("tell", "ops", "by phone", "ticket 7"): ("tell skipped by ops", "tell", 0, "by phone; proof: ticket 7"),
        EndForced("ops", "enough"): ("ended by ops", "", 0, "enough"),
        Ended("completed"): ("saga ended: completed", "", 0, ""),
    }
    assert {type(entry) for entry in told} == set(get_args(AnyEntry))
    for entry, (what, at_step, attempt, detail) in told.items():
        (moment,) = timeline.moments(lines(entry))
        assert (moment.at, moment.what, moment.step, moment.attempt) == (
            NOON + timedelta(seconds=1),
            what,
            at_step,
            attempt,
        )
        assert moment.detail.startswith(detail)


def test_what_a_step_answered_is_its_detail() -> None:
    (moment,) = timeline.moments(lines(StepDone("take", {"lot": 7, "shelf": "b"})))
    assert moment.detail == "lot=7 shelf=b"


@pytest.mark.parametrize(
    ("entries", "state", "waits_for"),
    [
        ((), "running", "take (try 1) and hold (try 1)"),
        ((Started(),), "running", "take (try 1) and hold (try 1) since 2026-03-01T12:00:01.000+00:00"),
        (
            (Started(), StepDone("hold"), StepFailed("take", 1, FaultKind.UNAVAILABLE, "closed")),
            "running",
            "take (try 2) since 2026-03-01T12:00:03.000+00:00",
        ),
        (HELD, "running", "its log since 2026-03-01T12:00:03.000+00:00"),
        (
            (*HELD, PivotDecided("confirm")),
            "running",
            "confirm (try 1) since 2026-03-01T12:00:04.000+00:00",
        ),
        (
            (Started(), StepDone("take"), StepRefused("hold", "full", ""), UndoDecided("hold", "full", "")),
            "undoing",
            "the undo of take (try 1) since 2026-03-01T12:00:04.000+00:00",
        ),
        (
            (*HELD, PivotDecided("confirm"), Parked("step tell failed 2 times: closed")),
            "parked",
            "an operator since 2026-03-01T12:00:05.000+00:00: step tell failed 2 times: closed",
        ),
        ((*HELD, Ended("undone")), "undone", ""),
        ((*HELD, PivotDecided("confirm"), Parked("stuck"), EndForced("ops", "enough")), "forced", ""),
    ],
)
def test_an_unfinished_saga_waits_for_something(entries: tuple[AnyEntry, ...], state: str, waits_for: str) -> None:
    assert timeline.state_of(lines(*entries)) == state
    assert timeline.waits_for(CHECKOUT, lines(*entries)) == waits_for
