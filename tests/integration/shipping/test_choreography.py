"""Shipping's part of the choreographed checkout: what it hears, what it does about it, and what it says."""

import pytest
from google.protobuf.message import Message
from sqlalchemy.exc import IntegrityError

from libs.choreography.events import CHECKOUTS_TOPIC
from libs.messaging.event import Delivery
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from services.shipping.adapters.choreography import ParcelLeft
from services.shipping.domain import shipment_id_of
from tests.integration.shipping.office import PLACES, Office, book, cancel, dispatch

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def heard(order_id: str, event: Message) -> Delivery:
    type_ = event.DESCRIPTOR.full_name
    data = event.SerializeToString()
    return Delivery(
        f"evt-{order_id}-{type_}", CHECKOUTS_TOPIC, type_, "test", order_id, "", TRACE, data, "stream", "0-1"
    )


def charged(order_id: str, zone: str = "DE") -> Delivery:
    to = kernel_pb2.Address(name="Ada", street="Quay 1", city="Hamburg", postcode="20457", zone=zone)
    checkout = events_pb2.Checkout(order_id=order_id, customer_id="ada", ship_to=to)
    return heard(order_id, events_pb2.PaymentCharged(checkout=checkout, payment_id="pay_1"))


def withdrawn(order_id: str) -> Delivery:
    event = events_pb2.CheckoutWithdrawn(order_id=order_id, code="customer-request", message="changed my mind")
    return heard(order_id, event)


async def hear(office: Office, *deliveries: Delivery) -> None:
    async with office.database.transaction() as connection:
        await office.checkouts.apply(connection, deliveries)


async def said(office: Office) -> list[str]:
    """Each event in the outbox in a few words."""
    return [f"{name} {subject} {_more(name, data)}".rstrip() for name, subject, data in await office.said()]


def _more(name: str, data: bytes) -> str:
    event = getattr(events_pb2, name).FromString(data)
    assert event.order_id and event.HasField("at")
    return str(getattr(event, "shipment_id", "") or getattr(event, "code", ""))


def booked(order_id: str) -> str:
    return f"ShipmentBooked {order_id} {shipment_id_of(order_id)}"


async def test_a_charged_order_is_booked_and_said_to_be(office: Office) -> None:
    await hear(office, charged("o1"))
    assert await said(office) == [booked("o1")]
    assert (await office.status("o1"), await office.booked()) == ("booked", 1)


async def test_what_is_said_goes_to_the_checkouts_in_the_trace_of_what_was_heard(office: Office) -> None:
    await hear(office, charged("o1"))
    ((topic, traceparent, source),) = await office.rows("SELECT topic, traceparent, source FROM outbox")
    assert (topic, traceparent, source) == ("checkouts", TRACE, "/services/shipping")


async def test_who_is_refused_hears_why_and_the_others_are_booked(office: Office) -> None:
    await hear(office, charged("o1"), charged("o2", zone="AQ"), charged("o3"))
    assert await said(office) == [booked("o1"), "ShipmentRefused o2 zone-not-served", booked("o3")]
    assert await office.booked() == 2


async def test_when_every_place_is_taken_the_next_is_refused(office: Office) -> None:
    await hear(office, *(charged(f"o{number}") for number in range(PLACES + 1)))
    assert (await said(office))[-1] == f"ShipmentRefused o{PLACES} no-capacity"
    assert await office.booked() == PLACES


async def test_an_address_that_no_parcel_can_go_to_is_refused(office: Office) -> None:
    await hear(office, charged("o1", zone="nowhere"), charged("o2"))
    assert await said(office) == ["ShipmentRefused o1 invalid", booked("o2")]
    await hear(office, withdrawn("o1"))
    assert (await said(office))[-1] == "ShipmentCancelled o1 customer-request"


async def test_a_withdrawn_checkout_gives_its_place_back_and_says_so(office: Office) -> None:
    await hear(office, charged("o1"))
    await hear(office, withdrawn("o1"))
    assert (await said(office))[1:] == ["ShipmentCancelled o1 customer-request"]
    assert (await office.status("o1"), await office.booked()) == ("cancelled", 0)


async def test_a_withdrawal_goes_back_the_whole_way_also_where_nothing_was_booked(office: Office) -> None:
    await hear(office, withdrawn("o1"))
    assert await said(office) == ["ShipmentCancelled o1 customer-request"]


async def test_a_charge_that_is_heard_after_the_withdrawal_books_nothing(office: Office) -> None:
    await hear(office, withdrawn("o1"))
    await hear(office, charged("o1"))
    assert (await said(office))[1:] == ["ShipmentRefused o1 undone-before-done"]
    assert (await office.status("o1"), await office.booked()) == ("none", 0)


async def test_what_concerns_one_order_happens_in_order_within_a_batch(office: Office) -> None:
    await hear(office, charged("o1"), charged("o2"), withdrawn("o1"), withdrawn("o3"), charged("o3"))
    assert sorted(await said(office)) == sorted(
        [
            booked("o1"),
            booked("o2"),
            "ShipmentCancelled o3 customer-request",
            "ShipmentCancelled o1 customer-request",
            "ShipmentRefused o3 undone-before-done",
        ]
    )
    assert await office.booked() == 1


async def test_who_asks_again_is_answered_again_and_nothing_happens_twice(office: Office) -> None:
    for event in (charged("o1"), charged("o1"), withdrawn("o1"), withdrawn("o1")):
        await hear(office, event)
    assert await said(office) == [booked("o1")] * 2 + ["ShipmentCancelled o1 customer-request"] * 2
    assert await office.booked() == 0


async def test_a_command_for_the_same_order_meets_what_the_event_did(office: Office) -> None:
    await hear(office, charged("o1"))
    assert await office.told(book("o1")) == ["done"]
    assert await office.booked() == 1
    assert await office.told(cancel("o1")) == ["done"]
    await hear(office, withdrawn("o1"))
    assert await office.booked() == 0


async def test_a_checkout_that_goes_back_when_its_parcel_has_left_is_loud(office: Office) -> None:
    await hear(office, charged("o1"))
    await office.confirm_orders("o1")
    await office.execute(dispatch("d1", shipment_id_of("o1")))
    before = await said(office)
    with pytest.raises(ParcelLeft):
        await hear(office, withdrawn("o1"))
    assert (await said(office), await office.status("o1")) == (before, "dispatched")


async def test_effect_and_announcement_are_one_transaction(office: Office) -> None:
    await office.rows("ALTER TABLE outbox ADD CONSTRAINT mute CHECK (topic <> 'checkouts')")
    with pytest.raises(IntegrityError, match="mute"):
        await hear(office, charged("o1"))
    assert (await office.status("o1"), await office.booked()) == ("none", 0)
