"""Payments and the ledger behind them: what a card processor's verdict does to each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from libs.kernel.errors import Invalid
from libs.kernel.money import Money

TEXT_LETTERS_MAX = 64
MERCHANT = "merchant"


class Status(StrEnum):
    CHARGING = "charging"
    CHARGED = "charged"
    DECLINED = "declined"
    REFUNDING = "refunding"
    REFUNDED = "refunded"


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.CHARGING: frozenset({Status.CHARGED, Status.DECLINED}),
    Status.CHARGED: frozenset({Status.REFUNDING}),
    Status.REFUNDING: frozenset({Status.REFUNDED}),
    Status.DECLINED: frozenset(),
    Status.REFUNDED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Payment:
    payment_id: str
    transaction_id: str
    step: str
    account_id: str
    amount: Money
    card_token: str
    status: Status
    created_at: datetime
    decline_code: str = ""
    processor_reference: str = ""


@dataclass(frozen=True, slots=True)
class Charged:
    """The processor has the money; `reference` is its name for the charge."""

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    code: str
    message: str


Verdict = Charged | Declined


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger entry: the amount moves from one account to another, so it always sums to zero."""

    entry_id: str
    payment_id: str
    debit: str
    credit: str
    amount: Money
    memo: str


def payment_id_of(transaction_id: str, step: str) -> str:
    """Always the same for the same effect: a restarted process asks the processor under the same key."""
    return "pay_" + hashlib.sha256(f"{transaction_id}\0{step}".encode()).hexdigest()[:32]


def checked(payment: Payment) -> Payment:
    """The payment, if it could ever be charged. Raises Invalid."""
    if payment.amount.minor_units <= 0:
        raise Invalid("the amount is more than nothing")
    for name in ("account_id", "card_token"):
        if not 1 <= len(getattr(payment, name)) <= TEXT_LETTERS_MAX:
            raise Invalid(f"{name} has 1 to {TEXT_LETTERS_MAX} characters")
    return payment


def moved(payment: Payment, status: Status) -> Payment:
    """The payment in its next status; a pair missing from the table is a bug."""
    assert status in TRANSITIONS[payment.status], f"{payment.payment_id}: {payment.status} cannot become {status}"
    return replace(payment, status=status)


def judged(payment: Payment, verdict: Verdict) -> tuple[Payment, Entry | None]:
    """What the processor's verdict makes of the payment and adds to the ledger."""
    match verdict:
        case Charged(reference=reference):
            charged = replace(moved(payment, Status.CHARGED), processor_reference=reference)
            return charged, _entry(payment, "charge", debit=_customer(payment), credit=MERCHANT)
        case Declined(code=code):
            return replace(moved(payment, Status.DECLINED), decline_code=code), None


def refunded(payment: Payment) -> tuple[Payment, Entry]:
    """The payment after the processor gave the money back, and its ledger entry."""
    return moved(payment, Status.REFUNDED), _entry(payment, "refund", debit=MERCHANT, credit=_customer(payment))


def _customer(payment: Payment) -> str:
    return f"customer:{payment.account_id}"


def _entry(payment: Payment, memo: str, *, debit: str, credit: str) -> Entry:
    return Entry(f"{payment.payment_id}/{memo}", payment.payment_id, debit, credit, payment.amount, memo)
