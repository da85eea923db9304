"""The order service over gRPC: the same operations as REST."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from libs.kernel.errors import Invalid
from libs.kernel.money import Money
from libs.runtime.http_edge import decode_page_token, encode_page_token
from libs.runtime.position import Position
from proto.kernel.v1 import kernel_pb2
from proto.order.v1 import order_pb2, order_pb2_grpc
from services.order.domain import LINES_MAX, Address, Line
from services.order.entrypoints.desk import Desk, Request, Wanted
from services.order.handlers import Written
from services.order.reading import OrderView, Queries, Timeline, Timelines, view_of

KEY_LETTERS_MAX = 255
WAIT_SECONDS_MAX = 60
PAGE_SIZE_MAX = 200
PAGE_SIZE = 50
TEXT_LETTERS_MAX = 200

STATUSES = {
    "pending": order_pb2.ORDER_STATUS_PENDING,
    "confirmed": order_pb2.ORDER_STATUS_CONFIRMED,
    "shipped": order_pb2.ORDER_STATUS_SHIPPED,
    "rejected": order_pb2.ORDER_STATUS_REJECTED,
    "cancelled": order_pb2.ORDER_STATUS_CANCELLED,
}

Context = grpc.aio.ServicerContext[Any, Any]


class OrderServicer(order_pb2_grpc.OrderServiceServicer):
    """Translates messages to and from the desk and the queries."""

    def __init__(self, desk: Desk, queries: Queries, timelines: Timelines) -> None:
        self._desk = desk
        self._queries = queries
        self._timelines = timelines

    async def PlaceOrder(self, request: order_pb2.PlaceOrderRequest, context: Context) -> order_pb2.PlaceOrderResponse:
        wanted = Wanted(
            customer_id=_text("customer_id", request.customer_id, 64),
            lines=_lines(request),
            card_token=_text("card_token", request.card_token, 64),
            ship_to=_address(request.ship_to),
            coordination=request.coordination or "orchestrated",
        )
        written = await self._desk.place(wanted, _request(request, request.idempotency_key, request.wait_seconds))
        return order_pb2.PlaceOrderResponse(order=_written(written), position=str(written.position or ""))

    async def GetOrder(self, request: order_pb2.GetOrderRequest, context: Context) -> order_pb2.GetOrderResponse:
        match request.WhichOneof("as_of"):
            case "version":
                view = await self._queries.as_of(request.order_id, version=request.version)
                return order_pb2.GetOrderResponse(order=_order(view))
            case "time":
                view = await self._queries.as_of(request.order_id, time=request.time.ToDatetime(tzinfo=UTC))
                return order_pb2.GetOrderResponse(order=_order(view))
            case _:
                view, position = await self._queries.get(request.order_id, _after(request.after))
                return order_pb2.GetOrderResponse(order=_order(view), position=str(position))

    async def ListOrders(self, request: order_pb2.ListOrdersRequest, context: Context) -> order_pb2.ListOrdersResponse:
        limit = request.page_size or PAGE_SIZE
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise Invalid(f"page_size is 1 to {PAGE_SIZE_MAX}, not {limit}")
        before = decode_page_token(request.page_token)
        page, position = await self._queries.page(request.customer_id, limit, before, _after(request.after))
        return order_pb2.ListOrdersResponse(
            orders=[_order(view) for view in page.orders],
            next_page_token=encode_page_token(page.next_before),
            position=str(position),
        )

    async def GetOrderHistory(
        self, request: order_pb2.GetOrderHistoryRequest, context: Context
    ) -> order_pb2.GetOrderHistoryResponse:
        events = [
            order_pb2.HistoryEvent(
                version=event.version,
                type=event.type,
                data_json=event.data,
                recorded_at=_timestamp(event.recorded_at),
            )
            for event in await self._queries.events(request.order_id)
        ]
        return order_pb2.GetOrderHistoryResponse(events=events)

    async def GetOrderTimeline(
        self, request: order_pb2.GetOrderTimelineRequest, context: Context
    ) -> order_pb2.GetOrderTimelineResponse:
        return _timeline(await self._timelines.of(request.order_id))

    async def CancelOrder(
        self, request: order_pb2.CancelOrderRequest, context: Context
    ) -> order_pb2.CancelOrderResponse:
        reason = _text("reason", request.reason or "customer changed their mind", TEXT_LETTERS_MAX)
        desk_request = _request(request, request.idempotency_key, request.wait_seconds)
        written = await self._desk.cancel(request.order_id, reason, desk_request)
        return order_pb2.CancelOrderResponse(order=_written(written), position=str(written.position or ""))


def _request(
    message: order_pb2.PlaceOrderRequest | order_pb2.CancelOrderRequest, key: str, wait_seconds: int
) -> Request:
    """The digest covers what is asked, not how long its caller is willing to wait."""
    asked = type(message)()
    asked.CopyFrom(message)  # type: ignore[arg-type]  # both are the one class of the union
    asked.wait_seconds = 0
    digest = hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()
    wait = min(max(wait_seconds, 0), WAIT_SECONDS_MAX)
    return Request(_text("idempotency_key", key, KEY_LETTERS_MAX), digest, wait)


def _lines(request: order_pb2.PlaceOrderRequest) -> list[Line]:
    if len(request.lines) > LINES_MAX:
        raise Invalid(f"an order has at most {LINES_MAX} lines, not {len(request.lines)}")
    return [Line(_text("sku", line.sku, 64), line.quantity) for line in request.lines]


def _address(message: kernel_pb2.Address) -> Address:
    if len(message.zone) != 2 or not message.zone.isupper():
        raise Invalid(f"ship_to.zone is an ISO 3166-1 alpha-2 country code, not {message.zone!r}")
    return Address(
        name=_text("ship_to.name", message.name, TEXT_LETTERS_MAX),
        street=_text("ship_to.street", message.street, TEXT_LETTERS_MAX),
        city=_text("ship_to.city", message.city, TEXT_LETTERS_MAX),
        postcode=_text("ship_to.postcode", message.postcode, 20),
        zone=message.zone,
    )


def _text(name: str, value: str, letters_max: int) -> str:
    if not 1 <= len(value) <= letters_max:
        raise Invalid(f"{name} has 1 to {letters_max} characters, not {len(value)}")
    return value


def _address_message(address: Address) -> kernel_pb2.Address:
    return kernel_pb2.Address(
        name=address.name,
        street=address.street,
        city=address.city,
        postcode=address.postcode,
        zone=address.zone,
    )


def _timestamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def _timeline(timeline: Timeline) -> order_pb2.GetOrderTimelineResponse:
    return order_pb2.GetOrderTimelineResponse(
        state=timeline.state,
        waits_for=timeline.waits_for,
        entries=[
            order_pb2.TimelineEntry(
                at=_timestamp(entry.at),
                service=entry.service,
                what=entry.what,
                step=entry.step,
                attempt=entry.attempt,
                detail=entry.detail,
                kind=entry.kind,
            )
            for entry in timeline.entries
        ],
        coordination=timeline.coordination,
        kept=[
            order_pb2.Kept(
                what=one.what,
                service=one.service,
                since=_timestamp(one.since),
                until=_timestamp(one.until) if one.until else None,
            )
            for one in timeline.kept
        ],
        waits_since=_timestamp(timeline.waits_since) if timeline.waits_since else None,
    )


def _after(after: str) -> Position | None:
    return Position.parse(after) if after else None


def _money(money: Money) -> kernel_pb2.Money:
    return kernel_pb2.Money(minor_units=money.minor_units, currency=money.currency)


def _written(written: Written) -> order_pb2.Order:
    return _order(view_of(written.order))


def _order(view: OrderView) -> order_pb2.Order:
    return order_pb2.Order(
        order_id=view.order_id,
        customer_id=view.customer_id,
        status=STATUSES[view.status],
        reason=view.reason,
        coordination=view.coordination,
        lines=[
            order_pb2.PricedLine(
                sku=line.sku,
                quantity=line.quantity,
                unit_price=_money(line.unit_price) if line.unit_price else None,
            )
            for line in view.lines
        ],
        total=_money(view.total),
        ship_to=_address_message(view.ship_to),
        placed_at=_timestamp(view.placed_at),
        updated_at=_timestamp(view.updated_at),
        version=view.version,
        parked_reason=view.parked_reason,
    )
