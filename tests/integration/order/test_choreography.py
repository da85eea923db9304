"""The order's part of the choreographed checkout: how it begins, what moves it, how it ends, what it says."""

import asyncio

import pytest
from sqlalchemy.exc import IntegrityError

from libs.kernel.errors import NotFound
from libs.messaging.event import Delivery
from proto.events.v1 import events_pb2
from services.order.adapters.codec import ORDERS_TOPIC
from services.order.domain import CHOREOGRAPHED, COORDINATIONS, ORCHESTRATED, TCC
from services.order.handlers import RequestCancel, change_orders
from services.order.saga import CHECKOUTS
from tests.integration.order.bureau import NOON, Bureau, booked, deducted, heard, returned, statuses, stock_refused


async def begun(bureau: Bureau, order_id: str) -> tuple[int, int]:
    """How many sagas and how many choreographies an order began."""
    ((sagas, choreographies),) = await bureau.rows(
        "SELECT (SELECT count(*) FROM sagas WHERE saga_id = $1),"
        " (SELECT count(*) FROM choreographies WHERE order_id = $1)",
        order_id,
    )
    return sagas, choreographies


@pytest.mark.parametrize("style", COORDINATIONS)
async def test_an_order_begins_what_its_style_needs_and_nothing_else(style: str, bureau: Bureau) -> None:
    await bureau.place("o1", style)
    assert await begun(bureau, "o1") == (int(style in CHECKOUTS), int(style == CHOREOGRAPHED))


@pytest.mark.parametrize("style", COORDINATIONS)
async def test_the_card_goes_out_with_choreographed_orders_only(style: str, bureau: Bureau) -> None:
    await bureau.place("o1", style)
    (placed,) = await bureau.said(ORDERS_TOPIC)
    assert isinstance(placed, events_pb2.OrderPlaced)
    assert (placed.coordination, placed.card_token) == (style, "tok_ok" if style == CHOREOGRAPHED else "")


async def test_an_order_that_is_rejected_at_once_begins_nothing_and_asks_nobody(bureau: Bureau) -> None:
    await bureau.place("o1", CHOREOGRAPHED, "lamp", "rum")
    assert await begun(bureau, "o1") == (0, 0)
    assert [type(event).__name__ for event in await bureau.said(ORDERS_TOPIC)] == ["OrderRejected"]


