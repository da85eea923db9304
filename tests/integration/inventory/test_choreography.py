"""Inventory's part of the choreographed checkout: what it hears, what it does about it, and what it says."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message
from sqlalchemy.exc import IntegrityError

from libs.choreography.events import CHECKOUTS_TOPIC
from libs.messaging.broker import Mark
from libs.messaging.event import Delivery, OutgoingEvent
from libs.messaging.redis_streams import RedisStreamsBroker
from libs.runtime.position import Position
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from tests.integration.inventory.serving import serve_inventory
from tests.integration.inventory.storeroom import Store, deduct, done, hold, restock
from tests.waiting import until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def heard(order_id: str, event: Message, topic: str = CHECKOUTS_TOPIC) -> Delivery:
    type_ = event.DESCRIPTOR.full_name
    data = event.SerializeToString()
    return Delivery(f"evt-{order_id}-{type_}", topic, type_, "test", order_id, "", TRACE, data, "stream", "0-1")


def placed(order_id: str, coordination: str = "choreographed", **wanted: int) -> Delivery:
    event = events_pb2.OrderPlaced(
        order_id=order_id,
        customer_id="ada",
        lines=[kernel_pb2.Line(sku=sku, quantity=quantity) for sku, quantity in wanted.items()],
        total=kernel_pb2.Money(minor_units=4900, currency="EUR"),
        ship_to=kernel_pb2.Address(name="Ada", zone="DE"),
        coordination=coordination,
        card_token="tok_ok",
    )
    return heard(order_id, event, "orders")


def unpaid(order_id: str) -> Delivery:
    return heard(order_id, events_pb2.PaymentRefused(order_id=order_id, code="card-declined", message="no"))


def refunded(order_id: str) -> Delivery:
    return heard(order_id, events_pb2.PaymentRefunded(order_id=order_id, code="zone-not-served", message="too far"))


async def hear(store: Store, *deliveries: Delivery) -> None:
    async with store.database.transaction() as connection:
        await store.checkouts.apply(connection, deliveries)


async def said(store: Store) -> list[str]:
    """Each event in the outbox in a few words."""
    return [f"{name} {subject} {_more(name, data)}".rstrip() for name, subject, data in await store.said()]


def _more(name: str, data: bytes) -> str:
    event: Any = getattr(events_pb2, name).FromString(data)
    assert event.HasField("at")
    return str(getattr(event, "code", ""))


async def test_a_placed_order_takes_its_stock_and_says_so(store: Store) -> None:
    await hear(store, placed("o1", lamp=2, rope=1))
    assert await said(store) == ["StockDeducted o1"]
    assert (await store.status("o1"), await store.counted("lamp"), await store.counted("rope")) == (
        "deducted",
        (8, 0, 2),
        (0, 0, 1),
    )


async def test_what_is_said_brings_all_that_the_next_needs_to_know_in_the_trace_of_what_was_heard(store: Store) -> None:
    await hear(store, placed("o1", lamp=2))
    ((_, _, data),) = await store.said()
    checkout = events_pb2.StockDeducted.FromString(data).checkout
    assert (checkout.order_id, checkout.customer_id, checkout.card_token) == ("o1", "ada", "tok_ok")
    assert (checkout.total.minor_units, checkout.ship_to.zone) == (4900, "DE")
    assert list(checkout.lines) == [kernel_pb2.Line(sku="lamp", quantity=2)]
    ((topic, traceparent, source),) = await store.rows(
        "SELECT topic, traceparent, source FROM outbox WHERE topic <> 'catalogue'"
    )
    assert (topic, traceparent, source) == ("checkouts", TRACE, "/services/inventory")


@pytest.mark.parametrize("coordination", ["orchestrated", "tcc", "twophase", "naive", ""])
async def test_orders_of_other_styles_are_nobodys_business(store: Store, coordination: str) -> None:
    await hear(store, placed("o1", coordination, lamp=2))
    assert (await said(store), await store.status("o1")) == ([], "none")


async def test_who_is_refused_hears_why_and_the_others_take_theirs(store: Store) -> None:
    await hear(store, placed("o1", rope=1), placed("o2", lamp=1, rope=1), placed("o3", unicorn=1), placed("o4", lamp=1))
    assert await said(store) == [
        "StockDeducted o1",
        "StockRefused o2 out-of-stock",
        "StockRefused o3 unknown-product",
        "StockDeducted o4",
    ]
    assert await store.counted("lamp") == (9, 0, 1)


async def test_lines_that_nobody_could_take_are_refused(store: Store) -> None:
    await hear(store, placed("o1", lamp=0), placed("o2"), placed("o3", lamp=1))
    assert await said(store) == ["StockRefused o1 invalid", "StockRefused o2 invalid", "StockDeducted o3"]


@pytest.mark.parametrize(("back", "code"), [(unpaid, "card-declined"), (refunded, "zone-not-served")])
async def test_a_checkout_that_goes_back_returns_its_stock_and_says_why(store: Store, back: Any, code: str) -> None:
    await hear(store, placed("o1", lamp=2))
    await hear(store, back("o1"))
    assert (await said(store))[1:] == [f"StockReturned o1 {code}"]
    assert (await store.status("o1"), await store.counted("lamp")) == ("restocked", (10, 0, 0))


async def test_a_checkout_goes_back_the_whole_way_also_where_nothing_was_taken(store: Store) -> None:
    await hear(store, refunded("o1"))
    assert await said(store) == ["StockReturned o1 zone-not-served"]


async def test_an_order_that_is_heard_of_after_it_went_back_takes_nothing(store: Store) -> None:
    await hear(store, refunded("o1"))
    await hear(store, placed("o1", lamp=2))
    assert (await said(store))[1:] == ["StockRefused o1 undone-before-done"]
    assert (await store.status("o1"), await store.counted("lamp")) == ("none", (10, 0, 0))


async def test_what_concerns_one_order_happens_in_order_within_a_batch(store: Store) -> None:
    await hear(store, placed("o1", rope=1), unpaid("o1"), refunded("o3"), placed("o3", lamp=1), placed("o2", lamp=1))
    assert sorted(await said(store)) == [
        "StockDeducted o1",
        "StockDeducted o2",
        "StockRefused o3 undone-before-done",
        "StockReturned o1 card-declined",
        "StockReturned o3 zone-not-served",
    ]
    assert (await store.counted("lamp"), await store.counted("rope")) == ((9, 0, 1), (1, 0, 0))


async def test_who_asks_again_is_answered_again_and_nothing_happens_twice(store: Store) -> None:
    for event in (placed("o1", lamp=2), placed("o1", lamp=2), unpaid("o1"), unpaid("o1"), refunded("o1")):
        await hear(store, event)
    assert await said(store) == [
        "StockDeducted o1",
        "StockDeducted o1",
        "StockReturned o1 card-declined",
        "StockReturned o1 card-declined",
        "StockReturned o1 zone-not-served",
    ]
    assert await store.counted("lamp") == (10, 0, 0)


async def test_a_command_for_the_same_order_meets_what_the_event_did(store: Store) -> None:
    await hear(store, placed("o1", lamp=2))
    assert await store.execute(deduct("o1", lamp=2)) == [done(lamp=2)]
    assert await store.counted("lamp") == (8, 0, 2)
    assert await store.execute(restock("o1")) == [done(lamp=2)]
    await hear(store, unpaid("o1"))
    assert await store.counted("lamp") == (10, 0, 0)


async def test_what_others_hold_is_not_taken(store: Store) -> None:
    await store.execute(hold("t1", rope=1))
    await hear(store, placed("o1", rope=1))
    assert await said(store) == ["StockRefused o1 out-of-stock"]


async def test_effect_and_announcement_are_one_transaction(store: Store) -> None:
    await store.rows("ALTER TABLE outbox ADD CONSTRAINT mute CHECK (topic <> 'checkouts')")
    with pytest.raises(IntegrityError, match="mute"):
        await hear(store, placed("o1", lamp=2))
    assert (await store.status("o1"), await store.counted("lamp")) == ("none", (10, 0, 0))


async def publish(redis_url: str, *deliveries: Delivery) -> None:
    broker = RedisStreamsBroker.open(redis_url)
    at = datetime(2026, 1, 31, tzinfo=UTC)
    events = [
        OutgoingEvent(one.id, one.topic, one.type, "/test", one.subject, at, one.traceparent, one.data)
        for one in deliveries
    ]
    mark = Mark("e", Position(0, 0))
    await broker.begin("/test", mark)
    await broker.publish("/test", mark, Position(1, 1), events)
    await broker.close()


async def test_the_process_listens_to_orders_and_to_checkouts(store: Store, clean_redis: str) -> None:
    async with serve_inventory(store.url, redis_url=clean_redis):
        await publish(clean_redis, placed("o1", lamp=2), placed("o2", lamp=1), placed("o3", "tcc", lamp=1))
        await until(lambda: store.rows("SELECT FROM deductions OFFSET 1"))
        await publish(clean_redis, unpaid("o1"))
        await until(lambda: store.rows("SELECT FROM deductions WHERE status = 'restocked'"))
    assert (await store.counted("lamp"), await store.status("o3")) == ((9, 0, 1), "none")
    groups = await store.rows("SELECT DISTINCT consumer_group FROM inbox")
    assert [row[0] for row in groups] == ["inventory-checkouts"]
