"""What the participants did for an order, as they say themselves; asked all at once, and not for long."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc

from libs.kernel.errors import DockyardError
from libs.runtime.clock import Clock
from libs.runtime.grpc_edge import call
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
from proto.shipping.v1 import shipping_pb2, shipping_pb2_grpc
from services.order.reading import Kept, Kind, ServiceTrail, TimelineEntry

# A timeline is asked for when something is wrong: it waits no longer than this for those who are in trouble.
ASK_SECONDS = 0.5

QUESTIONS: Mapping[str, tuple[Any, Any]] = {
    "inventory": (inventory_pb2_grpc.InventoryServiceStub, inventory_pb2.GetTrailRequest),
    "payment": (payment_pb2_grpc.PaymentServiceStub, payment_pb2.GetTrailRequest),
    "shipping": (shipping_pb2_grpc.ShippingServiceStub, shipping_pb2.GetTrailRequest),
}


class ParticipantTrails:
    """Asks each service over its channel; one that is down or too slow is "unavailable"."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel], clock: Clock) -> None:
        self._stubs = {name: QUESTIONS[name][0](channel) for name, channel in channels.items()}
        self._clock = clock

    async def of(self, order_id: str) -> Sequence[ServiceTrail]:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(name, order_id)) for name in self._stubs]
        return [task.result() for task in asked]

    async def _ask(self, service: str, order_id: str) -> ServiceTrail:
        request = QUESTIONS[service][1](transaction_id=order_id)
        try:
            response = await call(self._stubs[service].GetTrail, request, ASK_SECONDS)
        except DockyardError as error:
            missing = TimelineEntry(
                self._clock.now(), service, "unavailable", detail=error.message, kind=Kind.UNAVAILABLE
            )
            return ServiceTrail([missing])
        return _trail(service, response.trail)


def _trail(service: str, trail: participant_pb2.Trail) -> ServiceTrail:
    return ServiceTrail(
        [
            TimelineEntry(_at(one.at_unix_ms), service, one.what, one.step, detail=one.detail, kind=Kind.EFFECT)
            for one in trail.moments
        ],
        [
            Kept(one.what, service, _at(one.since_unix_ms), _at(one.until_unix_ms) if one.until_unix_ms else None)
            for one in trail.kept
        ],
    )


def _at(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)
