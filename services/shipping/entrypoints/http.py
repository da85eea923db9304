"""The shipping service over REST."""

from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.runtime.http_edge import decode_page_token, encode_page_token, idempotency_key, json_response
from libs.tcc.telling import TrailOut
from services.shipping.domain import PARCELS_MAX, PARCELS_PER_DAY_MAX, Address, Service
from services.shipping.entrypoints.desk import TRANSACTION_LETTERS_MAX, ZONES_MAX, Desk
from services.shipping.ports import Shipment

Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
Words = Annotated[str, Field(min_length=1, max_length=200)]
Zone = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2 country code")]
# Also the transactions that are named after an Idempotency-Key, which may be any visible text.
TransactionInPath = Annotated[str, Path(max_length=TRANSACTION_LETTERS_MAX, pattern=r"^[!-~]+$")]
Key = Annotated[str, Depends(idempotency_key)]


class ZoneIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    zone: Zone
    parcels_per_day: int = Field(ge=0, le=PARCELS_PER_DAY_MAX)


class CarrierIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    carrier_id: Identifier
    name: Words
    zones: list[ZoneIn] = Field(min_length=1, max_length=ZONES_MAX)


class CarrierPageOut(BaseModel):
    carriers: list[CarrierIn]
    next_page_token: str


class AddressIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Words
    street: Words
    city: Words
    postcode: Annotated[str, Field(min_length=1, max_length=20)]
    zone: Zone


class BookingIn(BaseModel):
    """Without a transaction_id the Idempotency-Key names the transaction."""

    model_config = ConfigDict(extra="forbid")
    transaction_id: Identifier | None = None
    address: AddressIn
    parcels: int = Field(default=1, ge=1, le=PARCELS_MAX)


class ShipmentOut(BaseModel):
    shipment_id: str
    transaction_id: str
    carrier_id: str
    zone: str
    ship_date: date
    parcels: int
    status: str
    label: str
    booked_at: datetime


class CancelledOut(BaseModel):
    transaction_id: str
    shipment_id: str


def router(desk: Desk) -> APIRouter:
    """The routes of the shipping service."""
    routes = APIRouter(prefix="/v1", tags=["shipping"])

    @routes.post("/carriers", status_code=201, response_model=CarrierIn)
    async def create_carrier(body: CarrierIn, key: Key) -> Response:
        """Adds a carrier, or changes what it promises."""
        services = [Service(body.carrier_id, one.zone, one.parcels_per_day) for one in body.zones]
        await desk.create_carrier(key, body.carrier_id, body.name, services)
        return json_response(body.model_dump(), 201)

    @routes.get("/carriers", response_model=CarrierPageOut)
    async def list_carriers(
        page_size: Annotated[int, Query(ge=1, le=200)] = 50,
        page_token: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        """Carriers with the zones they serve."""
        found, following = await desk.queries.carriers(decode_page_token(page_token), page_size)
        carriers = [
            {
                "carrier_id": carrier_id,
                "name": name,
                "zones": [{"zone": one.zone, "parcels_per_day": one.parcels_per_day} for one in services],
            }
            for carrier_id, name, services in found
        ]
        return json_response({"carriers": carriers, "next_page_token": encode_page_token(following)})

    @routes.post("/shipments", status_code=201, response_model=ShipmentOut)
    async def book_shipment(body: BookingIn, key: Key) -> Response:
        """Books a place with a carrier that serves the address's zone."""
        address = Address(**body.address.model_dump())
        done = await desk.book(body.transaction_id or f"key:{key}", address, body.parcels)
        return json_response(_body(await desk.queries.shipment(done.shipment_id)), 201)

    @routes.get("/shipments/{shipment_id}", response_model=ShipmentOut)
    async def get_shipment(shipment_id: str) -> Response:
        """One shipment."""
        return json_response(_body(await desk.queries.shipment(shipment_id)))

    @routes.post("/shipments/{shipment_id}/dispatch", response_model=ShipmentOut)
    async def dispatch_shipment(shipment_id: str, key: Key) -> Response:
        """Hands a released shipment to its carrier."""
        await desk.dispatch(key, shipment_id)
        return json_response(_body(await desk.queries.shipment(shipment_id)))

    @routes.post("/bookings/{transaction_id}/cancel", response_model=CancelledOut)
    async def cancel_booking(transaction_id: TransactionInPath, key: Key) -> Response:
        """Gives a transaction's place back; one that booked nothing can book nothing afterwards."""
        done = await desk.cancel(transaction_id)
        return json_response({"transaction_id": transaction_id, "shipment_id": done.shipment_id})

    @routes.get("/transactions/{transaction_id}/trail", response_model=TrailOut)
    async def get_trail(transaction_id: TransactionInPath) -> Response:
        """What shipping did for a transaction, and how long it kept capacity from others meanwhile."""
        trail = await desk.trail(transaction_id)
        return json_response({"transaction_id": transaction_id, "moments": trail.moments, "kept": trail.kept})

    return routes


def _body(shipment: Shipment) -> dict[str, Any]:
    return {
        "shipment_id": shipment.shipment_id,
        "transaction_id": shipment.transaction_id,
        "carrier_id": shipment.place.carrier_id,
        "zone": shipment.place.zone,
        "ship_date": shipment.place.ship_date,
        "parcels": shipment.place.parcels,
        "status": shipment.status,
        "label": shipment.label,
        "booked_at": shipment.booked_at,
    }
