"""An order's life, decided: commands in, events out, nothing else.

pending ──confirm──▶ confirmed ──ship──▶ shipped
   ├──reject──▶ rejected(reason)  │
   └──cancel──▶ cancelled ◀───────┘
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from libs.kernel.errors import Conflict, Invalid, Refused
from libs.kernel.money import Money, total

LINES_MAX = 100  # bounds one order's rows in every service
QUANTITY_MAX = 10_000  # with MINOR_UNITS_MAX it keeps a total inside 64 bits
ORCHESTRATED, CHOREOGRAPHED, TCC, TWO_PHASE, NAIVE = "orchestrated", "choreographed", "tcc", "twophase", "naive"
COORDINATIONS = (ORCHESTRATED, CHOREOGRAPHED, TCC, TWO_PHASE, NAIVE)
UNKNOWN_PRODUCT = "unknown-product"
MIXED_CURRENCIES = "mixed-currencies"
CANCEL_REQUESTED = "cancel-requested"


class Status(StrEnum):
    PENDING = "pending"
    CONFIRMED = "confirmed"
    SHIPPED = "shipped"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Line:
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class PricedLine:
    """A line at the price of the moment it was ordered; no price when the product was unknown."""

    sku: str
    quantity: int
    unit_price: Money | None


@dataclass(frozen=True, slots=True)
class Address:
    name: str
    street: str
    city: str
    postcode: str
    zone: str


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    order_id: str
    customer_id: str
    lines: tuple[Line, ...]
    card_token: str
    ship_to: Address
    coordination: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    order_id: str
    customer_id: str
    lines: tuple[PricedLine, ...]
    total: Money
    card_token: str
    ship_to: Address
    coordination: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderConfirmed:
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderRejected:
    reason: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CancelRequested:
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CheckoutWithdrawn:
    """The checkout is given up before it was confirmed: nothing can confirm the order any more."""

    code: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CancelRefused:
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderShipped:
    shipment_id: str
    at: datetime


Change = (
    OrderConfirmed | OrderRejected | CancelRequested | CheckoutWithdrawn | CancelRefused | OrderCancelled | OrderShipped
)
Event = OrderPlaced | Change

EVENT_TYPES: tuple[type[Event], ...] = (
    OrderPlaced,
    OrderConfirmed,
    OrderRejected,
    CancelRequested,
    CheckoutWithdrawn,
    CancelRefused,
    OrderCancelled,
    OrderShipped,
)

TRANSITIONS: Mapping[Status, Mapping[type[Change], Status]] = {
    Status.PENDING: {
        OrderConfirmed: Status.CONFIRMED,
        OrderRejected: Status.REJECTED,
        CancelRequested: Status.PENDING,
        CheckoutWithdrawn: Status.PENDING,
        OrderCancelled: Status.CANCELLED,
    },
    Status.CONFIRMED: {
        OrderShipped: Status.SHIPPED,
        CancelRequested: Status.CONFIRMED,
        CancelRefused: Status.CONFIRMED,
        OrderCancelled: Status.CANCELLED,
    },
    Status.SHIPPED: {CancelRefused: Status.SHIPPED},
    Status.REJECTED: {},
    Status.CANCELLED: {},
}


@dataclass(frozen=True, slots=True)
class Order:
    """What the events so far add up to. `version` counts them."""

    order_id: str
    customer_id: str
    status: Status
    reason: str
    coordination: str
    lines: tuple[PricedLine, ...]
    total: Money
    card_token: str
    ship_to: Address
    placed_at: datetime
    updated_at: datetime
    version: int
    cancel_requested: str = ""
    withdrawn: str = ""

    @property
    def decided(self) -> bool:
        """The checkout is over, one way or the other."""
        return self.status is not Status.PENDING


def opened(event: OrderPlaced) -> Order:
    """The order its first event makes."""
    return Order(
        order_id=event.order_id,
        customer_id=event.customer_id,
        status=Status.PENDING,
        reason="",
        coordination=event.coordination,
        lines=event.lines,
        total=event.total,
        card_token=event.card_token,
        ship_to=event.ship_to,
        placed_at=event.at,
        updated_at=event.at,
        version=1,
    )


def evolve(order: Order, event: Change) -> Order:
    """The order after one more event; a pair missing from the table is a bug."""
    target = TRANSITIONS[order.status].get(type(event))
    assert target is not None, f"{type(event).__name__} cannot follow {order.status} in {order.order_id}"
    changed = replace(order, status=target, updated_at=event.at, version=order.version + 1)
    match event:
        case OrderRejected(reason=reason) | OrderCancelled(reason=reason):
            return replace(changed, reason=reason)
        case CancelRequested(reason=reason):
            return replace(changed, cancel_requested=reason)
        case CheckoutWithdrawn(code=code):
            return replace(changed, withdrawn=code)
        case CancelRefused():
            return replace(changed, cancel_requested="")
        case _:
            return changed


def fold(events: Iterable[Event]) -> Order:
    """The order these events, all of one order and oldest first, add up to."""
    stream = iter(events)
    first = next(stream)
    assert isinstance(first, OrderPlaced), f"an order opens with OrderPlaced, not {type(first).__name__}"
    order = opened(first)
    for event in stream:
        assert not isinstance(event, OrderPlaced), f"{order.order_id} was placed twice"
        order = evolve(order, event)
    return order


def checked(command: PlaceOrder) -> PlaceOrder:
    """The command, if it is one a shop could ever fulfil; raises Invalid otherwise."""
    if not command.lines:
        raise Invalid("an order has at least one line")
    if len(command.lines) > LINES_MAX:
        raise Invalid(f"an order has at most {LINES_MAX} lines, not {len(command.lines)}")
    for line in command.lines:
        if not 1 <= line.quantity <= QUANTITY_MAX:
            raise Invalid(f"quantity of {line.sku} must be 1 to {QUANTITY_MAX}, not {line.quantity}")
    if len({line.sku for line in command.lines}) != len(command.lines):
        raise Invalid("each product appears in one line only; add the quantities up")
    if command.coordination not in COORDINATIONS:
        raise Invalid(f"coordination must be one of {', '.join(COORDINATIONS)}, not {command.coordination!r}")
    return command


def place(command: PlaceOrder, prices: Mapping[str, Money]) -> tuple[OrderPlaced] | tuple[OrderPlaced, OrderRejected]:
    """Accepts the order at today's prices, or accepts and rejects it in one breath when it cannot be priced."""
    lines = tuple(PricedLine(line.sku, line.quantity, prices.get(line.sku)) for line in command.lines)
    currencies = {line.unit_price.currency for line in lines if line.unit_price}
    currency = min(currencies, default="EUR")
    unknown = [line.sku for line in lines if line.unit_price is None]
    priced = not unknown and len(currencies) == 1
    placed = OrderPlaced(
        order_id=command.order_id,
        customer_id=command.customer_id,
        lines=lines,
        total=_total(lines, currency) if priced else Money(0, currency),
        card_token=command.card_token,
        ship_to=command.ship_to,
        coordination=command.coordination,
        at=command.at,
    )
    if priced:
        return (placed,)
    if unknown:
        return placed, OrderRejected(UNKNOWN_PRODUCT, f"not in the catalogue: {', '.join(unknown)}", command.at)
    return placed, OrderRejected(MIXED_CURRENCIES, f"prices in {', '.join(sorted(currencies))}", command.at)


