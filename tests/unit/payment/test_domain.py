from datetime import UTC, datetime

import pytest

from libs.kernel.errors import Invalid
from libs.kernel.money import Money
from services.payment.domain import (
    TRANSITIONS,
    Charged,
    Declined,
    Payment,
    Status,
    checked,
    judged,
    moved,
    payment_id_of,
    refunded,
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
