"""What the order service learns from the others' events: the catalogue, and which parcels left."""

from collections.abc import Sequence
from datetime import UTC

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import DockyardError, Refused
from libs.messaging.event import Delivery
from libs.runtime.sql import bigints, texts
from libs.telemetry.logs import get_logger
from proto.events.v1 import events_pb2
from services.order.adapters.units import PostgresUnits
from services.order.handlers import Ship, Written, change_orders

CATALOGUE_TOPIC = "catalogue"
SHIPMENTS_TOPIC = "shipments"

log = get_logger(__name__)

# Keeps the newest revision of each product, whatever order the events come in.
UPSERT_PRODUCTS = text(
    """
    INSERT INTO catalogue (sku, name, price_minor, currency, revision)
    SELECT * FROM unnest(:sku, :name, :price_minor, :currency, :revision)
    ON CONFLICT (sku) DO UPDATE
       SET name = excluded.name, price_minor = excluded.price_minor, currency = excluded.currency,
           revision = excluded.revision
     WHERE catalogue.revision < excluded.revision
    """
).bindparams(*texts("sku", "name", "currency"), *bigints("price_minor", "revision"))


class CatalogueCopy:
    """Applies inventory's product events to the local catalogue."""

    async def apply(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        newest: dict[str, events_pb2.ProductListed] = {}
        for delivery in deliveries:
            if delivery.type != events_pb2.ProductListed.DESCRIPTOR.full_name:
                continue
            product = events_pb2.ProductListed.FromString(delivery.data)
            if product.sku not in newest or newest[product.sku].revision < product.revision:
                newest[product.sku] = product
        products = sorted(newest.values(), key=lambda product: product.sku)
        if products:
            await connection.execute(
                UPSERT_PRODUCTS,
                {
                    "sku": [product.sku for product in products],
                    "name": [product.name for product in products],
                    "price_minor": [product.price.minor_units for product in products],
                    "currency": [product.price.currency for product in products],
                    "revision": [product.revision for product in products],
                },
            )


class ShippedOrders:
    """Notes in each order's history that its parcel left."""

    def __init__(self, units: PostgresUnits) -> None:
        self._units = units

    async def apply(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        dispatched = [
            (events_pb2.ShipmentDispatched.FromString(delivery.data), delivery.traceparent)
            for delivery in deliveries
            if delivery.type == events_pb2.ShipmentDispatched.DESCRIPTOR.full_name
        ]
        # One change for each order: an order has one live shipment, and a repeat changes nothing.
        ships = {
            event.order_id: Ship(event.order_id, event.shipment_id, event.at.ToDatetime(tzinfo=UTC), traceparent)
            for event, traceparent in dispatched
        }
        if ships:
            outcomes = await change_orders(self._units.joining(connection), list(ships.values()))
            for ship, outcome in zip(ships.values(), outcomes, strict=True):
                _check(ship, outcome)


def _check(ship: Ship, outcome: Written | DockyardError) -> None:
    """A parcel of an order that is not ours to ship is worth a warning; a lost race is worth another try."""
    if isinstance(outcome, Refused):
        log.warning("parcel left for an order that is not confirmed", extra={"order_id": ship.order_id})
    elif isinstance(outcome, DockyardError):
        raise outcome
