"""Callers of this process that wait for an order to come to something."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.order.domain import Order
from services.order.reading import Reached


class OrderWatch:
    """Told of every order this process commits; wakes those who wait for it.

    Another replica's commits are not seen here: a waiter then runs into its own time limit and reads the order again.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[Reached, asyncio.Future[Order]]]] = {}

    @contextmanager
    def until(self, order_id: str, reached: Reached) -> Iterator["asyncio.Future[Order]"]:
        """A future of the order once `reached` holds; enter before the request that may lead there."""
        future: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        waiter = (reached, future)
        self._waiting.setdefault(order_id, []).append(waiter)
        try:
            yield future
        finally:
            waiters = self._waiting[order_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[order_id]

    def committed(self, order: Order) -> None:
        """The order as it is now durable."""
        for reached, future in self._waiting.get(order.order_id, ()):
            if reached(order) and not future.done():
                future.set_result(order)
