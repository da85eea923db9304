"""Where a reader is in the order of commits."""

from dataclasses import dataclass

from libs.kernel.errors import Invalid


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The writing transaction's id, then the row within it. Rows in this order, below the horizon, have no gaps."""

    transaction: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.transaction}.{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Reads what `str` wrote. Raises Invalid."""
        transaction, dot, sequence = text.partition(".")
        if not (dot and transaction.isdecimal() and sequence.isdecimal() and len(text) <= 40):
            raise Invalid(f"{text[:40]!r} is not a position we gave out", code="position-invalid")
        return cls(int(transaction), int(sequence))


START = Position(0, 0)