def _total(lines: Sequence[PricedLine], currency: str) -> Money:
    return total((line.unit_price * line.quantity for line in lines if line.unit_price), currency)


def confirm(order: Order, at: datetime) -> OrderConfirmed | None:
    """Confirms a pending order; nothing when it already is. Refuses one whose checkout was given up."""
    if order.status in {Status.CONFIRMED, Status.SHIPPED}:
        return None
    if order.cancel_requested:
        raise Refused("the customer asked to cancel first", code=CANCEL_REQUESTED)
    if order.withdrawn:
        raise Refused("the checkout was given up before", code=order.withdrawn)
    if order.status is not Status.PENDING:
        raise Refused(f"the order is {order.status}", code=f"order-{order.status}")
    return OrderConfirmed(at)


def withdraw(order: Order, code: str, message: str, at: datetime) -> CheckoutWithdrawn | None:
    """Gives up the checkout of a pending order; nothing when that was done before. Raises Conflict if it has ended."""
    if order.decided:
        raise Conflict(f"the order is {order.status}", code=f"order-{order.status}")
    return None if order.withdrawn or order.cancel_requested else CheckoutWithdrawn(code, message, at)


def end_unconfirmed(order: Order, reason: str, message: str, at: datetime) -> OrderRejected | OrderCancelled | None:
    """Ends a pending order whose effects were all undone: cancelled if its customer asked for it, else rejected."""
    if order.status in {Status.REJECTED, Status.CANCELLED}:
        return None
    assert order.status is Status.PENDING, f"{order.order_id} is {order.status}: its effects must not be undone"
    if order.cancel_requested:
        return OrderCancelled(order.cancel_requested, at)
    return OrderRejected(reason, message, at)


def request_cancel(order: Order, reason: str, at: datetime) -> CancelRequested | None:
    """Asks for the order to be taken back; nothing when that was asked before or already happened."""
    if order.status is Status.CANCELLED or order.cancel_requested:
        return None
    if order.status is Status.SHIPPED:
        raise Conflict("the parcel has left", code="already-shipped")
    if order.status is Status.REJECTED:
        raise Conflict("the order was rejected, there is nothing to cancel", code="already-rejected")
    return CancelRequested(reason, at)


def cancel(order: Order, at: datetime) -> OrderCancelled | None:
    """Ends a confirmed order whose effects were all taken back."""
    if order.status is Status.CANCELLED:
        return None
    assert order.status is Status.CONFIRMED, f"{order.order_id} is {order.status}"
    return OrderCancelled(order.cancel_requested, at)


def refuse_cancel(order: Order, reason: str, at: datetime) -> CancelRefused | None:
    """The order stays: the parcel had left before the cancellation reached it."""
    return CancelRefused(reason, at) if order.cancel_requested and order.decided else None


def ship(order: Order, shipment_id: str, at: datetime) -> OrderShipped | None:
    """Notes that the parcel left; nothing when it was noted before."""
    if order.status is Status.SHIPPED:
        return None
    if order.status is not Status.CONFIRMED:
        raise Refused(f"a parcel left for an order that is {order.status}", code=f"order-{order.status}")
    return OrderShipped(shipment_id, at)
