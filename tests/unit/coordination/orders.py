"""The order, by the domain's own decisions: what it answers to each command, to its customer, and to who asks."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Conflict, Refused
from libs.kernel.money import Money
from services.order import domain
from services.order.domain import Address, Order, OrderPlaced, PricedLine, Status

AT = datetime(2024, 5, 17, tzinfo=UTC)
LAMP = Money(4900, "EUR")
PLACED = domain.opened(
    OrderPlaced(
        order_id="o1",
        customer_id="ada",
        lines=(PricedLine("lamp", 1, LAMP),),
        total=LAMP,
        card_token="",
        ship_to=Address("Ada", "Quay 1", "Hamburg", "20095", "DE"),
        coordination=domain.ORCHESTRATED,
        at=AT,
    )
)


def after(order: Order, event: domain.Change | None) -> Order:
    """The order with one more event; it does not count them, or it would never be the same again."""
    return order if event is None else replace(domain.evolve(order, event), version=1)


@cache
def answer(order: Order, command: str) -> tuple[Order, bool]:
    """The order after a command, and whether the answer is yes."""
    try:
        return after(order, _decided(order, command)), True
    except Refused:
        return order, False


def _decided(order: Order, command: str) -> domain.Change | None:
    match command:
        case "accept-order":
            return None
        case "confirm-order":
            return domain.confirm(order, AT)
        case "reject-order":
            return domain.end_unconfirmed(order, "refused", "", AT)
        case "mark-cancelled":
            return domain.cancel(order, AT)
        case "refuse-cancel":
            return domain.refuse_cancel(order, "refused", AT)
        case unknown:
            raise AssertionError(f"the order knows no {unknown}")


@cache
def asked_to_cancel(order: Order) -> Order:
    """The order after its customer changed their mind; the same when it is too late, or was asked before."""
    try:
        return after(order, domain.request_cancel(order, "changed my mind", AT))
    except Conflict:
        return order


@cache
def resolved(order: Order) -> tuple[Order, Outcome]:
    """What a participant hears that asks: asking fixes it."""
    if order.status in {Status.CONFIRMED, Status.SHIPPED}:
        return order, Outcome.CONFIRM
    if order.decided:
        return order, Outcome.CANCEL
    return withdrawn(order), Outcome.CANCEL


@cache
def withdrawn(order: Order) -> Order:
    """The order after its checkout was given up; the same when it has ended."""
    try:
        return after(order, domain.withdraw(order, "too-late", "", AT))
    except Conflict:
        return order
