"""The order's part of the choreographed checkout: it begins it, and it hears how it ends."""

from libs.choreography.rules import Part, Rule

PART = Part(
    "order",
    (
        # Refused when the customer asked to cancel first, or when the checkout took too long.
        Rule(on="ShipmentBooked", effect="confirm-order", then="OrderConfirmed", refused="CheckoutWithdrawn"),
        Rule(on="StockRefused", effect="reject-order"),
        Rule(on="StockReturned", effect="reject-order"),
    ),
)
