"""Transactions of the shipping service on PostgreSQL: carriers, capacity, shipments, outbox, barrier."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import NotFound
from libs.messaging.event import Delivery, OutgoingEvent
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Ids
from libs.runtime.database import Database
from libs.runtime.sql import dates, instants, integers, texts
from libs.tcc.postgres_barrier import PostgresBarrier
from proto.events.v1 import events_pb2
from services.shipping.domain import Day, Place, Service
from services.shipping.ports import Shipment

SHIPMENTS_TOPIC = "shipments"
ORDERS_TOPIC = "orders"
ORDER_CONFIRMED = events_pb2.OrderConfirmed.DESCRIPTOR.full_name
SOURCE = "/services/shipping"

SERVICES = text("SELECT carrier_id, zone, parcels_per_day FROM carrier_zones WHERE zone = ANY(:zones)").bindparams(
    *texts("zones")
)

# Every day exists before it is counted on, so that there is a row to hold.
OPEN_DAYS = text(
    """
    INSERT INTO capacity_days (carrier_id, zone, ship_date, booked)
    SELECT carrier_id, zone, ship_date, 0 FROM unnest(:carrier_ids, :zones) AS service (carrier_id, zone),
           unnest(:days) AS ship_date
     ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
    """
).bindparams(*texts("carrier_ids", "zones"), *dates("days"))

# Holds the days of the batch until its end; in key order, so two batches never wait in a circle.
LOCK_DAYS = text(
    """
    SELECT carrier_id, zone, ship_date, booked
      FROM capacity_days JOIN unnest(:carrier_ids, :zones) AS service (carrier_id, zone) USING (carrier_id, zone)
     WHERE ship_date = ANY(:days)
     ORDER BY carrier_id, zone, ship_date FOR UPDATE OF capacity_days
    """
).bindparams(*texts("carrier_ids", "zones"), *dates("days"))

COUNT = text(
    """
    UPDATE capacity_days AS day SET booked = day.booked + added.parcels
      FROM unnest(:carrier_ids, :zones, :days, :parcels) AS added (carrier_id, zone, ship_date, parcels)
     WHERE (day.carrier_id, day.zone, day.ship_date) = (added.carrier_id, added.zone, added.ship_date)
    """
).bindparams(*texts("carrier_ids", "zones"), *dates("days"), *integers("parcels"))

ADD_SHIPMENTS = text(
    """
    INSERT INTO shipments (shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address, status, label,
                           booked_at)
    SELECT shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address::jsonb, 'booked', label, booked_at
      FROM unnest(:shipment_ids, :transaction_ids, :carrier_ids, :zones, :days, :parcels, :addresses, :labels,
                  :booked_at)
           AS new (shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address, label, booked_at)
    """
).bindparams(
    *texts("shipment_ids", "transaction_ids", "carrier_ids", "zones", "addresses", "labels"),
    *dates("days"),
    *integers("parcels"),
    *instants("booked_at"),
)

_COLUMNS = """
    shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address::text, status, label, booked_at
