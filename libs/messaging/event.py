"""What travels: a CloudEvent (CloudEvents 1.0) in binary mode, its attributes beside its protobuf data."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """`subject` is the key within which order is kept; `type` is the full name of the protobuf message in `data`."""

    id: str
    topic: str
    type: str
    source: str
    subject: str
    time: datetime
    traceparent: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event as a consumer gets it; `stream` and `entry` are the broker's name for this copy."""

    id: str
    topic: str
    type: str
    source: str
    subject: str
    time: str
    traceparent: str
    data: bytes
    stream: str
    entry: str
