"""Messages between a coordinator and its participants. What was sent once may arrive at any later time, any number of
times, or never; so the network is the set of what was ever sent, and a duplicate, a loss and a delay need no count.

An answer belongs to its try: it arrives while the coordinator still waits, or is lost. One that takes its time is the
same as a coordinator that takes its time, so it is not kept on its way.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from libs.tcc.barrier import Manner, Operation

# The order itself, and the others by their place.
ORDER = -1
SITES = ("payment", "shipping")

# What a command asks of its participant's barrier, by its name.
COMMANDS: Mapping[str, tuple[Operation, Manner]] = {
    "charge": (Operation.DO, Manner.AT_ONCE),
    "refund": (Operation.UNDO, Manner.AT_ONCE),
    "book-shipment": (Operation.DO, Manner.AT_ONCE),
    "cancel-booking": (Operation.UNDO, Manner.AT_ONCE),
    "authorise": (Operation.DO, Manner.HOLD),
    "capture": (Operation.CONFIRM, Manner.HOLD),
    "void": (Operation.UNDO, Manner.HOLD),
    "hold-place": (Operation.DO, Manner.HOLD),
    "confirm-place": (Operation.CONFIRM, Manner.HOLD),
    "release-place": (Operation.UNDO, Manner.HOLD),
    "prepare-payment": (Operation.DO, Manner.PREPARE),
    "commit-payment": (Operation.CONFIRM, Manner.PREPARE),
    "roll-back-payment": (Operation.UNDO, Manner.PREPARE),
    "prepare-shipment": (Operation.DO, Manner.PREPARE),
    "commit-shipment": (Operation.CONFIRM, Manner.PREPARE),
    "roll-back-shipment": (Operation.UNDO, Manner.PREPARE),
}


class Message(NamedTuple):
    """A command for one of the sites, or for the order itself (then `name` says which)."""

    site: int
    operation: Operation
    manner: Manner
    name: str


class Network:
    """Numbers messages, so that what was sent is one integer."""

    def __init__(self) -> None:
        self._bits: dict[Message, int] = {}
        self._sent: dict[int, list[tuple[int, Message]]] = {}

    def bit(self, message: Message) -> int:
        return self._bits.setdefault(message, 1 << len(self._bits))

    def sent(self, bits: int) -> Sequence[tuple[int, Message]]:
        """What may arrive now."""
        if bits not in self._sent:
            self._sent[bits] = [(bit, message) for message, bit in self._bits.items() if bits & bit]
        return self._sent[bits]
