"""Order events as JSON in the event store and as protobuf CloudEvents on the streams."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from libs.choreography.events import CHECKOUTS_TOPIC
from libs.eventsourcing.codec import EventCodec
from libs.messaging.event import OutgoingEvent
from libs.runtime.clock import Ids
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from services.order import domain
from services.order.ports import Appended

CODEC: EventCodec[domain.Event] = EventCodec({event.__name__: event for event in domain.EVENT_TYPES})
ORDERS_TOPIC = "orders"
SOURCE = "/services/order"


def integration_events(append: Appended, ids: Ids) -> list[OutgoingEvent]:
    """What the world is told of these events; a coordinator's own affairs stay inside."""
    messages = ((event, PUBLISHED.get(type(event))) for event in append.events)
    return [
        OutgoingEvent(
            id=ids.new("evt"),
            topic=CHECKOUTS_TOPIC if isinstance(message, events_pb2.CheckoutWithdrawn) else ORDERS_TOPIC,
            type=message.DESCRIPTOR.full_name,
            source=SOURCE,
            subject=append.after.order_id,
            time=event.at,
            traceparent=append.traceparent,
            data=message.SerializeToString(),
        )
        for event, publish in messages
        if publish is not None and (message := publish(append.after, event)) is not None
    ]


def timestamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def address_message(address: domain.Address) -> kernel_pb2.Address:
    return kernel_pb2.Address(
        name=address.name,
        street=address.street,
        city=address.city,
        postcode=address.postcode,
        zone=address.zone,
    )


def _placed(order: domain.Order, event: domain.OrderPlaced) -> Message | None:
    """The card is for those who charge it unasked, and for nobody else. What was rejected at once begins nothing."""
    if event.coordination == domain.CHOREOGRAPHED and order.decided:
        return None
    return events_pb2.OrderPlaced(
        order_id=order.order_id,
        customer_id=event.customer_id,
        lines=[kernel_pb2.Line(sku=line.sku, quantity=line.quantity) for line in event.lines],
        total=kernel_pb2.Money(minor_units=event.total.minor_units, currency=event.total.currency),
        ship_to=address_message(event.ship_to),
        coordination=event.coordination,
        at=timestamp(event.at),
        card_token=event.card_token if event.coordination == domain.CHOREOGRAPHED else "",
    )


def _confirmed(order: domain.Order, event: domain.OrderConfirmed) -> Message:
    return events_pb2.OrderConfirmed(order_id=order.order_id, at=timestamp(event.at))


def _rejected(order: domain.Order, event: domain.OrderRejected) -> Message:
    return events_pb2.OrderRejected(order_id=order.order_id, reason=event.reason, at=timestamp(event.at))


def _cancelled(order: domain.Order, event: domain.OrderCancelled) -> Message:
    return events_pb2.OrderCancelled(order_id=order.order_id, reason=event.reason, at=timestamp(event.at))


def _shipped(order: domain.Order, event: domain.OrderShipped) -> Message:
    return events_pb2.OrderShipped(order_id=order.order_id, shipment_id=event.shipment_id, at=timestamp(event.at))


def _withdrawn(order: domain.Order, event: domain.CheckoutWithdrawn) -> Message | None:
    """Those who have had effects by themselves must hear it; a coordinator tells its participants."""
    return _withdrawal(order, event.code, event.message, event.at)


def _cancel_requested(order: domain.Order, event: domain.CancelRequested) -> Message | None:
    return _withdrawal(order, domain.CANCEL_REQUESTED, event.reason, event.at)


def _withdrawal(order: domain.Order, code: str, message: str, at: datetime) -> Message | None:
    if order.coordination != domain.CHOREOGRAPHED or order.decided:
        return None
    return events_pb2.CheckoutWithdrawn(order_id=order.order_id, code=code, message=message, at=timestamp(at))


PUBLISHED: Mapping[type[domain.Event], Callable[[domain.Order, Any], Message | None]] = {
    domain.OrderPlaced: _placed,
    domain.OrderConfirmed: _confirmed,
    domain.OrderRejected: _rejected,
    domain.OrderCancelled: _cancelled,
    domain.OrderShipped: _shipped,
    domain.CheckoutWithdrawn: _withdrawn,
    domain.CancelRequested: _cancel_requested,
}