"""

# Cancels what has not left; one that has, or that never was, answers nothing.
CANCEL = text(
    f"""
    UPDATE shipments SET status = 'cancelled'
     WHERE transaction_id = ANY(:transaction_ids) AND status IN ('booked', 'released')
    RETURNING {_COLUMNS}
    """  # noqa: S608  (the columns are a constant)
).bindparams(*texts("transaction_ids"))

# Lets the parcels of confirmed orders leave; cancelled and dispatched ones stay as they are.
RELEASE = text(
    "UPDATE shipments SET status = 'released' WHERE transaction_id = ANY(:transaction_ids) AND status = 'booked'"
).bindparams(*texts("transaction_ids"))

LOCK_SHIPMENT = text(f"SELECT {_COLUMNS} FROM shipments WHERE shipment_id = :shipment_id FOR UPDATE")  # noqa: S608
ONE = text(f"SELECT {_COLUMNS} FROM shipments WHERE shipment_id = :shipment_id")  # noqa: S608
DISPATCH = text("UPDATE shipments SET status = 'dispatched' WHERE shipment_id = :shipment_id")
ADD_CARRIER = text(
    "INSERT INTO carriers (carrier_id, name) VALUES (:carrier_id, :name)"
    " ON CONFLICT (carrier_id) DO UPDATE SET name = excluded.name"
)
ADD_ZONES = text(
    """
    INSERT INTO carrier_zones (carrier_id, zone, parcels_per_day)
    SELECT :carrier_id, zone, parcels_per_day FROM unnest(:zones, :parcels) AS new (zone, parcels_per_day)
    ON CONFLICT (carrier_id, zone) DO UPDATE SET parcels_per_day = excluded.parcels_per_day
    """
).bindparams(*texts("zones"), *integers("parcels"))
CARRIERS = text(
    """
    SELECT carrier_id, name, coalesce(array_agg(zone ORDER BY zone) FILTER (WHERE zone IS NOT NULL), '{}'),
           coalesce(array_agg(parcels_per_day ORDER BY zone) FILTER (WHERE zone IS NOT NULL), '{}')
      FROM carriers LEFT JOIN carrier_zones USING (carrier_id)
     WHERE carrier_id > :after GROUP BY carrier_id, name ORDER BY carrier_id LIMIT :limit
    """
)


class PostgresShipping:
    def __init__(self, connection: AsyncConnection, ids: Ids) -> None:
        self._connection = connection
        self._ids = ids

    async def services(self, zones: Collection[str]) -> Sequence[Service]:
        rows = await self._connection.execute(SERVICES, {"zones": sorted(zones)})
        return [Service(*row) for row in rows]

    async def lock_days(self, services: Sequence[Service], days: Sequence[date]) -> Mapping[Day, int]:
        if not services:
            return {}
        values = {
            "carrier_ids": [service.carrier_id for service in services],
            "zones": [service.zone for service in services],
            "days": list(days),
        }
        rows = (await self._connection.execute(LOCK_DAYS, values)).all()
        if len(rows) < len(services) * len(days):
            await self._connection.execute(OPEN_DAYS, values)
            rows = (await self._connection.execute(LOCK_DAYS, values)).all()
        return {(carrier_id, zone, ship_date): booked for carrier_id, zone, ship_date, booked in rows}

    async def count(self, parcels: Mapping[Day, int]) -> None:
        if parcels:
            await self._connection.execute(
                COUNT,
                {
                    "carrier_ids": [day[0] for day in parcels],
                    "zones": [day[1] for day in parcels],
                    "days": [day[2] for day in parcels],
                    "parcels": list(parcels.values()),
                },
            )

    async def add_shipments(self, shipments: Sequence[Shipment]) -> None:
        if shipments:
            await self._connection.execute(
                ADD_SHIPMENTS,
                {
                    "shipment_ids": [shipment.shipment_id for shipment in shipments],
                    "transaction_ids": [shipment.transaction_id for shipment in shipments],
                    "carrier_ids": [shipment.place.carrier_id for shipment in shipments],
                    "zones": [shipment.place.zone for shipment in shipments],
                    "days": [shipment.place.ship_date for shipment in shipments],
                    "parcels": [shipment.place.parcels for shipment in shipments],
                    "addresses": [shipment.address for shipment in shipments],
                    "labels": [shipment.label for shipment in shipments],
                    "booked_at": [shipment.booked_at for shipment in shipments],
                },
            )

    async def cancel(self, transaction_ids: Collection[str]) -> Sequence[Shipment]:
        if not transaction_ids:
            return []
        rows = await self._connection.execute(CANCEL, {"transaction_ids": sorted(transaction_ids)})
        return [_shipment(*row) for row in rows]

    async def release(self, transaction_ids: Collection[str]) -> None:
        """Lets the parcels of confirmed orders leave."""
        await self._connection.execute(RELEASE, {"transaction_ids": sorted(transaction_ids)})

    async def lock_shipment(self, shipment_id: str) -> Shipment | None:
        row = (await self._connection.execute(LOCK_SHIPMENT, {"shipment_id": shipment_id})).one_or_none()
        return _shipment(*row) if row is not None else None

    async def dispatch(self, shipment: Shipment, at: datetime, traceparent: str) -> None:
        await self._connection.execute(DISPATCH, {"shipment_id": shipment.shipment_id})
        stamp = Timestamp()
        stamp.FromDatetime(at)
        message = events_pb2.ShipmentDispatched(
            order_id=shipment.transaction_id,
            shipment_id=shipment.shipment_id,
            carrier_id=shipment.place.carrier_id,
            label=shipment.label,
            at=stamp,
        )
        event = OutgoingEvent(
            id=self._ids.new("evt"),
            topic=SHIPMENTS_TOPIC,
            type=message.DESCRIPTOR.full_name,
            source=SOURCE,
            subject=shipment.transaction_id,
            time=at,
            traceparent=traceparent,
            data=message.SerializeToString(),
        )
        await Outbox(self._connection).add([event])

    async def create_carrier(self, carrier_id: str, name: str, services: Sequence[Service]) -> None:
        await self._connection.execute(ADD_CARRIER, {"carrier_id": carrier_id, "name": name})
        await self._connection.execute(
            ADD_ZONES,
            {
                "carrier_id": carrier_id,
                "zones": [service.zone for service in services],
                "parcels": [service.parcels_per_day for service in services],
            },
        )


class PostgresUnit:
    def __init__(self, connection: AsyncConnection, ids: Ids) -> None:
        self.shipping = PostgresShipping(connection, ids)
        self.barrier = PostgresBarrier(connection)


class PostgresUnits:
    """Opens transactions, and tells a listener that one committed."""

    def __init__(self, database: Database, ids: Ids) -> None:
        self._database = database
        self._ids = ids
        self.on_commit: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PostgresUnit]:
        async with self._database.transaction() as connection:
            yield PostgresUnit(connection, self._ids)
        self.on_commit()

    async def apply_orders(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        """A parcel may leave once its order is confirmed."""
        confirmed = [delivery.subject for delivery in deliveries if delivery.type == ORDER_CONFIRMED]
        if confirmed:
            await PostgresShipping(connection, self._ids).release(confirmed)


class ShippingQueries:
    """Reads shipments and carriers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def shipment(self, shipment_id: str) -> Shipment:
        """Raises NotFound."""
        async with self._database.read() as connection:
            row = (await connection.execute(ONE, {"shipment_id": shipment_id})).one_or_none()
        if row is None:
            raise NotFound(f"there is no shipment {shipment_id}")
        return _shipment(*row)

    async def carriers(self, after: str, limit: int) -> tuple[list[tuple[str, str, list[Service]]], str]:
        """Carriers by id with what they promise, and the key of the next page; "" at the end."""
        async with self._database.read() as connection:
            rows = (await connection.execute(CARRIERS, {"after": after, "limit": limit + 1})).all()
        found = [
            (carrier_id, name, [Service(carrier_id, *promise) for promise in zip(zones, parcels, strict=True)])
            for carrier_id, name, zones, parcels in rows
        ]
        return found[:limit], found[limit - 1][0] if len(found) > limit else ""


def _shipment(  # noqa: PLR0913, PLR0917  (one for each column)
    shipment_id: str,
    transaction_id: str,
    carrier_id: str,
    zone: str,
    ship_date: date,
    parcels: int,
    address: str,
    status: str,
    label: str,
    booked_at: datetime,
) -> Shipment:
    place = Place(carrier_id, zone, ship_date, parcels)
    return Shipment(shipment_id, transaction_id, place, address, status, label, booked_at)
