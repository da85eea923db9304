"""The shipping service over gRPC: the same operations as REST, and batches for coordinators."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from libs.kernel.errors import Invalid
from libs.runtime.batch_rpc import execute_batch
from libs.runtime.http_edge import decode_page_token, encode_page_token
from libs.tcc.barrier import Manner
from libs.tcc.telling import trail_message
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.shipping.v1 import shipping_pb2, shipping_pb2_grpc
from services.shipping.domain import Address, Service, Status
from services.shipping.entrypoints.desk import Desk
from services.shipping.handlers import BOOK_SHIPMENT, Done
from services.shipping.ports import Shipment

PAGE_SIZE_MAX = 200
PAGE_SIZE = 50
KEY_LETTERS_MAX = 255

STATUSES: Mapping[Status, shipping_pb2.ShipmentStatus.ValueType] = {
    # The contract has no word of its own for a place that is only held; of those it has, "its order is not confirmed".
    Status.HELD: shipping_pb2.SHIPMENT_STATUS_BOOKED,
    Status.BOOKED: shipping_pb2.SHIPMENT_STATUS_BOOKED,
    Status.RELEASED: shipping_pb2.SHIPMENT_STATUS_RELEASED,
    Status.DISPATCHED: shipping_pb2.SHIPMENT_STATUS_DISPATCHED,
    Status.CANCELLED: shipping_pb2.SHIPMENT_STATUS_CANCELLED,
}
MANNERS: Mapping[int, Manner] = {
    participant_pb2.MANNER_UNSPECIFIED: Manner.AT_ONCE,
    participant_pb2.MANNER_HOLD: Manner.HOLD,
    participant_pb2.MANNER_PREPARE: Manner.PREPARE,
}

Context = grpc.aio.ServicerContext[Any, Any]


class ShippingServicer(shipping_pb2_grpc.ShippingServiceServicer):
    """Translates messages to and from the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def CreateCarrier(
        self, request: shipping_pb2.CreateCarrierRequest, context: Context
    ) -> shipping_pb2.CreateCarrierResponse:
        carrier = request.carrier
        services = [Service(carrier.carrier_id, one.zone, one.parcels_per_day) for one in carrier.zones]
        await self._desk.create_carrier(_key(request.idempotency_key), carrier.carrier_id, carrier.name, services)
        return shipping_pb2.CreateCarrierResponse(carrier=carrier)

    async def ListCarriers(
        self, request: shipping_pb2.ListCarriersRequest, context: Context
    ) -> shipping_pb2.ListCarriersResponse:
        limit = request.page_size or PAGE_SIZE
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise Invalid(f"page_size is 1 to {PAGE_SIZE_MAX}, not {limit}")
        found, following = await self._desk.queries.carriers(decode_page_token(request.page_token), limit)
        carriers = [
            shipping_pb2.Carrier(
                carrier_id=carrier_id,
                name=name,
                zones=[
                    shipping_pb2.ZoneCapacity(zone=one.zone, parcels_per_day=one.parcels_per_day) for one in services
                ],
            )
            for carrier_id, name, services in found
        ]
        return shipping_pb2.ListCarriersResponse(carriers=carriers, next_page_token=encode_page_token(following))

    async def GetShipment(
        self, request: shipping_pb2.GetShipmentRequest, context: Context
    ) -> shipping_pb2.GetShipmentResponse:
        return shipping_pb2.GetShipmentResponse(
            shipment=_shipment(await self._desk.queries.shipment(request.shipment_id))
        )

    async def BookShipment(
        self, request: shipping_pb2.BookShipmentRequest, context: Context
    ) -> shipping_pb2.BookShipmentResponse:
        done = await self._desk.book(_key(request.transaction_id), _address(request.address), request.parcels or 1)
        return shipping_pb2.BookShipmentResponse(booked=_booked(done))

    async def CancelBooking(
        self, request: shipping_pb2.CancelBookingRequest, context: Context
    ) -> shipping_pb2.CancelBookingResponse:
        done = await self._desk.cancel(_key(request.transaction_id))
        return shipping_pb2.CancelBookingResponse(cancelled=shipping_pb2.BookingCancelled(shipment_id=done.shipment_id))

    async def DispatchShipment(
        self, request: shipping_pb2.DispatchShipmentRequest, context: Context
    ) -> shipping_pb2.DispatchShipmentResponse:
        await self._desk.dispatch(_key(request.idempotency_key), request.shipment_id)
        shipment = await self._desk.queries.shipment(request.shipment_id)
        return shipping_pb2.DispatchShipmentResponse(shipment=_shipment(shipment))

    async def GetTrail(self, request: shipping_pb2.GetTrailRequest, context: Context) -> shipping_pb2.GetTrailResponse:
        return shipping_pb2.GetTrailResponse(trail=trail_message(await self._desk.trail(request.transaction_id)))

    async def ExecuteBatch(
        self, request: shipping_pb2.ExecuteBatchRequest, context: Context
    ) -> shipping_pb2.ExecuteBatchResponse:
        return shipping_pb2.ExecuteBatchResponse(results=await execute_batch(request.commands, self._execute, _failed))

    async def _execute(self, command: shipping_pb2.Command) -> shipping_pb2.Result:
        key = command.context
        if key.step != BOOK_SHIPMENT:
            raise Invalid(f"the step of a booking, of its confirmation and of its undo is {BOOK_SHIPMENT}")
        manner = MANNERS[key.manner]
        match command.WhichOneof("command"), key.operation:
            case "book", participant_pb2.OPERATION_DO:
                book = command.book
                address, parcels = _address(book.address), book.parcels or 1
                done = await self._desk.book(key.transaction_id, address, parcels, manner, key.lease_ms)
                return shipping_pb2.Result(booked=_booked(done))
            case "confirm", participant_pb2.OPERATION_CONFIRM:
                done = await self._desk.confirm(key.transaction_id, manner)
                return shipping_pb2.Result(confirmed=shipping_pb2.BookingConfirmed(shipment_id=done.shipment_id))
            case "cancel", participant_pb2.OPERATION_UNDO:
                done = await self._desk.cancel(key.transaction_id, manner)
                return shipping_pb2.Result(cancelled=shipping_pb2.BookingCancelled(shipment_id=done.shipment_id))
            case _:
                raise Invalid("a command is book to do, confirm to confirm, or cancel to undo")


