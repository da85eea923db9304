"""Calls in a row, as the well-known demonstrations coordinate a checkout: no log, no retry, no undo.

It is the control that must fail. A refusal rejects the order and leaves what was done before it: the money stays
taken. An error, or the end of the process, leaves the order pending for ever. Nothing here may be made better.
"""

import asyncio
from collections.abc import Mapping, Sequence

from libs.kernel.errors import DockyardError, InDoubt, Overloaded, Refused, Unavailable
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.saga.calls import CommandContext, Participant
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import current_traceparent
from services.order.domain import NAIVE, Order
from services.order.handlers import Change, Confirm, EndUnconfirmed, Written
from services.order.saga import CHECKOUT, Checkout, checkout_of

# The same effects as everybody's, at once and in this order.
CALLS = tuple(CHECKOUT.step(name) for name in ("deduct-stock", "charge", "book-shipment"))
# Orders that wait for their turn, for each one under way; beyond it they are forgotten, as everything here may be.
WAITING_PER_RUNNING = 4

log = get_logger(__name__)


class NaiveRunner:
    """Runs each order once, `in_flight_max` at a time; what it does not manage, nobody does."""

    def __init__(
        self,
        participants: Mapping[str, Participant],
        changing: Batcher[Change, Written],
        clock: Clock,
        in_flight_max: int,
    ) -> None:
        self._participants = participants
        self._changing = changing
        self._clock = clock
        self._running: Batcher[Order, None] = Batcher(
            "naive checkouts",
            self._run,
            batch_rows_max=1,
            queue_rows_max=WAITING_PER_RUNNING * in_flight_max,
            in_flight_max=in_flight_max,
            on_lost=_lost,
        )

    def start(self, orders: Sequence[Order]) -> None:
        """Runs naive orders that were just placed; for one there is no room for, nobody ever calls anybody."""
        for order in orders:
            try:
                self._running.offer(order)
            except (Overloaded, Unavailable) as error:
                _lost(order, error)

    async def drain(self) -> None:
        """Takes nothing new and returns when what was taken is over."""
        await self._running.drain()

    async def _run(self, orders: Sequence[Order]) -> Sequence[DockyardError | None]:
        return [await self._outcome(order) for order in orders]

    async def _outcome(self, order: Order) -> DockyardError | None:
        """None when the order was decided; otherwise what made us give it up."""
        try:
            await self._check_out(order)
        except DockyardError as error:
            return error
        return None

    async def _check_out(self, order: Order) -> None:
        try:
            await self._call_everybody(checkout_of(order))
            await self._changing.submit(Confirm(order.order_id, self._clock.now(), current_traceparent()))
        except Refused as refusal:
            rejection = EndUnconfirmed(
                order.order_id, refusal.code, refusal.message, self._clock.now(), current_traceparent()
            )
            await self._changing.submit(rejection)

    async def _call_everybody(self, checkout: Checkout) -> None:
        """Raises the first refusal or error: whoever would be next is not called."""
        for step in CALLS:
            command = step.do(checkout, {})
            deadline = self._clock.unix_ms() + int(step.timeout_seconds * 1000)
            context = CommandContext(checkout.order_id, step.name, "do", 1, deadline)
            try:
                async with asyncio.timeout(step.timeout_seconds):
                    await self._participants[command.participant].execute(command, context)
            except TimeoutError:
                raise InDoubt(f"{command.participant} did not answer in time", code="timeout") from None


def _lost(order: Order, error: BaseException) -> None:
    extra = {"order_id": order.order_id, "coordination": NAIVE, "error": str(error)}
    log.warning("a checkout was given up, its order stays pending", extra=extra)
