"""What became of an order, for participants that hold something of it: the order's own events are the decision log.

Confirmed is what was confirmed. What is not known was never placed: cancel (presumed abort). What nobody decided is
withdrawn now, in a commit of its own; from then on the order refuses to be confirmed, whoever runs its checkout and
however far that is. The withdrawal and the confirmation are events in the same place of one stream: one of them wins,
and only what is committed is answered.
"""

import asyncio
from collections.abc import Sequence

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Conflict, DockyardError, InDoubt, Unavailable
from libs.runtime.ablation import without
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import current_traceparent
from services.order.adapters.queries import OrderQueries
from services.order.domain import Order, Status
from services.order.handlers import Change, Withdraw, Written

LEASE_ENDED = "lease-ended"

log = get_logger(__name__)


class OrderCoordinator:
    """Answers participants' inquiries."""

    def __init__(self, queries: OrderQueries, changing: Batcher[Change, Written], clock: Clock) -> None:
        self._queries = queries
        self._changing = changing
        self._clock = clock

    async def resolve(self, transaction_ids: Sequence[str]) -> Sequence[Outcome]:
        """One outcome for each transaction, in order; asking fixes it. Raises Unavailable."""
        outcomes = await self._decided(transaction_ids)
        undecided = [one for one in dict.fromkeys(transaction_ids) if outcomes[one] is Outcome.UNDECIDED]
        if undecided and without("decision-log"):
            outcomes |= dict.fromkeys(undecided, Outcome.CANCEL)
        elif undecided:
            async with asyncio.TaskGroup() as group:
                for order_id in undecided:
                    group.create_task(self._withdraw(order_id))
            outcomes |= await self._decided(undecided)
        return [outcomes[transaction_id] for transaction_id in transaction_ids]

    async def _decided(self, order_ids: Sequence[str]) -> dict[str, Outcome]:
        """What is committed of each order's outcome."""
        orders = await self._queries.folds(order_ids)
        return {order_id: _outcome(orders.get(order_id)) for order_id in order_ids}

    async def _withdraw(self, order_id: str) -> None:
        """Decides against an order; what came of it, and of those who were faster, its events say afterwards."""
        message = "a participant waited too long for the decision"
        withdrawal = Withdraw(order_id, LEASE_ENDED, message, self._clock.now(), current_traceparent())
        try:
            await self._changing.submit(withdrawal)
        except (Conflict, Unavailable, InDoubt) as error:
            _left(order_id, error)
        else:
            log.warning("an undecided order was withdrawn", extra={"order_id": order_id, "code": LEASE_ENDED})


def _left(order_id: str, error: DockyardError) -> None:
    log.info("an order was not withdrawn", extra={"order_id": order_id, "error": error.message})


def _outcome(order: Order | None) -> Outcome:
    if order is None:
        return Outcome.CANCEL
    match order.status:
        case Status.CONFIRMED | Status.SHIPPED:
            # Also when it is being cancelled: that takes back what was confirmed, from everybody.
            return Outcome.CONFIRM
        case Status.REJECTED | Status.CANCELLED:
            return Outcome.CANCEL
        case Status.PENDING:
            return Outcome.CANCEL if order.withdrawn or order.cancel_requested else Outcome.UNDECIDED
