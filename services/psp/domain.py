"""How the simulated card processor misbehaves: by card token, the way the real ones' test cards do."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from libs.kernel.errors import Invalid

# How many tries of one key fail before tok_flaky and tok_rate_limited give in.
FLAKY_TRIES = 2


class Conduct(StrEnum):
    """What happens to a try."""

    CHARGE = "charge"
    DECLINE = "decline"
    FAIL = "fail"
    RATE_LIMIT = "rate-limit"
    CHARGE_SLOWLY = "charge-slowly"
    CHARGE_AND_HANG_UP = "charge-and-hang-up"


DECLINES: Mapping[str, tuple[str, str]] = {
    "tok_declined": ("card-declined", "the issuer declined the card"),
    "tok_insufficient": ("insufficient-funds", "there is not enough money on the card"),
}
TOKENS = frozenset({"tok_ok", "tok_slow", "tok_flaky", "tok_lost_response", "tok_rate_limited", *DECLINES})


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    key: str
    reference: str
    amount_minor: int
    currency: str
    card_token: str


@dataclass(frozen=True, slots=True)
class Charge:
    """Money that was taken, and how much of it was given back."""

    charge_id: str
    key: str
    reference: str
    amount_minor: int
    currency: str
    refunded_minor: int


@dataclass(frozen=True, slots=True)
class RefundRequest:
    key: str
    charge_id: str
    amount_minor: int


def conduct(token: str, tries: int) -> Conduct:
    """What happens to the try after `tries` earlier ones of the same key. Raises Invalid for an unknown token."""
    if token in DECLINES:
        return Conduct.DECLINE
    match token:
        case "tok_ok":
            return Conduct.CHARGE
        case "tok_slow":
            return Conduct.CHARGE_SLOWLY
        case "tok_flaky":
            return Conduct.FAIL if tries < FLAKY_TRIES else Conduct.CHARGE
        case "tok_rate_limited":
            return Conduct.RATE_LIMIT if tries < FLAKY_TRIES else Conduct.CHARGE
        case "tok_lost_response":
            return Conduct.CHARGE_AND_HANG_UP if tries == 0 else Conduct.CHARGE
        case _:
            raise Invalid(f"there is no card {token[:64]!r}", code="unknown-card")
