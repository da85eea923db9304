"""The order's part of the choreographed checkout: it begins it, notes what it hears of it, and hears how it ends."""

from enum import StrEnum

from libs.choreography.rules import Part, Rule
from services.order.domain import Order

PART = Part(
    "order",
    (
        # Refused when the checkout was withdrawn meanwhile: that has been said already, and goes back the whole way.
        Rule(on="ShipmentBooked", effect="confirm-order"),
        Rule(on="StockRefused", effect="reject-order"),
        Rule(on="StockReturned", effect="reject-order"),
    ),
)
# Said by the order itself: when it is placed; when its customer, its deadline or an operator takes it back.
BEGINS = ("OrderPlaced", "CheckoutWithdrawn")
# Steps of others that call for nothing here; that they were taken shows that the checkout moves.
NOTED = (
    "StockDeducted",
    "PaymentCharged",
    "PaymentRefused",
    "ShipmentRefused",
    "ShipmentCancelled",
    "PaymentRefunded",
)
HEARD = (*PART.events, *NOTED)

# What the deadline's withdrawal says.
TIMED_OUT = "checkout-timed-out"
# How long a checkout may stand still before it is withdrawn, and again before it is parked.
DEADLINE_SECONDS = 30.0


class Stage(StrEnum):
    """Where a checkout that nobody coordinates is, as far as its order has heard."""

    RUNNING = "running"
    WITHDRAWN = "withdrawn"
    PARKED = "parked"
    ENDED = "ended"


def stage_of(order: Order) -> Stage:
    """The stage that the order's own events say."""
    if order.decided:
        return Stage.ENDED
    return Stage.WITHDRAWN if order.withdrawn or order.cancel_requested else Stage.RUNNING
