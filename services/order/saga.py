"""The order's sagas as data: the checkout that fulfils it, in each style, and the cancellation that takes it back.

All name the same effects; a participant's barrier knows a command by the order and the effect it is about, so the
refund of a failed checkout and the refund of a cancelled order can happen only once between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.kernel.money import Money
from libs.saga.definition import Command, Kind, MakeCommand, Retry, Saga, Step
from libs.tcc.transaction import Branch, try_confirm_cancel
from libs.twophase.transaction import Resource, two_phase
from services.order.domain import ORCHESTRATED, TCC, TWO_PHASE, Address, Line, Order

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


def _hold_stock(checkout: Checkout, _: Results) -> Command:
    return Command("inventory", "hold-stock", DeductStock(checkout.order_id, checkout.lines))


def _authorise(checkout: Checkout, _: Results) -> Command:
    charge = ChargeCard(checkout.order_id, checkout.customer_id, checkout.amount, checkout.card_token)
    return Command("payment", "authorise", charge)


def _hold_place(checkout: Checkout, _: Results) -> Command:
    return Command("shipping", "hold-place", BookShipment(checkout.order_id, checkout.ship_to))


def _prepare_stock(checkout: Checkout, _: Results) -> Command:
    return Command("inventory", "prepare-stock", DeductStock(checkout.order_id, checkout.lines))


def _prepare_payment(checkout: Checkout, _: Results) -> Command:
    charge = ChargeCard(checkout.order_id, checkout.customer_id, checkout.amount, checkout.card_token)
    return Command("payment", "prepare-payment", charge)


def _prepare_shipment(checkout: Checkout, _: Results) -> Command:
    return Command("shipping", "prepare-shipment", BookShipment(checkout.order_id, checkout.ship_to))


def _of_order(participant: str, command: str) -> MakeCommand:
    """A command that needs nothing but the order."""

    def make(checkout: Checkout, _: Results) -> Command:
        return Command(participant, command, OfOrder(checkout.order_id))

    return make


# Placing the order already happened, in the commit that started the checkout; its undo closes the order.
PLACE_ORDER = Step("place-order", do=_accept_order, undo=_reject_order, retry=PATIENT)

CHECKOUT = Saga(
    "checkout",
    steps=(
        PLACE_ORDER,
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

# Everything is held at once; what the customer sees happens after the decision, or never.
CHECKOUT_TCC = try_confirm_cancel(
    "checkout-tcc",
    PLACE_ORDER,
    (
        Branch("stock", _hold_stock, _of_order("inventory", "confirm-stock"), _of_order("inventory", "release-stock")),
        Branch("payment", _authorise, _of_order("payment", "capture"), _of_order("payment", "void")),
        Branch("shipment", _hold_place, _of_order("shipping", "confirm-place"), _of_order("shipping", "release-place")),
    ),
    _confirm_order,
    patience=BOUNDED,
    outcome=PATIENT,
)

# The rows everybody wants, the carriers' days, are locked last and so for the shortest time.
CHECKOUT_TWO_PHASE = two_phase(
    "checkout-twophase",
    PLACE_ORDER,
    (
        Resource(
            "stock", _prepare_stock, _of_order("inventory", "commit-stock"), _of_order("inventory", "roll-back-stock")
        ),
        Resource(
            "payment",
            _prepare_payment,
            _of_order("payment", "commit-payment"),
            _of_order("payment", "roll-back-payment"),
        ),
        Resource(
            "shipment",
            _prepare_shipment,
            _of_order("shipping", "commit-shipment"),
            _of_order("shipping", "roll-back-shipment"),
        ),
    ),
    _confirm_order,
    vote=BOUNDED,
    outcome=PATIENT,
)

# The styles that a coordinator runs; the other two have none.
CHECKOUTS = {ORCHESTRATED: CHECKOUT, TCC: CHECKOUT_TCC, TWO_PHASE: CHECKOUT_TWO_PHASE}
SAGAS = {saga.name: saga for saga in (*CHECKOUTS.values(), CANCELLATION)}
# What each saga starts with, as its log reads it back.
INPUTS: Mapping[str, type] = {
    **{saga.name: Checkout for saga in CHECKOUTS.values()},
    CANCELLATION.name: Cancellation,
}


def checkout_id(order_id: str) -> str:
    """The checkout of an order is known by the order's own id."""
    return order_id


def cancellation_id(order_id: str, version: int) -> str:
    """An order may be asked to be cancelled again after a refusal: each request is its own saga."""
    return f"{order_id}/cancel/{version}"
