"""How long a crashed process is left down."""

from hypothesis import given
from hypothesis import strategies as st

from dockyard.local.restarts import RestartPolicy

POLICY = RestartPolicy(first_delay_seconds=0.1, delay_seconds_max=5.0, stable_seconds=10.0)


def test_crashes_that_follow_each_other_wait_longer_each_time() -> None:
    assert [POLICY.delay_seconds(crashes) for crashes in range(1, 9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@given(st.integers(min_value=1))
def test_nothing_stays_down_for_long(crashes: int) -> None:
    assert 0 < POLICY.delay_seconds(crashes) <= 5.0


def test_a_stable_run_starts_afresh() -> None:
    assert POLICY.crashes_in_a_row(7, ran_seconds=10.0) == 1
    assert POLICY.crashes_in_a_row(7, ran_seconds=9.9) == 8
