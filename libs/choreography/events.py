"""The events of the choreographed checkout: which message each name is, and what is said after a rule's effect."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from libs.choreography.rules import Part, Rule
from libs.kernel.errors import DockyardError, Refused
from libs.messaging.event import Delivery, OutgoingEvent
from proto.events.v1 import events_pb2

CHECKOUTS_TOPIC = "checkouts"
CHOREOGRAPHED = "choreographed"
PACKAGE = f"{events_pb2.DESCRIPTOR.package}."
MESSAGES: Mapping[str, type[Message]] = {
    name: getattr(events_pb2, name) for name in events_pb2.DESCRIPTOR.message_types_by_name
}


@dataclass(frozen=True, slots=True)
class Reaction:
    """A rule, and the event that calls for it."""

    rule: Rule
    event: Any
    order_id: str
    traceparent: str


def concerns(part: Part, delivery: Delivery) -> bool:
    """Whether this event calls for something; an order of another style calls for nothing.

    What cannot be read concerns everybody: whoever applies it will say what is wrong.
    """
    name = delivery.type.removeprefix(PACKAGE)
    if name != events_pb2.OrderPlaced.DESCRIPTOR.name or name not in part.events:
        return name in part.events
    try:
        return events_pb2.OrderPlaced.FromString(delivery.data).coordination == CHOREOGRAPHED
    except DecodeError:
        return True


def reactions(part: Part, deliveries: Sequence[Delivery]) -> list[Reaction]:
    """What these events call for. Raises DecodeError for no event."""
    found = []
    for delivery in deliveries:
        if concerns(part, delivery):
            name = delivery.type.removeprefix(PACKAGE)
            event = MESSAGES[name].FromString(delivery.data)
            found.append(Reaction(part.on(name), event, delivery.subject, delivery.traceparent))
    return found


def said(reaction: Reaction, outcome: object, at: datetime, **fields: Any) -> Message | None:
    """What the rule says after this outcome; None when it says nothing more.

    Raises the outcome if it is an error that is no answer: then the event is to be applied again.
    """
    if isinstance(outcome, Refused):
        return message(reaction.rule.refused, reaction.event, at, code=outcome.code, message=outcome.message)
    if isinstance(outcome, DockyardError):
        raise outcome
    return message(reaction.rule.then, reaction.event, at, **fields)


def message(name: str, cause: Any, at: datetime, **fields: Any) -> Message | None:
    """The event of this name that follows from its cause, with what the cause knows of the order and the reason."""
    if not name:
        return None
    kind = MESSAGES[name]
    known = kind.DESCRIPTOR.fields_by_name
    values: dict[str, Any] = {"at": _stamp(at)}
    if "checkout" in known:
        values["checkout"] = checkout_of(cause)
    if "order_id" in known:
        values["order_id"] = order_of(cause)
    for field in ("code", "message"):
        if field in known:
            values[field] = getattr(cause, field, "")
    return kind(**values | {field: value for field, value in fields.items() if field in known})


def checkout_of(event: Any) -> events_pb2.Checkout:
    """What the services need to know of the order, from whichever event brings it."""
    if not isinstance(event, events_pb2.OrderPlaced):
        checkout: events_pb2.Checkout = event.checkout
        return checkout
    return events_pb2.Checkout(
        order_id=event.order_id,
        customer_id=event.customer_id,
        lines=event.lines,
        total=event.total,
        card_token=event.card_token,
        ship_to=event.ship_to,
    )


def order_of(event: Any) -> str:
    """The order an event is about."""
    return str(event.checkout.order_id if "checkout" in event.DESCRIPTOR.fields_by_name else event.order_id)


def outgoing(
    event: Message, source: str, at: datetime, traceparent: str, new_id: Callable[[str], str]
) -> OutgoingEvent:
    """The event as the outbox takes it."""
    return OutgoingEvent(
        id=new_id("evt"),
        topic=CHECKOUTS_TOPIC,
        type=event.DESCRIPTOR.full_name,
        source=source,
        subject=order_of(event),
        time=at,
        traceparent=traceparent,
        data=event.SerializeToString(),
    )


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
