"""What shipping keeps from others until somebody decides, for the loop that asks about it."""

from collections.abc import Awaitable, Callable, Sequence

from libs.coordination.outcomes import Outcome
from services.shipping.entrypoints.desk import Desk

Overdue = Callable[[int], Awaitable[Sequence[str]]]


class DeskHoldings:
    """Places that are held and bookings that are prepared, both for longer than was agreed."""

    def __init__(self, desk: Desk, held: Overdue, prepared: Overdue) -> None:
        self._desk = desk
        self._held = held
        self._prepared = prepared

    async def overdue(self, limit: int) -> Sequence[str]:
        """What is prepared keeps others waiting, so it goes first; half the limit stays for what is held."""
        prepared = await self._prepared(limit // 2)
        return [*prepared, *await self._held(limit - len(prepared))]

    async def settle(self, transaction_id: str, outcome: Outcome) -> None:
        await self._desk.settle(transaction_id, outcome)
