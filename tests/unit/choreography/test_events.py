"""Which events call for something."""

import pytest
from google.protobuf.message import DecodeError, Message

from libs.choreography.events import concerns, reactions
from libs.messaging.event import Delivery
from proto.events.v1 import events_pb2
from services.inventory.choreography import PART


def delivered(event: Message, data: bytes | None = None) -> Delivery:
    return Delivery(
        id="evt_1",
        topic="orders",
        type=event.DESCRIPTOR.full_name,
        source="/services/order",
        subject="ord_1",
        time="2026-01-31T12:00:00Z",
        traceparent="",
        data=event.SerializeToString() if data is None else data,
        stream="dockyard:orders:0",
        entry="1-0",
    )


@pytest.mark.parametrize(
    ("event", "concerned"),
    [
        (events_pb2.OrderPlaced(order_id="ord_1", coordination="choreographed"), True),
        (events_pb2.OrderPlaced(order_id="ord_1", coordination="orchestrated"), False),
        (events_pb2.PaymentRefunded(order_id="ord_1"), True),
        (events_pb2.ShipmentBooked(), False),
        (events_pb2.OrderConfirmed(order_id="ord_1"), False),
    ],
)
def test_a_service_is_concerned_with_what_its_table_names_and_with_orders_that_nobody_coordinates(
    event: Message, concerned: bool
) -> None:
    assert concerns(PART, delivered(event)) is concerned
    assert len(reactions(PART, [delivered(event)])) == concerned


def test_what_cannot_be_read_is_not_passed_over() -> None:
    broken = delivered(events_pb2.OrderPlaced(), data=b"\xff")
    assert concerns(PART, broken)
    with pytest.raises(DecodeError):
        reactions(PART, [broken])