def _failed(error: participant_pb2.Refusal | participant_pb2.Fault) -> shipping_pb2.Result:
    if isinstance(error, participant_pb2.Refusal):
        return shipping_pb2.Result(refused=error)
    return shipping_pb2.Result(fault=error)


def _key(key: str) -> str:
    if not 1 <= len(key) <= KEY_LETTERS_MAX:
        raise Invalid(f"a key has 1 to {KEY_LETTERS_MAX} characters")
    return key


def _address(message: kernel_pb2.Address) -> Address:
    return Address(message.name, message.street, message.city, message.postcode, message.zone)


def _booked(done: Done) -> shipping_pb2.ShipmentBooked:
    return shipping_pb2.ShipmentBooked(
        shipment_id=done.shipment_id, carrier_id=done.carrier_id, ship_date=done.ship_date
    )


def _shipment(shipment: Shipment) -> shipping_pb2.Shipment:
    booked_at = Timestamp()
    booked_at.FromDatetime(shipment.booked_at)
    return shipping_pb2.Shipment(
        shipment_id=shipment.shipment_id,
        transaction_id=shipment.transaction_id,
        carrier_id=shipment.place.carrier_id,
        zone=shipment.place.zone,
        ship_date=shipment.place.ship_date.isoformat(),
        status=STATUSES[shipment.status],
        label=shipment.label,
        booked_at=booked_at,
    )
