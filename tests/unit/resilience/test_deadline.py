from libs.resilience.deadline import Deadline

NOON = 1_767_268_800_000


def test_a_deadline_says_what_is_left_of_it() -> None:
    deadline = Deadline.after(2.5, NOON)
    assert deadline.at_unix_ms == NOON + 2_500
    assert deadline.remaining_seconds(NOON) == 2.5
    assert deadline.remaining_seconds(NOON + 2_499) == 0.001


def test_nothing_is_left_of_a_deadline_that_has_passed() -> None:
    deadline = Deadline.after(2.5, NOON)
    assert deadline.remaining_seconds(NOON + 60_000) == 0.0
    assert not deadline.passed(NOON + 2_499)
    assert deadline.passed(NOON + 2_500)


def test_a_part_never_gets_longer_than_the_whole() -> None:
    whole, part, generous = Deadline.after(2, NOON), Deadline.after(1, NOON), Deadline.after(60, NOON)
    assert part.within(whole) == part
    assert generous.within(whole) == whole
