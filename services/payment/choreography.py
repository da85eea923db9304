"""Payment's part of the choreographed checkout."""

from libs.choreography.rules import Part, Rule

PART = Part(
    "payment",
    (
        Rule(on="StockDeducted", effect="charge", then="PaymentCharged", refused="PaymentRefused"),
        Rule(on="ShipmentRefused", effect="refund", then="PaymentRefunded"),
        Rule(on="ShipmentCancelled", effect="refund", then="PaymentRefunded"),
    ),
)
