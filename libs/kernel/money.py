"""Money as whole minor units of one currency; adding two currencies is a bug and says so."""

from collections.abc import Iterable
from dataclasses import dataclass

from libs.kernel.errors import Invalid

CURRENCY_LETTERS = 3
# Keeps every sum of a batch inside a 64-bit column.
MINOR_UNITS_MAX = 10**15


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """`minor_units` of `currency` (ISO 4217): `Money(1999, "EUR")` is 19.99 euros."""

    minor_units: int
    currency: str

    def __post_init__(self) -> None:
        if len(self.currency) != CURRENCY_LETTERS or not self.currency.isupper():
            raise Invalid(f"currency {self.currency!r} is not three capital letters")
        if abs(self.minor_units) > MINOR_UNITS_MAX:
            raise Invalid(f"an amount is at most {MINOR_UNITS_MAX} minor units")

    def __add__(self, other: "Money") -> "Money":
        assert self.currency == other.currency, f"{self.currency} + {other.currency}"
        return Money(self.minor_units + other.minor_units, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.minor_units, self.currency)

    def __mul__(self, count: int) -> "Money":
        return Money(self.minor_units * count, self.currency)

    def __str__(self) -> str:
        sign = "-" if self.minor_units < 0 else ""
        whole, part = divmod(abs(self.minor_units), 100)
        return f"{sign}{whole}.{part:02} {self.currency}"


def total(amounts: Iterable[Money], currency: str) -> Money:
    """The sum, zero of `currency` when there are none."""
    return sum(amounts, start=Money(0, currency))
