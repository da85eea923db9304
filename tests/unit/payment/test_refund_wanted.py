"""Money that is wanted back before it is known whether it was taken, and what may be asked for at all."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.kernel.errors import Invalid
from libs.kernel.money import Money
from services.payment.domain import (
    TEXT_LETTERS_MAX,
    Charged,
    Declined,
    Entry,
    Payment,
    Status,
    Verdict,
    check_text,
    checked,
    judged,
    refunded,
    wanted_back,
)

CHARGING = Payment(
    payment_id="pay_1",
    transaction_id="ord_1",
    step="charge",
    account_id="ada",
    amount=Money(4900, "EUR"),
    card_token="tok_slow",
    status=Status.CHARGING,
    created_at=datetime(2026, 1, 31, tzinfo=UTC),
)
HOLDS_NOTHING = sorted({Status.DECLINED, Status.VOIDING, Status.VOIDED, Status.REFUNDING, Status.REFUNDED})

verdicts = st.sampled_from([Charged("ch_1"), Declined("card-declined", "no")])


def sum_of(entries: list[Entry], account: str) -> int:
    return sum(entry.amount.minor_units * ((entry.debit == account) - (entry.credit == account)) for entry in entries)


def test_money_wanted_back_too_early_goes_straight_on_to_its_refund() -> None:
    payment, entry = judged(wanted_back(CHARGING), Charged("ch_1"))
    assert (payment.status, payment.processor_reference) == (Status.REFUNDING, "ch_1")
    assert entry is not None, "what was taken is in the ledger, however short"


def test_money_that_was_never_taken_needs_no_refund() -> None:
    payment, entry = judged(wanted_back(CHARGING), Declined("card-declined", "no"))
    assert (payment.status, entry) == (Status.DECLINED, None)


def test_money_that_was_taken_is_given_back_at_once() -> None:
    assert wanted_back(replace(CHARGING, status=Status.CHARGED)).status is Status.REFUNDING


@pytest.mark.parametrize("status", HOLDS_NOTHING)
def test_asking_again_for_the_money_changes_nothing(status: Status) -> None:
    payment = replace(CHARGING, status=status)
    assert wanted_back(payment) == payment


@given(verdict=verdicts, early=st.booleans(), late=st.booleans(), amount=st.integers(1, 10**12))
def test_however_a_payment_ends_nothing_appears_and_nothing_is_lost(
    verdict: Verdict, early: bool, late: bool, amount: int
) -> None:
    payment = replace(CHARGING, amount=Money(amount, "EUR"))
    entries: list[Entry] = []
    payment, entry = judged(wanted_back(payment) if early else payment, verdict)
    entries += [entry] if entry else []
    payment = wanted_back(payment) if late else payment
    if payment.status is Status.REFUNDING:
        payment, back = refunded(payment)
        entries.append(back)
    assert sum_of(entries, "customer:ada") == -sum_of(entries, "merchant")
    assert sum_of(entries, "customer:ada") == (amount if payment.status is Status.CHARGED else 0)


@pytest.mark.parametrize("text", ["", "x" * (TEXT_LETTERS_MAX + 1), "ada\0", "ada\nlovelace", "\x7f"])
def test_what_cannot_be_read_or_goes_on_for_too_long_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="account_id"):
        check_text("account_id", text)
    with pytest.raises(Invalid, match="card_token"):
        checked(replace(CHARGING, card_token=text))


def test_what_people_are_called_is_readable() -> None:
    assert check_text("name", "Ada Lovelace, née Byron") == "Ada Lovelace, née Byron"
