"""How the simulated card processor misbehaves: by card token, the way the real ones' test cards do."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from libs.kernel.errors import DockyardError, Invalid, Mismatch, NotFound, Refused

# How many tries of one key fail before tok_flaky and tok_rate_limited give in.
FAILING_TRIES = 2


class Conduct(StrEnum):
    """What happens to a try."""

    CHARGE = "charge"
    CHARGE_SLOWLY = "charge-slowly"
    CHARGE_AND_HANG_UP = "charge-and-hang-up"
    DECLINE = "decline"
    FAIL = "fail"
    HANG_UP = "hang-up"
    RATE_LIMIT = "rate-limit"


DECLINES: Mapping[str, tuple[str, str]] = {
    "tok_declined": ("card-declined", "the issuer declined the card"),
    "tok_insufficient": ("insufficient-funds", "there is not enough money on the card"),
}
UNKNOWN_CARD = "unknown-card"


class Status(StrEnum):
    """What became of the money: set aside, taken, or let go."""

    AUTHORISED = "authorised"
    CAPTURED = "captured"
    VOIDED = "voided"


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """Without `capture` the money is only set aside: authorised."""

    key: str
    reference: str
    amount_minor: int
    currency: str
    card_token: str
    capture: bool = True


@dataclass(frozen=True, slots=True)
class Charge:
    """Money that was taken, and how much of it was given back; or money that was only set aside."""

    charge_id: str
    key: str
    reference: str
    amount_minor: int
    currency: str
    refunded_minor: int
    capture: bool = True
    status: Status = Status.CAPTURED


@dataclass(frozen=True, slots=True)
class Ending:
    """An authorisation is to be captured, or voided."""

    charge_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class Reversal:
    """Whatever was authorised under `key` is to be voided, also when it arrives later.

    It repeats what it takes back, as a reversal of ISO 8583 does, because that may never have arrived.
    """

    key: str
    reference: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class RefundRequest:
    key: str
    charge_id: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Refund:
    key: str
    charge_id: str
    amount_minor: int


def conduct(token: str, key: str, tries: int) -> Conduct:
    """What happens to a try of `key` after `tries` earlier ones. Raises Invalid for a card that does not exist."""
    if token in DECLINES:
        return Conduct.DECLINE
    first, failing = tries == 0, tries < FAILING_TRIES
    match token:
        case "tok_ok":
            return Conduct.CHARGE
        case "tok_slow":
            # Only the first: a repeat asks for an answer that is there by then.
            return Conduct.CHARGE_SLOWLY if first else Conduct.CHARGE
        case "tok_lost_response":
            return Conduct.CHARGE_AND_HANG_UP if first else Conduct.CHARGE
        case "tok_flaky":
            return _failure(key, tries) if failing else Conduct.CHARGE
        case "tok_rate_limited":
            return Conduct.RATE_LIMIT if failing else Conduct.CHARGE
        case _:
            raise Invalid(f"there is no card {token[:64]!r}", code=UNKNOWN_CARD)


def _failure(key: str, tries: int) -> Conduct:
    """An honest 503 or a dropped connection; the same key always fares the same."""
    return Conduct.FAIL if zlib.crc32(f"{key}/{tries}".encode()) % 2 else Conduct.HANG_UP


def charge_outcome(request: ChargeRequest, kept: Charge) -> Charge | DockyardError:
    """What a key's charge answers to this request under the same key; one that was voided never charges again."""
    if not _same(request, kept):
        return Mismatch("this Idempotency-Key charged something else before")
    if kept.status is Status.VOIDED:
        return Refused("this charge was voided", code="charge-voided")
    if kept.capture is not request.capture:
        return Mismatch("this Idempotency-Key charged in another way before")
    return kept


def reversal_outcome(request: Reversal, kept: Charge) -> Charge | DockyardError:
    """What a key's charge answers to its reversal."""
    if not _same(request, kept):
        return Mismatch("this key charged something else")
    return ending_outcome(Ending(kept.charge_id, Status.VOIDED), kept)


def _same(request: ChargeRequest | Reversal, kept: Charge) -> bool:
    asked = request.reference, request.amount_minor, request.currency
    return asked == (kept.reference, kept.amount_minor, kept.currency)


def ending_outcome(request: Ending, kept: Charge | None) -> Charge | DockyardError:
    """What a charge that was to be captured or voided answers; it ends once, in one way."""
    if kept is None:
        return NotFound(f"there is no charge {request.charge_id}")
    if kept.status is not request.status:
        return Refused(f"this charge was {kept.status}", code=f"charge-{kept.status}")
    return kept


def refund_outcome(request: RefundRequest, kept: Refund | None, charge_exists: bool) -> Refund | DockyardError:
    """What a key's refund, if there is one, answers to this request under the same key."""
    if kept is None:
        if not charge_exists:
            return NotFound(f"there is no charge {request.charge_id}")
        return Refused("there is not that much left to refund", code="refund-too-large")
    if (kept.charge_id, kept.amount_minor) != (request.charge_id, request.amount_minor):
        return Mismatch("this Idempotency-Key refunded something else before")
    return kept
