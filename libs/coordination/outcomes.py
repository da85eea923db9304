"""What became of a transaction, and who knows: the question a participant asks when its patience has ended."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol


class Outcome(StrEnum):
    CONFIRM = "confirm"
    CANCEL = "cancel"
    UNDECIDED = "undecided"


class Coordinator(Protocol):
    async def resolve(self, transaction_ids: Sequence[str]) -> Sequence[Outcome]:
        """One outcome for each transaction, in order. Asking fixes it.

        A transaction that nobody decided yet is decided against, durably, before the answer is given; UNDECIDED means
        that this could not be done right now. Raises Unavailable or InDoubt when there is no answer.
        """
        ...
