"""Who is measured when."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.compare.plan import HONEST, NAIVE, STYLES, Plan, parse_styles, patience_seconds, rotated, shares, slices
from libs.kernel.errors import Invalid


def test_each_style_stands_in_each_place_of_a_round_equally_often() -> None:
    plan = Plan(STYLES, orders=2000, seed=1)

    places = Counter((one.style, number % len(STYLES)) for number, one in enumerate(slices(plan)))

    assert plan.rounds == 5
    assert set(places.values()) == {1}
    assert len(places) == len(STYLES) ** 2


def test_a_second_cycle_of_rounds_runs_backwards() -> None:
    assert rotated(("a", "b", "c"), 1) == ["b", "c", "a"]
    assert rotated(("a", "b", "c"), 4) == ["a", "c", "b"]


@given(st.integers(1, 20_000), st.lists(st.sampled_from(STYLES), min_size=1, unique=True))
def test_the_slices_of_a_style_add_up_to_its_orders(orders: int, styles: list[str]) -> None:
    placed: Counter[str] = Counter()
    for one in slices(Plan(tuple(styles), orders, seed=1)):
        placed[one.style] += one.orders

    assert placed == dict.fromkeys(styles, orders)


@given(st.integers(0, 10_000), st.integers(1, 100))
def test_shares_differ_by_one_at_most(total: int, parts: int) -> None:
    found = shares(total, parts)

    assert sum(found) == total and len(found) == parts and max(found) - min(found) <= 1


def test_styles_are_named_once_each_and_must_exist() -> None:
    assert parse_styles(" tcc,naive, tcc") == ("tcc", "naive")
    with pytest.raises(Invalid, match="no style 'sagas'; the styles are orchestrated"):
        parse_styles("tcc,sagas")
    with pytest.raises(Invalid, match="no style is named"):
        parse_styles(" , ")


def test_only_the_naive_style_promises_nothing_and_is_not_waited_for() -> None:
    assert set(STYLES) - HONEST == {NAIVE}
    assert all(patience_seconds(style) > patience_seconds(NAIVE) for style in HONEST)
