"""A saga that could be left half-done, or never end, cannot be defined."""

import math
from dataclasses import replace

import pytest

from libs.saga.definition import ATTEMPTS_LIMIT, NOTHING_TO_UNDO, BadSaga, Kind, Retry, Saga, Step
from tests.unit.saga.sagas import command, pivot, retriable, step

GOOD = (step("take"), step("charge"), pivot("confirm"), retriable("tell"))


def test_compensatable_then_pivot_then_retriable_is_a_saga() -> None:
    saga = Saga("checkout", GOOD)
    assert saga.groups() == tuple((one,) for one in GOOD)
    assert saga.step("charge") is GOOD[1]


def test_neighbours_of_one_group_run_together() -> None:
    both = (step("take", group="reserve"), step("hold", group="reserve"))
    assert Saga("checkout", (*both, pivot("confirm"))).groups()[0] == both


def test_a_group_may_be_called_like_a_step() -> None:
    assert len(Saga("checkout", (step("a"), step("b", group="a"))).groups()) == 2


def test_a_step_that_leaves_nothing_behind_says_so() -> None:
    check = Step("check", command("check"), NOTHING_TO_UNDO)
    assert Saga("checkout", (check,)).step("check").undone_by is None


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ((), "it has no step"),
        ((step("take"), step("take")), "two steps have one name"),
        ((pivot("confirm"), step("take")), "not in the order compensatable, pivot, retriable"),
        ((retriable("tell"), pivot("confirm")), "not in the order compensatable, pivot, retriable"),
        ((pivot("confirm"), pivot("ship")), "two pivots"),
        ((step("a", group="g"), step("b"), step("c", group="g")), "the steps of a group do not stand together"),
        ((step("a", group="g"), replace(pivot("b"), group="g")), "a group mixes kinds"),
        ((Step("take", command("take")),), "step take is compensatable and has no undo"),
        ((Step("tell", command("tell"), command("untell"), Kind.RETRIABLE),), "is never undone, yet has an undo"),
        ((replace(step("take"), name=""),), "is empty or holds a colon or dot"),
        ((replace(step("take"), name="a.b"),), "is empty or holds a colon or dot"),
        ((replace(step("take"), retry=Retry(attempts_max=0)),), "no limit of attempts"),
        ((replace(step("take"), retry=Retry(attempts_max=ATTEMPTS_LIMIT + 1)),), "no limit of attempts"),
        ((replace(step("take"), undo_retry=Retry(attempts_max=0)),), "no limit of attempts"),
        ((replace(step("take"), retry=Retry(first_delay_seconds=math.inf)),), "a delay without limit"),
        ((replace(step("take"), retry=Retry(delay_seconds_max=-1)),), "a delay without limit"),
        ((replace(step("take"), timeout_seconds=math.inf),), "has no time limit"),
        ((replace(step("take"), timeout_seconds=0),), "has no time limit"),
        ((replace(step("take"), timeout_seconds=math.nan),), "has no time limit"),
    ],
)
def test_what_cannot_end_well_is_refused_where_it_is_defined(steps: tuple[Step, ...], problem: str) -> None:
    with pytest.raises(BadSaga, match=problem):
        Saga("checkout", steps)


def test_some_of_a_saga_may_run() -> None:
    assert Saga("checkout", GOOD, at_once_max=1).at_once_max == 1
    with pytest.raises(BadSaga, match="none of it may run"):
        Saga("checkout", GOOD, at_once_max=0)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(BadSaga, match="two steps have one name; step take has no time limit"):
        Saga("checkout", (step("take"), replace(step("take"), timeout_seconds=0)))


def test_waits_double_up_to_the_longest() -> None:
    retry = Retry(attempts_max=9, first_delay_seconds=0.1, delay_seconds_max=1.0)
    assert [retry.delay_seconds(attempt) for attempt in range(1, 8)] == [0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert retry.delay_seconds(1000) == 1.0
