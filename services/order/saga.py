"""The order's two sagas as data: the checkout that fulfils it and the cancellation that takes it back.

Both name the same participant commands; a participant's barrier knows a command by the order and the effect it is
about, so the refund of a failed checkout and the refund of a cancelled order can happen only once between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.kernel.money import Money
from libs.saga.definition import Command, Kind, Retry, Saga, Step
from services.order.domain import Address, Line, Order

Results = Mapping[str, Any]

# A participant may be restarting: together these tries span more than a minute before anyone gives up.
PATIENT = Retry(attempts_max=60, first_delay_seconds=0.1, delay_seconds_max=2.0)
# Before the pivot giving up is cheap, the customer is waiting: about 20 seconds.
BOUNDED = Retry(attempts_max=14, first_delay_seconds=0.1, delay_seconds_max=2.0)


@dataclass(frozen=True, slots=True)
class Checkout:
    """All a checkout needs to know about its order."""

    order_id: str
    customer_id: str
    lines: tuple[Line, ...]
    amount: Money
    card_token: str
    ship_to: Address


@dataclass(frozen=True, slots=True)
class Cancellation:
    order_id: str


@dataclass(frozen=True, slots=True)
class DeductStock:
    order_id: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class ChargeCard:
    order_id: str
    account_id: str
    amount: Money
    card_token: str


@dataclass(frozen=True, slots=True)
class BookShipment:
    order_id: str
    address: Address


@dataclass(frozen=True, slots=True)
class OfOrder:
    """A command that needs nothing but the order: restock, refund, cancel-booking, confirm-order, …"""

    order_id: str


def checkout_of(order: Order) -> Checkout:
    """What the checkout of this order starts with."""
    return Checkout(
        order_id=order.order_id,
        customer_id=order.customer_id,
        lines=tuple(Line(line.sku, line.quantity) for line in order.lines),
        amount=order.total,
        card_token=order.card_token,
        ship_to=order.ship_to,
    )


def _deduct_stock(checkout: Checkout, _: Results) -> Command:
    return Command("inventory", "deduct-stock", DeductStock(checkout.order_id, checkout.lines))


def _charge(checkout: Checkout, _: Results) -> Command:
    charge = ChargeCard(checkout.order_id, checkout.customer_id, checkout.amount, checkout.card_token)
    return Command("payment", "charge", charge)


def _book_shipment(checkout: Checkout, _: Results) -> Command:
    return Command("shipping", "book-shipment", BookShipment(checkout.order_id, checkout.ship_to))


def _restock(saga: Checkout | Cancellation, _: Results) -> Command:
    return Command("inventory", "restock", OfOrder(saga.order_id))


def _refund(saga: Checkout | Cancellation, _: Results) -> Command:
    return Command("payment", "refund", OfOrder(saga.order_id))


def _cancel_booking(saga: Checkout | Cancellation, _: Results) -> Command:
    return Command("shipping", "cancel-booking", OfOrder(saga.order_id))


def _accept_order(saga: Checkout | Cancellation, _: Results) -> Command:
    return Command("order", "accept-order", OfOrder(saga.order_id))


def _reject_order(checkout: Checkout, _: Results) -> Command:
    return Command("order", "reject-order", OfOrder(checkout.order_id))


def _confirm_order(checkout: Checkout, _: Results) -> Command:
    return Command("order", "confirm-order", OfOrder(checkout.order_id))


def _refuse_cancel(cancellation: Cancellation, _: Results) -> Command:
    return Command("order", "refuse-cancel", OfOrder(cancellation.order_id))


def _mark_cancelled(cancellation: Cancellation, _: Results) -> Command:
    return Command("order", "mark-cancelled", OfOrder(cancellation.order_id))


CHECKOUT = Saga(
    "checkout",
    steps=(
        # Placing the order already happened, in the commit that started this saga; its undo closes the order.
        Step("place-order", do=_accept_order, undo=_reject_order, retry=PATIENT),
        Step("deduct-stock", do=_deduct_stock, undo=_restock, retry=BOUNDED),
        Step("charge", do=_charge, undo=_refund, retry=BOUNDED),
        Step("book-shipment", do=_book_shipment, undo=_cancel_booking, retry=BOUNDED),
        # Refused only when the customer asked to cancel first; once it is done nothing is ever undone.
        Step("confirm-order", do=_confirm_order, kind=Kind.PIVOT, retry=PATIENT),
    ),
)

CANCELLATION = Saga(
    "cancellation",
    steps=(
        Step("request-cancel", do=_accept_order, undo=_refuse_cancel, retry=PATIENT),
        # Refused when the parcel has left: then the order stays and its customer is told.
        Step("cancel-booking", do=_cancel_booking, kind=Kind.PIVOT, retry=PATIENT),
        Step("refund", do=_refund, kind=Kind.RETRIABLE, retry=PATIENT),
        Step("restock", do=_restock, kind=Kind.RETRIABLE, retry=PATIENT),
        Step("mark-cancelled", do=_mark_cancelled, kind=Kind.RETRIABLE, retry=PATIENT),
    ),
)

SAGAS = {saga.name: saga for saga in (CHECKOUT, CANCELLATION)}


def checkout_id(order_id: str) -> str:
    """The checkout of an order is known by the order's own id."""
    return order_id


def cancellation_id(order_id: str, version: int) -> str:
    """An order may be asked to be cancelled again after a refusal: each request is its own saga."""
    return f"{order_id}/cancel/{version}"
