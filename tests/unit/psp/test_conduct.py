"""How each card fares, try by try."""

from dataclasses import replace

import pytest

from libs.kernel.errors import Invalid, Mismatch, NotFound, Refused
from services.psp.domain import (
    DECLINES,
    FAILING_TRIES,
    Charge,
    ChargeRequest,
    Conduct,
    Ending,
    Refund,
    RefundRequest,
    Reversal,
    Status,
    charge_outcome,
    conduct,
    ending_outcome,
    refund_outcome,
    reversal_outcome,
)

KEYS = [f"pay_{number}" for number in range(50)]
REQUEST = ChargeRequest("pay_1", "pay_1", 4900, "EUR", "tok_ok")
CHARGE = Charge("ch_1", "pay_1", "pay_1", 4900, "EUR", 0)


def fate(token: str, key: str = "pay_1", tries: int = 4) -> list[Conduct]:
    """What happens to one try after the other."""
    return [conduct(token, key, number) for number in range(tries)]


@pytest.mark.parametrize(
    ("token", "first", "then"),
    [
        ("tok_ok", Conduct.CHARGE, Conduct.CHARGE),
        ("tok_slow", Conduct.CHARGE_SLOWLY, Conduct.CHARGE),
        ("tok_lost_response", Conduct.CHARGE_AND_HANG_UP, Conduct.CHARGE),
        ("tok_declined", Conduct.DECLINE, Conduct.DECLINE),
        ("tok_insufficient", Conduct.DECLINE, Conduct.DECLINE),
    ],
)
def test_a_card_fares_the_first_time_as_it_is_named_and_then_settles(token: str, first: Conduct, then: Conduct) -> None:
    assert fate(token) == [first, then, then, then]


def test_a_rate_limited_card_is_let_through_in_the_end() -> None:
    assert fate("tok_rate_limited") == [Conduct.RATE_LIMIT] * FAILING_TRIES + [Conduct.CHARGE] * 2


def test_a_flaky_card_fails_before_charging_and_then_charges() -> None:
    for key in KEYS:
        assert set(fate("tok_flaky", key)[:FAILING_TRIES]) <= {Conduct.FAIL, Conduct.HANG_UP}
        assert fate("tok_flaky", key)[FAILING_TRIES:] == [Conduct.CHARGE] * 2


def test_flaky_cards_fail_in_both_ways_and_each_key_always_in_the_same() -> None:
    fates = [fate("tok_flaky", key) for key in KEYS]
    assert {step for one in fates for step in one} == {Conduct.FAIL, Conduct.HANG_UP, Conduct.CHARGE}
    assert fates == [fate("tok_flaky", key) for key in KEYS]


def test_a_card_that_does_not_exist_is_not_charged() -> None:
    with pytest.raises(Invalid) as unknown:
        conduct("tok_nope", "pay_1", 0)
    assert unknown.value.code == "unknown-card"


def test_each_card_that_is_declined_says_why() -> None:
    assert {token: code for token, (code, _) in DECLINES.items()} == {
        "tok_declined": "card-declined",
        "tok_insufficient": "insufficient-funds",
    }


def test_a_repeat_gets_the_charge_that_is_there() -> None:
    assert charge_outcome(REQUEST, CHARGE) is CHARGE


@pytest.mark.parametrize(
    "kept",
    [
        Charge("ch_1", "pay_1", "pay_2", 4900, "EUR", 0),
        Charge("ch_1", "pay_1", "pay_1", 4901, "EUR", 0),
        Charge("ch_1", "pay_1", "pay_1", 4900, "USD", 0),
    ],
)
def test_a_key_does_not_charge_two_things(kept: Charge) -> None:
    assert isinstance(charge_outcome(REQUEST, kept), Mismatch)


def test_a_refund_that_was_not_made_says_what_stood_in_its_way() -> None:
    request = RefundRequest("pay_1/refund", "ch_1", 4900)
    assert isinstance(refund_outcome(request, None, charge_exists=False), NotFound)
    assert isinstance(refund_outcome(request, None, charge_exists=True), Refused)


def test_a_key_does_not_refund_two_things() -> None:
    request = RefundRequest("pay_1/refund", "ch_1", 4900)
    kept = Refund("pay_1/refund", "ch_1", 4900)
    assert refund_outcome(request, kept, charge_exists=True) is kept
    for other in (Refund("pay_1/refund", "ch_2", 4900), Refund("pay_1/refund", "ch_1", 1)):
        assert isinstance(refund_outcome(request, other, charge_exists=True), Mismatch)


HELD = Charge("ch_1", "pay_1", "pay_1", 4900, "EUR", 0, capture=False, status=Status.AUTHORISED)
REVERSAL = Reversal("pay_1", "pay_1", 4900, "EUR")


def test_a_key_that_was_voided_charges_nothing_any_more() -> None:
    voided = replace(HELD, status=Status.VOIDED)
    for request in (REQUEST, replace(REQUEST, capture=False)):
        refused = charge_outcome(request, voided)
        assert isinstance(refused, Refused)
        assert refused.code == "charge-voided"


def test_a_key_stands_for_a_charge_or_for_an_authorisation() -> None:
    assert isinstance(charge_outcome(REQUEST, HELD), Mismatch)
    assert isinstance(charge_outcome(replace(REQUEST, capture=False), CHARGE), Mismatch)
    captured = replace(HELD, status=Status.CAPTURED)
    assert charge_outcome(replace(REQUEST, capture=False), captured) is captured


def test_an_authorisation_ends_once_and_in_one_way() -> None:
    for status, other in ((Status.CAPTURED, Status.VOIDED), (Status.VOIDED, Status.CAPTURED)):
        ended = replace(HELD, status=status)
        assert ending_outcome(Ending("ch_1", status), ended) is ended
        refused = ending_outcome(Ending("ch_1", other), ended)
        assert isinstance(refused, Refused)
        assert refused.code == f"charge-{status}"
    assert isinstance(ending_outcome(Ending("ch_2", Status.VOIDED), None), NotFound)


def test_a_reversal_takes_back_what_it_names() -> None:
    voided = replace(HELD, status=Status.VOIDED)
    assert reversal_outcome(REVERSAL, voided) is voided
    assert isinstance(reversal_outcome(replace(REVERSAL, amount_minor=1), voided), Mismatch)
    assert isinstance(reversal_outcome(REVERSAL, CHARGE), Refused)
