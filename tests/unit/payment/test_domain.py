from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.kernel.errors import Invalid, Refused
from libs.kernel.money import Money
from services.payment.domain import (
    TRANSITIONS,
    Charged,
    Declined,
    GivenUp,
    Payment,
    Status,
    captured,
    checked,
    judged,
    moved,
    payment_id_of,
    refunded,
    voided,
    wanted_back,
    wanted_for_good,
)

PAYMENT = Payment(
    payment_id_of("ord_1", "charge"),
    "ord_1",
    "charge",
    "ada",
    Money(4900, "EUR"),
    "tok_ok",
    Status.CHARGING,
    datetime(2026, 1, 31, tzinfo=UTC),
)


def test_a_charge_moves_the_money_from_the_customer_to_the_merchant() -> None:
    payment, entry = judged(PAYMENT, Charged("ch_1"))
    assert (payment.status, payment.processor_reference) == (Status.CHARGED, "ch_1")
    assert entry is not None
    assert (entry.debit, entry.credit, entry.amount) == ("customer:ada", "merchant", Money(4900, "EUR"))


def test_a_declined_card_moves_nothing() -> None:
    payment, entry = judged(PAYMENT, Declined("card-declined", "no"))
    assert (payment.status, payment.decline_code, entry) == (Status.DECLINED, "card-declined", None)


AUTHORISING = replace(PAYMENT, status=Status.AUTHORISING)


def test_an_authorisation_moves_nothing_until_it_is_captured() -> None:
    held, nothing = judged(AUTHORISING, Charged("ch_1"))
    assert (held.status, held.processor_reference, nothing) == (Status.AUTHORISED, "ch_1", None)
    payment, entry = captured(wanted_for_good(held))
    assert (payment.status, entry.memo, entry.debit) == (Status.CHARGED, "charge", "customer:ada")


def test_an_authorisation_that_is_wanted_back_is_voided_and_never_was_a_charge() -> None:
    held, _ = judged(AUTHORISING, Charged("ch_1"))
    for payment in (AUTHORISING, held):
        assert voided(wanted_back(payment)).status is Status.VOIDED


def test_what_is_wanted_back_while_it_is_captured_goes_straight_on_to_its_refund() -> None:
    held, _ = judged(AUTHORISING, Charged("ch_1"))
    payment, entry = captured(wanted_back(wanted_for_good(held)))
    assert (payment.status, entry.memo) == (Status.REFUNDING, "charge")


def test_an_authorisation_that_the_processor_gave_up_is_voided_with_a_reason() -> None:
    payment, entry = judged(AUTHORISING, GivenUp())
    assert (payment.status, payment.decline_code, entry) == (Status.VOIDED, "authorisation-voided", None)


@pytest.mark.parametrize("payment", [None, replace(PAYMENT, status=Status.DECLINED)])
def test_what_holds_no_money_cannot_be_confirmed(payment: Payment | None) -> None:
    with pytest.raises(Refused) as refused:
        wanted_for_good(payment)
    assert refused.value.code == "nothing-held"


def test_a_refund_is_the_mirror_of_the_charge() -> None:
    charged, charge = judged(PAYMENT, Charged("ch_1"))
    payment, refund = refunded(moved(charged, Status.REFUNDING))
    assert payment.status is Status.REFUNDED
    assert charge is not None
    assert (refund.debit, refund.credit, refund.amount) == (charge.credit, charge.debit, charge.amount)
    assert refund.entry_id != charge.entry_id


def test_every_pair_of_states_is_either_in_the_table_or_loud() -> None:
    assert set(TRANSITIONS) == set(Status)
    for before in Status:
        payment = Payment(
            "pay_1", "ord_1", "charge", "ada", Money(1, "EUR"), "tok_ok", before, datetime(2026, 1, 31, tzinfo=UTC)
        )
        for after in Status:
            if after in TRANSITIONS[before]:
                assert moved(payment, after).status is after
            else:
                with pytest.raises(AssertionError):
                    moved(payment, after)


def test_the_same_effect_has_the_same_payment_id_whoever_computes_it() -> None:
    assert payment_id_of("ord_1", "charge") == payment_id_of("ord_1", "charge")
    assert payment_id_of("ord_1", "charge") != payment_id_of("ord_1", "tip")
    assert payment_id_of("a", "bc") != payment_id_of("ab", "c")


def test_nothing_cannot_be_charged() -> None:
    with pytest.raises(Invalid, match="more than nothing"):
        checked(
            Payment("pay_1", "ord_1", "charge", "ada", Money(0, "EUR"), "tok_ok", Status.CHARGING, PAYMENT.created_at)
        )
