"""The order service over REST."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.kernel.errors import Invalid
from libs.runtime.http_edge import (
    DOCKYARD_AFTER,
    DOCKYARD_POSITION,
    decode_page_token,
    encode_page_token,
    fingerprint,
    idempotency_key,
    prefer_wait,
)
from libs.runtime.position import Position
from services.order.domain import LINES_MAX, QUANTITY_MAX, Address, Line
from services.order.entrypoints.desk import Desk, Wanted
from services.order.entrypoints.desk import Request as DeskRequest
from services.order.handlers import Written
from services.order.reading import OrderView, Queries, Timelines, view_of

PAGE_SIZE_MAX = 200

Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
Words = Annotated[str, Field(min_length=1, max_length=200)]


class LineIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sku: Identifier
    quantity: int = Field(ge=1, le=QUANTITY_MAX)


class AddressIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Words
    street: Words
    city: Words
    postcode: Annotated[str, Field(min_length=1, max_length=20)]
    zone: Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2 country code")]


class OrderIn(BaseModel):
    """What a customer wants, paid with which card, sent where."""

    model_config = ConfigDict(extra="forbid")
    customer_id: Identifier
    lines: list[LineIn] = Field(min_length=1, max_length=LINES_MAX)
    card_token: Identifier
    ship_to: AddressIn
    coordination: str = Field(default="orchestrated", max_length=20)


class CancelIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    reason: Words = "customer changed their mind"


class MoneyOut(BaseModel):
    minor_units: int
    currency: str


class LineOut(BaseModel):
    sku: str
    quantity: int
    unit_price: MoneyOut | None


class OrderOut(BaseModel):
    order_id: str
    customer_id: str
    status: str
    reason: str
    coordination: str
    lines: list[LineOut]
    total: MoneyOut
    ship_to: AddressIn
    placed_at: datetime
    updated_at: datetime
    version: int
    parked_reason: str


class OrderPageOut(BaseModel):
    orders: list[OrderOut]
    next_page_token: str


class HistoryEventOut(BaseModel):
    version: int
    type: str
    data: dict[str, Any]
    recorded_at: datetime


class HistoryOut(BaseModel):
    order_id: str
    events: list[HistoryEventOut]


class TimelineEntryOut(BaseModel):
    at: datetime
    service: str
    what: str
    step: str
    attempt: int
    detail: str
    kind: Literal["event", "log", "message", "effect", "unavailable"]


class KeptOut(BaseModel):
    what: str
    service: str
    since: datetime
    until: datetime | None


class TimelineOut(BaseModel):
    order_id: str
    coordination: str
    state: str
    waits_for: str
    waits_since: datetime | None
    entries: list[TimelineEntryOut]
    kept: list[KeptOut]


def router(desk: Desk, queries: Queries, timelines: Timelines) -> APIRouter:
    """The routes of the order service. Bodies go out as encoded bytes: the models above describe them."""
    routes = APIRouter(prefix="/v1", tags=["orders"])

    @routes.post("/orders", status_code=202, response_model=OrderOut, responses={201: {"model": OrderOut}})
    async def place_order(
        request: Request,
        order: OrderIn,
        key: Annotated[str, Depends(idempotency_key)],
        prefer: Annotated[str, Header()] = "",
    ) -> Response:
        """Accepts an order durably and answers 202; with `Prefer: wait=N` answers 201 once the order has ended."""
        wanted = Wanted(
            order.customer_id,
            [Line(line.sku, line.quantity) for line in order.lines],
            order.card_token,
            _address(order.ship_to),
            order.coordination,
        )
        written = await desk.place(wanted, await _desk_request(request, key, prefer))
        return _accepted(written, 201 if written.order.decided else 202)

    @routes.get("/orders/{order_id}", response_model=OrderOut)
    async def get_order(
        order_id: str,
        as_of: Annotated[str, Query(description="a version (3) or an instant (2026-01-31T12:00:00Z)")] = "",
        after: Annotated[str, Header(alias=DOCKYARD_AFTER)] = "",
    ) -> Response:
        """The order now, or as it was."""
        if as_of:
            return _json(await _as_of(queries, order_id, as_of))
        view, position = await queries.get(order_id, _position(after))
        return _json(view, position=position)

    @routes.get("/orders", response_model=OrderPageOut)
    async def list_orders(
        customer: Annotated[str, Query(max_length=64)] = "",
        page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 50,
        page_token: Annotated[str, Query(max_length=200)] = "",
        after: Annotated[str, Header(alias=DOCKYARD_AFTER)] = "",
    ) -> Response:
        """Orders, newest first."""
        before = decode_page_token(page_token)
        page, position = await queries.page(customer, page_size, before, _position(after))
        body = {"orders": page.orders, "next_page_token": encode_page_token(page.next_before)}
        return _json(body, position=position)

    @routes.get("/orders/{order_id}/history", response_model=HistoryOut)
    async def order_history(order_id: str) -> Response:
        """Every event of the order, oldest first."""
        events = [
            {
                "version": event.version,
                "type": event.type,
                "data": msgspec.Raw(event.data.encode()),
                "recorded_at": event.recorded_at,
            }
            for event in await queries.events(order_id)
        ]
        return _json({"order_id": order_id, "events": events})

    @routes.get("/orders/{order_id}/timeline", response_model=TimelineOut)
    async def order_timeline(order_id: str) -> Response:
        """What every service did for the order and when, in every style, and what an unfinished one waits for."""
        return _json(await timelines.of(order_id))

    @routes.post("/orders/{order_id}/cancel", status_code=202, response_model=OrderOut)
    async def cancel_order(
        request: Request,
        order_id: str,
        key: Annotated[str, Depends(idempotency_key)],
        cancel: CancelIn | None = None,
        prefer: Annotated[str, Header()] = "",
    ) -> Response:
        """Asks for the order to be taken back: accepted unless the parcel has left."""
        reason = (cancel or CancelIn()).reason
        written = await desk.cancel(order_id, reason, await _desk_request(request, key, prefer))
        return _accepted(written, 200 if written.order.status.value == "cancelled" else 202)

    return routes


async def _desk_request(request: Request, key: str, prefer: str) -> DeskRequest:
    return DeskRequest(key, fingerprint(request.method, request.url.path, await request.body()), prefer_wait(prefer))


async def _as_of(queries: Queries, order_id: str, as_of: str) -> OrderView:
    if as_of.isdecimal():
        return await queries.as_of(order_id, version=int(as_of))
    try:
        time = datetime.fromisoformat(as_of)
    except ValueError as error:
        raise Invalid(f"as_of is a version or an ISO 8601 instant, not {as_of!r}") from error
    if time.tzinfo is None:
        raise Invalid("as_of needs a time zone: append Z for UTC")
    return await queries.as_of(order_id, time=time)


def _accepted(written: Written, status_code: int) -> Response:
    return _json(
        view_of(written.order),
        status_code=status_code,
        position=written.position,
        location=f"/v1/orders/{written.order.order_id}",
    )


def _json(body: Any, *, status_code: int = 200, position: Position | None = None, location: str = "") -> Response:
    response = Response(msgspec.json.encode(body), status_code=status_code, media_type="application/json")
    if position is not None:
        response.headers[DOCKYARD_POSITION] = str(position)
    if location:
        response.headers["Location"] = location
    return response


def _position(after: str) -> Position | None:
    return Position.parse(after) if after else None


def _address(address: AddressIn) -> Address:
    return Address(address.name, address.street, address.city, address.postcode, address.zone)
