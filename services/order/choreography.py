"""The order's part of the choreographed checkout: it begins it, and it hears how it ends."""

from libs.choreography.rules import Part, Rule

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
