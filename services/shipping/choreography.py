"""Shipping's part of the choreographed checkout."""

from libs.choreography.rules import Part, Rule

PART = Part(
    "shipping",
    (
        Rule(on="PaymentCharged", effect="book-shipment", then="ShipmentBooked", refused="ShipmentRefused"),
        Rule(on="CheckoutWithdrawn", effect="cancel-booking", then="ShipmentCancelled"),
    ),
)
