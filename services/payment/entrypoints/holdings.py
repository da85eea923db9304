"""What payment keeps set aside until somebody decides, for the loop that asks about it."""

from collections.abc import Awaitable, Callable, Sequence

from libs.coordination.outcomes import Outcome
from services.payment.entrypoints.desk import Desk

Overdue = Callable[[int], Awaitable[Sequence[str]]]


class DeskHoldings:
    """Payments that are authorised and captures that are prepared, both for longer than was agreed."""

    def __init__(self, desk: Desk, authorised: Overdue, prepared: Overdue) -> None:
        self._desk = desk
        self._authorised = authorised
        self._prepared = prepared

    async def overdue(self, limit: int) -> Sequence[str]:
        """What is prepared goes first; it is authorised as well, and may be overdue as both."""
        prepared = await self._prepared(limit // 2)
        authorised = await self._authorised(limit - len(prepared))
        return list(dict.fromkeys([*prepared, *authorised]))

    async def settle(self, transaction_id: str, outcome: Outcome) -> None:
        await self._desk.settle(transaction_id, outcome)
