"""Payments and the ledger behind them: what a card processor's verdict does to each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from libs.kernel.errors import Invalid, Refused
from libs.kernel.money import Money

TEXT_LETTERS_MAX = 64
# An Idempotency-Key of 255 characters behind its prefix.
TRANSACTION_LETTERS_MAX = 260
NAME_LETTERS_MAX = 200
MERCHANT = "merchant"
CHARGE = "charge"
# Why there is no charge where the processor itself gave an authorisation up.
AUTHORISATION_VOIDED = "authorisation-voided"


class Status(StrEnum):
    CHARGING = "charging"
    AUTHORISING = "authorising"
    AUTHORISED = "authorised"
    CAPTURING = "capturing"
    CHARGED = "charged"
    DECLINED = "declined"
    VOIDING = "voiding"
    VOIDED = "voided"
    REFUNDING = "refunding"
    REFUNDED = "refunded"


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    # Straight to refunding when the money was wanted back before it was known to be there.
    Status.CHARGING: frozenset({Status.CHARGED, Status.DECLINED, Status.REFUNDING}),
    # To voided when the processor itself gave it up.
    Status.AUTHORISING: frozenset({Status.AUTHORISED, Status.DECLINED, Status.VOIDING, Status.VOIDED}),
    Status.AUTHORISED: frozenset({Status.CAPTURING, Status.VOIDING}),
    Status.CAPTURING: frozenset({Status.CHARGED, Status.REFUNDING}),
    Status.CHARGED: frozenset({Status.REFUNDING}),
    Status.VOIDING: frozenset({Status.VOIDED}),
    Status.REFUNDING: frozenset({Status.REFUNDED}),
    Status.DECLINED: frozenset(),
    Status.VOIDED: frozenset(),
    Status.REFUNDED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Payment:
    """`refund_wanted`: somebody asked for the money back while it was not known whether it had been taken.

    `announced`: what becomes of it is to be said to those who wait for it.
    """

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
    refund_wanted: bool = False
    announced: bool = False


@dataclass(frozen=True, slots=True)
class Charged:
    """The processor has the money, or has set it aside; `reference` is its name for the charge."""

    reference: str


@dataclass(frozen=True, slots=True)
class Declined:
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The authorisation was voided before it arrived: it never will be one."""


Verdict = Charged | Declined | GivenUp


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
        check_text(name, getattr(payment, name))
    return payment


def check_text(name: str, value: str, letters_max: int = TEXT_LETTERS_MAX) -> str:
    """The value, if it is short and readable. Raises Invalid."""
    if not 1 <= len(value) <= letters_max or not value.isprintable():
        raise Invalid(f"{name} has 1 to {letters_max} readable characters")
    return value


def moved(payment: Payment, status: Status) -> Payment:
    """The payment in its next status; a pair missing from the table is a bug."""
    assert status in TRANSITIONS[payment.status], f"{payment.payment_id}: {payment.status} cannot become {status}"
    return replace(payment, status=status)


def wanted_back(payment: Payment) -> Payment:
    """The payment once it was taken back; one that holds no money stays as it is."""
    match payment.status:
        case Status.CHARGING | Status.CAPTURING:
            return replace(payment, refund_wanted=True)
        case Status.CHARGED:
            return moved(payment, Status.REFUNDING)
        case Status.AUTHORISING | Status.AUTHORISED:
            return moved(payment, Status.VOIDING)
        case _:
            return payment


def wanted_for_good(payment: Payment | None) -> Payment:
    """The payment once it was confirmed; one that is further on stays as it is. Raises Refused where there is none."""
    if payment is None or payment.status is Status.DECLINED:
        raise Refused("there is nothing held or prepared to confirm", code="nothing-held")
    return moved(payment, Status.CAPTURING) if payment.status is Status.AUTHORISED else payment


def judged(payment: Payment, verdict: Verdict) -> tuple[Payment, Entry | None]:
    """What the processor's verdict makes of the payment and adds to the ledger."""
    match verdict:
        case Charged(reference=reference) if payment.status is Status.AUTHORISING:
            return replace(moved(payment, Status.AUTHORISED), processor_reference=reference), None
        case Charged(reference=reference):
            after, entry = captured(payment)
            return replace(after, processor_reference=reference), entry
        case Declined(code=code):
            return replace(moved(payment, Status.DECLINED), decline_code=code), None
        case GivenUp():
            return replace(moved(payment, Status.VOIDED), decline_code=AUTHORISATION_VOIDED), None


def captured(payment: Payment) -> tuple[Payment, Entry]:
    """The payment after the processor took the money, and its ledger entry."""
    after = moved(payment, Status.REFUNDING if payment.refund_wanted else Status.CHARGED)
    return after, _entry(payment, "charge", debit=_customer(payment), credit=MERCHANT)


def voided(payment: Payment) -> Payment:
    """The payment after the processor let the money go: nothing was ever taken."""
    return moved(payment, Status.VOIDED)


def refunded(payment: Payment) -> tuple[Payment, Entry]:
    """The payment after the processor gave the money back, and its ledger entry."""
    return moved(payment, Status.REFUNDED), _entry(payment, "refund", debit=MERCHANT, credit=_customer(payment))


def _customer(payment: Payment) -> str:
    return f"customer:{payment.account_id}"


def _entry(payment: Payment, memo: str, *, debit: str, credit: str) -> Entry:
    return Entry(f"{payment.payment_id}/{memo}", payment.payment_id, debit, credit, payment.amount, memo)
