"""Calls in a row: what goes well, what is lost, and that it is bounded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from libs.kernel.errors import DockyardError, InDoubt, Refused, Unavailable
from libs.kernel.money import Money
from libs.runtime.batching import Batcher
from libs.runtime.clock import ManualClock
from libs.saga.calls import CommandContext
from libs.saga.definition import Command
from services.order.adapters.naive import WAITING_PER_RUNNING, NaiveRunner
from services.order.domain import NAIVE, Address, Order, PricedLine, Status
from services.order.handlers import Change, Confirm, EndUnconfirmed, Written

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ADA = Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
LAMPS = PricedLine("lamp", 2, Money(4900, "EUR"))


def order(order_id: str = "ord_1") -> Order:
    return Order(
        order_id, "ada", Status.PENDING, "", NAIVE, (LAMPS,), Money(9800, "EUR"), "tok_ok", ADA, NOON, NOON, version=1
    )


class Street:
    """All participants: what they were asked, in order; one of them may say no, fail, or keep silent."""

    def __init__(self, **answers: DockyardError) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []
        self.contexts: list[CommandContext] = []
        self.open = asyncio.Event()
        self.open.set()
        self.running = 0
        self.running_most = 0

    async def execute(self, command: Command, context: CommandContext) -> Any:
        self.asked.append((context.saga_id, command.name))
        self.contexts.append(context)
        self.running += 1
        self.running_most = max(self.running, self.running_most)
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        if command.participant in self.answers:
            raise self.answers[command.participant]
        return {}


class Book:
    """What was decided about the orders."""

    def __init__(self, refusal: Refused | None = None) -> None:
        self.changes: list[Change] = []
        self.refusal = refusal
        self.changing: Batcher[Change, Written] = Batcher("test", self._change)

    async def _change(self, changes: Sequence[Change]) -> Sequence[Written | DockyardError]:
        self.changes += changes
        return [
            self.refusal if self.refusal and isinstance(change, Confirm) else Written(order(change.order_id), None)
            for change in changes
        ]


@asynccontextmanager
async def running(street: Street, book: Book, in_flight_max: int = 10) -> AsyncIterator[NaiveRunner]:
    runner = NaiveRunner(
        dict.fromkeys(("inventory", "payment", "shipping"), street), book.changing, ManualClock(NOON), in_flight_max
    )
    yield runner
    await runner.drain()
    await book.changing.drain()


async def run(street: Street, book: Book) -> None:
    async with running(street, book) as runner:
        runner.start([order()])


async def test_everybody_is_called_once_in_a_row_and_then_the_order_is_confirmed() -> None:
    street, book = Street(), Book()
    await run(street, book)
    assert street.asked == [("ord_1", "deduct-stock"), ("ord_1", "charge"), ("ord_1", "book-shipment")]
    assert book.changes == [Confirm("ord_1", NOON)]
    assert {(one.operation, one.attempt) for one in street.contexts} == {("do", 1)}
    assert all(one.deadline_unix_ms > NOON.timestamp() * 1000 for one in street.contexts)


async def test_a_refusal_rejects_the_order_and_nothing_is_given_back() -> None:
    street, book = Street(shipping=Refused("not served", code="zone-not-served")), Book()
    await run(street, book)
    assert [name for _, name in street.asked] == ["deduct-stock", "charge", "book-shipment"]
    assert book.changes == [EndUnconfirmed("ord_1", "zone-not-served", "not served", NOON)]


async def test_nobody_is_called_after_a_refusal() -> None:
    street, book = Street(inventory=Refused("none left", code="out-of-stock")), Book()
    await run(street, book)
    assert [name for _, name in street.asked] == ["deduct-stock"]


@pytest.mark.parametrize("error", [Unavailable("down"), InDoubt("no answer")])
async def test_after_an_error_nobody_tries_again_and_the_order_stays_pending(error: DockyardError) -> None:
    street, book = Street(payment=error), Book()
    await run(street, book)
    assert [name for _, name in street.asked] == ["deduct-stock", "charge"]
    assert book.changes == []


async def test_an_order_whose_customer_was_faster_ends_and_everything_stays_taken() -> None:
    street, book = Street(), Book(Refused("the customer asked first", code="cancel-requested"))
    await run(street, book)
    assert len(street.asked) == 3
    assert [type(change) for change in book.changes] == [Confirm, EndUnconfirmed]


async def test_orders_run_side_by_side_but_never_more_than_agreed_and_the_queue_has_an_end() -> None:
    street, book = Street(), Book()
    street.open.clear()
    room = 2 + WAITING_PER_RUNNING * 2
    async with running(street, book, in_flight_max=2) as runner:
        for number in range(2):
            runner.start([order(f"ord_{number}")])
            await asyncio.sleep(0)
        runner.start([order(f"ord_{number}") for number in range(2, room + 5)])
        await asyncio.sleep(0)
        street.open.set()
    assert street.running_most == 2
    assert len(book.changes) == room


async def test_a_runner_that_drains_finishes_what_it_has_and_forgets_what_comes_later() -> None:
    street, book = Street(), Book()
    async with running(street, book) as runner:
        runner.start([order("ord_1")])
        await runner.drain()
        runner.start([order("ord_2")])
    assert [change.order_id for change in book.changes] == ["ord_1"]
