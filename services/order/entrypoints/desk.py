"""What REST and gRPC do alike: take a request in, wait for it as long as its caller wants to, answer."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from libs.kernel.errors import Invalid, NotFound, StillRunning
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock, Ids
from libs.telemetry import names
from libs.telemetry.tracing import current_traceparent, span
from services.order.domain import NAIVE, Address, Line, Order, PlaceOrder, checked
from services.order.handlers import Change, Placing, RequestCancel, Written
from services.order.reading import Queries, Reached, Watch


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks: the idempotency key, a digest of everything asked, and how long the caller waits for the end."""

    key: str
    fingerprint: bytes
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Wanted:
    customer_id: str
    lines: Sequence[Line]
    card_token: str
    ship_to: Address
    coordination: str


class Desk:
    """Takes orders and requests to cancel them; orders that nobody would finish only where that is allowed."""

    def __init__(
        self,
        placing: Batcher[Placing, Written],
        changing: Batcher[Change, Written],
        queries: Queries,
        watch: Watch,
        clock: Clock,
        ids: Ids,
        *,
        allow_naive: bool = False,
    ) -> None:
        self._placing = placing
        self._changing = changing
        self._queries = queries
        self._watch = watch
        self._clock = clock
        self._ids = ids
        self._allow_naive = allow_naive
        self._running: set[tuple[str, str]] = set()

    async def place(self, wanted: Wanted, request: Request) -> Written:
        """Accepts the order, durably; the answer shows it as it is when the wait is over."""
        command = checked(
            PlaceOrder(
                order_id=self._ids.new("ord"),
                customer_id=wanted.customer_id,
                lines=tuple(wanted.lines),
                card_token=wanted.card_token,
                ship_to=wanted.ship_to,
                coordination=wanted.coordination,
                at=self._clock.now(),
            )
        )
        if command.coordination == NAIVE and not self._allow_naive:
            raise Invalid("naive checkouts lose money and are not allowed here", code="naive-not-allowed")
        with span(names.PLACE_ORDER, attributes={names.ORDER_ID: command.order_id}):
            placing = Placing(command, request.key, request.fingerprint, current_traceparent())
            with self._watch.until(command.order_id, _decided) as decided:
                written = await self._once("place", request, self._placing.submit(placing))
                return await self._waited(written, request, decided, _decided)

    async def cancel(self, order_id: str, reason: str, request: Request) -> Written:
        """Notes that the customer wants the order taken back; waits until it is, or until that was refused."""
        with span(names.CANCEL_ORDER, attributes={names.ORDER_ID: order_id}):
            change = RequestCancel(
                order_id, reason, request.key, request.fingerprint, self._clock.now(), current_traceparent()
            )
            with self._watch.until(order_id, _settled) as settled:
                written = await self._once("cancel", request, self._changing.submit(change))
                return await self._waited(written, request, settled, _settled)

    async def _once(self, operation: str, request: Request, work: Awaitable[Written]) -> Written:
        """Refuses a second request under a key whose first is still being worked on."""
        name = (operation, request.key)
        if name in self._running:
            raise StillRunning("the first request with this Idempotency-Key is still being worked on; ask again")
        self._running.add(name)
        try:
            return await work
        finally:
            self._running.discard(name)

    async def _waited(self, written: Written, request: Request, future: Awaitable[Order], reached: Reached) -> Written:
        if request.wait_seconds <= 0 or reached(written.order):
            return written
        if not written.replayed:
            return await self._outcome(written, future, request.wait_seconds)
        # The order is an earlier request's: watch that one, after looking whether it got there already.
        order_id = written.order.order_id
        with self._watch.until(order_id, reached) as earlier:
            order = await self._queries.fold(order_id)
            if order is None:
                raise NotFound(f"there is no order {order_id}")
            current = Written(order, written.position, replayed=True)
            return current if reached(order) else await self._outcome(current, earlier, request.wait_seconds)

    async def _outcome(self, written: Written, future: Awaitable[Order], seconds: float) -> Written:
        try:
            async with asyncio.timeout(seconds):
                return Written(await future, written.position, written.replayed)
        except TimeoutError:
            return written


def _decided(order: Order) -> bool:
    return order.decided


def _settled(order: Order) -> bool:
    return (order.decided and not order.cancel_requested) or order.status.value == "cancelled"
