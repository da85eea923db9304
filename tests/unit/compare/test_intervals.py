"""How long an order kept something, and how long it could be seen half done."""

from datetime import UTC, datetime, timedelta

import pytest

from dockyard.compare.intervals import Effect, Life, inconsistent_ms, quantile, stock_kept_ms

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STOCK, CHARGE, SHIPMENT = "deduct-stock", "charge", "book-shipment"


def at(ms: float) -> datetime:
    return NOON + timedelta(milliseconds=ms)


def life(decision: str, decided_ms: float | None, *effects: Effect) -> Life:
    decided = None if decided_ms is None else at(decided_ms)
    return Life("ord_1", "any", NOON, decided, decision, list(effects))


def do(step: str, ms: float, manner: str = "at-once", *, refused: bool = False) -> Effect:
    return Effect(step, "do", manner, at(ms), refused)


def undo(step: str, ms: float, manner: str = "at-once") -> Effect:
    return Effect(step, "undo", manner, at(ms))


def confirm(step: str, ms: float, manner: str = "hold") -> Effect:
    return Effect(step, "confirm", manner, at(ms))


def test_a_saga_is_half_done_from_its_first_effect_to_its_decision() -> None:
    order = life("confirmed", 90, do(STOCK, 10), do(CHARGE, 40), do(SHIPMENT, 70))

    assert inconsistent_ms(order) == pytest.approx(80)
    assert stock_kept_ms(order) == 0


def test_a_refused_saga_is_half_done_until_its_last_undo_or_its_rejection() -> None:
    effects = (do(STOCK, 10), do(CHARGE, 40), do(SHIPMENT, 70, refused=True), undo(CHARGE, 80), undo(STOCK, 120))

    assert inconsistent_ms(life("unconfirmed", 125, *effects)) == pytest.approx(115)
    assert inconsistent_ms(life("unconfirmed", 75, *effects)) == pytest.approx(110)


def test_a_held_order_is_half_done_only_from_the_decision_to_the_last_confirm() -> None:
    held = [do(step, 10, "hold") for step in (STOCK, CHARGE, SHIPMENT)]
    order = life("confirmed", 50, *held, confirm(STOCK, 60), confirm(CHARGE, 90), confirm(SHIPMENT, 70))

    assert inconsistent_ms(order) == pytest.approx(40)
    assert stock_kept_ms(order) == pytest.approx(50)


def test_a_refused_hold_shows_nothing_half_done() -> None:
    order = life(
        "unconfirmed", 50, do(STOCK, 10, "hold"), do(SHIPMENT, 10, "hold", refused=True), undo(STOCK, 60, "hold")
    )

    assert inconsistent_ms(order) == 0
    assert stock_kept_ms(order) == pytest.approx(50)


def test_money_that_nobody_gives_back_is_half_done_for_ever() -> None:
    assert inconsistent_ms(life("unconfirmed", 80, do(STOCK, 10), do(CHARGE, 40))) is None
    assert inconsistent_ms(life("", None, do(STOCK, 10))) is None
    assert inconsistent_ms(life("confirmed", 50, *(do(step, 10, "hold") for step in (STOCK, CHARGE, SHIPMENT)))) is None


def test_an_order_that_did_nothing_is_consistent_at_once_and_kept_nothing() -> None:
    order = life("unconfirmed", 30, do(STOCK, 10, refused=True))

    assert inconsistent_ms(order) == 0
    assert stock_kept_ms(order) is None


def test_what_is_still_held_has_no_length_yet() -> None:
    assert stock_kept_ms(life("", None, do(STOCK, 10, "hold"))) is None


def test_a_quantile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]

    assert quantile(values, 0.5) == 50
    assert quantile(values, 0.99) == 99
    assert quantile([7.0], 0.99) == 7
    assert quantile([], 0.5) == 0
