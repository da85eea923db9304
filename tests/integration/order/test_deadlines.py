"""Choreographed checkouts that stand still are withdrawn, then parked; nothing of it is silent."""

import asyncio
import logging

import pytest

from services.order.adapters import deadlines
from services.order.domain import CHOREOGRAPHED, TCC
from tests.integration.order.bureau import Bureau, booked, deducted, returned

AFTER_DEDUCTION = "nothing was heard in time after StockDeducted"


async def test_one_that_moves_in_time_is_left_alone(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.place("o2", TCC)
    assert await bureau.deadlines.step() == 0
    assert await bureau.choreography("o1") == "running"


async def test_its_time_is_the_setting_by_the_databases_clock(bureau: Bureau) -> None:
    await bureau.place("o1")
    ((seconds, ahead),) = await bureau.rows(
        "SELECT extract(epoch FROM deadline_at - moved_at)::float, deadline_at > now() FROM choreographies"
    )
    assert (seconds, ahead) == (30.0, True)


async def test_one_that_stands_still_is_withdrawn_once_and_everybody_hears_it(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.hear(deducted("o1"))
    await bureau.let_time_pass("o1")
    assert await bureau.deadlines.step() == 1
    assert await bureau.withdrawals() == ["o1 checkout-timed-out"]
    assert await bureau.choreography("o1") == "withdrawn CheckoutWithdrawn"
    assert await bureau.events("o1") == ["OrderPlaced", "CheckoutWithdrawn"]
    # It has its time again.
    assert await bureau.deadlines.step() == 0


async def test_withdrawn_it_cannot_be_confirmed_and_ends_when_the_stock_is_back(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.let_time_pass("o1")
    await bureau.deadlines.step()
    await bureau.hear(booked("o1"))
    assert await bureau.order("o1") == "pending"
    await bureau.hear(returned("o1", "checkout-timed-out"))
    assert (await bureau.order("o1"), await bureau.choreography("o1")) == (
        "rejected checkout-timed-out",
        "ended StockReturned",
    )


async def withdrawn_and_parked(bureau: Bureau) -> None:
    await bureau.place("o1")
    for _ in range(2):
        await bureau.let_time_pass("o1")
        assert await bureau.deadlines.step() == 1


async def test_one_that_does_not_come_back_is_parked_with_a_reason(
    bureau: Bureau, caplog: pytest.LogCaptureFixture
) -> None:
    await withdrawn_and_parked(bureau)
    reason = "nothing was heard in time after CheckoutWithdrawn"
    assert await bureau.choreography("o1") == "parked CheckoutWithdrawn"
    assert await bureau.log("o1") == [f"Parked {reason}"]
    assert await bureau.queries.parked_reason("o1") == reason
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (error.__dict__["order_id"], error.__dict__["reason"]) == ("o1", reason)
    # It waits for an operator, or for news.
    await bureau.let_time_pass("o1")
    assert await bureau.deadlines.step() == 0


async def test_a_parked_one_of_which_news_comes_moves_again(bureau: Bureau) -> None:
    await withdrawn_and_parked(bureau)
    await bureau.hear(deducted("o1"))
    assert await bureau.choreography("o1") == "withdrawn StockDeducted"
    assert await bureau.queries.parked_reason("o1") == ""
    await bureau.hear(returned("o1", "checkout-timed-out"))
    assert await bureau.order("o1") == "rejected checkout-timed-out"


async def test_a_cancelled_one_that_does_not_come_back_is_parked_as_well(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.cancel("o1")
    await bureau.let_time_pass("o1")
    assert await bureau.deadlines.step() == 1
    assert await bureau.choreography("o1") == "parked CheckoutWithdrawn"
    assert await bureau.withdrawals() == ["o1 cancel-requested"]


async def test_many_are_taken_in_bounded_batches(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "OVERDUE_ROWS_MAX", 2)
    order_ids = [f"o{number}" for number in range(3)]
    for order_id in order_ids:
        await bureau.place(order_id)
    await bureau.let_time_pass(*order_ids)
    assert [await bureau.deadlines.step() for _ in range(3)] == [2, 1, 0]
    assert sorted(await bureau.withdrawals()) == [f"{order_id} checkout-timed-out" for order_id in order_ids]


async def test_one_that_moves_at_this_moment_is_not_withdrawn(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.let_time_pass("o1")
    async with bureau.database.transaction() as connection:
        await bureau.checkouts.apply(connection, [deducted("o1")])
        assert await bureau.deadlines.step() == 0
    assert await bureau.deadlines.step() == 0
    assert await bureau.choreography("o1") == "running StockDeducted"


async def test_two_replicas_withdraw_it_once(bureau: Bureau, replica: Bureau) -> None:
    order_ids = [f"o{number}" for number in range(10)]
    for order_id in order_ids:
        await bureau.place(order_id, CHOREOGRAPHED)
    await bureau.let_time_pass(*order_ids)
    found = await asyncio.gather(bureau.deadlines.step(), replica.deadlines.step())
    assert sum(found) + await bureau.deadlines.step() == 10
    assert sorted(await bureau.withdrawals()) == [f"{order_id} checkout-timed-out" for order_id in order_ids]


async def test_one_whose_order_is_over_is_parked_and_not_tried_for_ever(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.hear(booked("o1"))
    await bureau.rows("UPDATE choreographies SET status = 'running', deadline_at = now()")
    assert [await bureau.deadlines.step(), await bureau.deadlines.step()] == [1, 0]
    assert "cannot be withdrawn: the order is confirmed" in await bureau.queries.parked_reason("o1")