async def test_a_booked_shipment_confirms_the_order(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.hear(booked("o1"))
    assert (await bureau.order("o1"), await bureau.choreography("o1")) == ("confirmed", "ended ShipmentBooked")


@pytest.mark.parametrize(("event", "reason"), [(stock_refused("o1"), "out-of-stock"), (returned("o1", "no"), "no")])
async def test_stock_that_is_refused_or_returned_rejects_it(event: Delivery, reason: str, bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.hear(event)
    assert await bureau.order("o1") == f"rejected {reason}"
    assert (await bureau.choreography("o1")).startswith("ended")


async def test_who_waits_for_the_order_and_who_acts_on_it_are_told_after_the_commit(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.place("o2")
    bureau.told.clear()
    await bureau.hear(booked("o1"), stock_refused("o2"))
    assert statuses(bureau.told) == ["o1 confirmed", "o2 rejected"]


async def test_nobody_is_told_of_what_was_not_committed(bureau: Bureau) -> None:
    await bureau.place("o1")
    bureau.told.clear()
    await bureau.rows("ALTER TABLE outbox ADD CONSTRAINT mute CHECK (type NOT LIKE '%OrderConfirmed')")
    with pytest.raises(IntegrityError, match="mute"):
        await bureau.hear(booked("o1"))
    assert bureau.told == []
    assert (await bureau.order("o1"), await bureau.choreography("o1")) == ("pending", "running")
    await bureau.rows("ALTER TABLE outbox DROP CONSTRAINT mute")
    await bureau.hear(booked("o1"))
    assert statuses(bureau.told) == ["o1 confirmed"]


async def test_every_step_of_the_others_moves_it_and_is_noted(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.let_time_pass("o1")
    await bureau.hear(deducted("o1"))
    assert await bureau.choreography("o1") == "running StockDeducted"
    await bureau.hear(heard(events_pb2.PaymentCharged(checkout=events_pb2.Checkout(order_id="o1"), payment_id="pay_1")))
    await bureau.hear(heard(events_pb2.ShipmentRefused(order_id="o1", code="zone-not-served")))
    assert await bureau.log("o1") == ["StockDeducted", "PaymentCharged pay_1", "ShipmentRefused zone-not-served"]
    assert await bureau.deadlines.step() == 0


async def test_what_concerns_one_order_is_heard_in_order_within_a_batch(bureau: Bureau) -> None:
    for order_id in ("o1", "o2"):
        await bureau.place(order_id)
    await bureau.hear(deducted("o1"), deducted("o2"), booked("o1"), stock_refused("o2"), booked("o2"))
    assert await bureau.log("o1") == ["StockDeducted", "ShipmentBooked shp_1"]
    assert (await bureau.order("o1"), await bureau.order("o2")) == ("confirmed", "rejected out-of-stock")


async def test_repeats_change_nothing(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.hear(booked("o1"))
    await bureau.hear(booked("o1"))
    assert await bureau.events("o1") == ["OrderPlaced", "OrderConfirmed"]
    await bureau.place("o2")
    await bureau.hear(stock_refused("o2"), returned("o2", "later"))
    assert await bureau.events("o2") == ["OrderPlaced", "OrderRejected"]


async def test_news_of_an_unknown_order_is_loud(bureau: Bureau) -> None:
    with pytest.raises(NotFound):
        await bureau.hear(booked("o1"))


async def test_stock_that_comes_back_for_a_confirmed_order_is_loud(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.hear(booked("o1"))
    with pytest.raises(AssertionError, match="must not be undone"):
        await bureau.hear(returned("o1", "no"))


async def test_a_cancellation_is_said_to_everybody_and_ends_when_the_stock_is_back(bureau: Bureau) -> None:
    await bureau.place("o1")
    assert await bureau.cancel("o1") == "pending"
    assert await bureau.withdrawals() == ["o1 cancel-requested"]
    assert await bureau.choreography("o1") == "withdrawn CheckoutWithdrawn"
    await bureau.hear(returned("o1", "cancel-requested"))
    assert (await bureau.order("o1"), await bureau.choreography("o1")) == ("cancelled rain", "ended StockReturned")


async def test_a_confirmation_that_the_cancellation_overtook_is_ignored(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.cancel("o1")
    await bureau.hear(booked("o1"))
    assert (await bureau.order("o1"), await bureau.choreography("o1")) == ("pending", "withdrawn ShipmentBooked")
    await bureau.hear(returned("o1", "cancel-requested"))
    assert await bureau.order("o1") == "cancelled rain"


async def test_a_cancellation_after_the_confirmation_is_a_saga_of_its_own(bureau: Bureau) -> None:
    await bureau.place("o1")
    await bureau.hear(booked("o1"))
    assert await bureau.cancel("o1") == "confirmed"
    assert await bureau.withdrawals() == []
    assert [row[0] for row in await bureau.rows("SELECT saga FROM sagas")] == ["cancellation"]
    assert await bureau.choreography("o1") == "ended ShipmentBooked"


async def test_a_cancellation_waits_for_a_confirmation_under_way_and_comes_second(bureau: Bureau) -> None:
    await bureau.place("o1")
    async with asyncio.TaskGroup() as group, bureau.database.transaction() as connection:
        await bureau.checkouts.apply(connection, [booked("o1")])
        asked = group.create_task(bureau.cancel("o1"))
        await bureau.until_somebody_waits()
    assert asked.result() == "confirmed"
    assert await bureau.events("o1") == ["OrderPlaced", "OrderConfirmed", "CancelRequested"]
    assert (await bureau.withdrawals(), (await begun(bureau, "o1"))[0]) == ([], 0)
    assert [row[0] for row in await bureau.rows("SELECT saga FROM sagas")] == ["cancellation"]


async def test_a_confirmation_waits_for_a_cancellation_under_way_and_is_refused(bureau: Bureau) -> None:
    await bureau.place("o1")
    cancel = RequestCancel("o1", "rain", "cancel-o1", b"", NOON)
    async with asyncio.TaskGroup() as group, bureau.database.transaction() as connection:
        await change_orders(bureau.units.joining(connection), [cancel])
        confirming = group.create_task(bureau.hear(booked("o1")))
        await bureau.until_somebody_waits()
    assert confirming.done()
    assert await bureau.events("o1") == ["OrderPlaced", "CancelRequested"]
    assert await bureau.withdrawals() == ["o1 cancel-requested"]


@pytest.mark.parametrize("style", [ORCHESTRATED, TCC])
async def test_a_coordinated_checkout_is_not_withdrawn_over_the_streams(style: str, bureau: Bureau) -> None:
    await bureau.place("o1", style)
    await bureau.cancel("o1")
    assert await bureau.said() == []
