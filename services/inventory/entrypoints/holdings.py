"""What inventory keeps from others until somebody decides, for the loops that ask about it."""

from collections.abc import Awaitable, Callable, Sequence

from libs.coordination.outcomes import Outcome
from services.inventory.entrypoints.desk import Desk

Overdue = Callable[[int], Awaitable[Sequence[str]]]


class DeskHoldings:
    """Stock that is held, or deductions that are prepared, for longer than was agreed.

    Each has a loop of its own: a hold that is to be ended may wait for a product that something prepared keeps, and
    must not keep that from being ended.
    """

    def __init__(self, desk: Desk, overdue: Overdue) -> None:
        self._desk = desk
        self._overdue = overdue

    async def overdue(self, limit: int) -> Sequence[str]:
        return await self._overdue(limit)

    async def settle(self, transaction_id: str, outcome: Outcome) -> None:
        await self._desk.settle(transaction_id, outcome)
