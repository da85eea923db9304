"""Inventory's part of the choreographed checkout."""

from libs.choreography.rules import Part, Rule

PART = Part(
    "inventory",
    (
        Rule(on="OrderPlaced", effect="deduct-stock", then="StockDeducted", refused="StockRefused"),
        Rule(on="PaymentRefused", effect="restock", then="StockReturned"),
        Rule(on="PaymentRefunded", effect="restock", then="StockReturned"),
    ),
)
