"""Transactions of the shipping service on PostgreSQL: carriers, capacity, shipments, outbox, barrier."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.messaging.event import Delivery, OutgoingEvent
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Ids
from libs.runtime.database import Database
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.sql import dates, instants, integers, texts
from libs.tcc.postgres_barrier import PostgresBarrier
from proto.events.v1 import events_pb2
from services.shipping.adapters.rows import COLUMNS, shipment_of
from services.shipping.domain import Day, Service
from services.shipping.ports import NewShipment, Shipment

SHIPMENTS_TOPIC = "shipments"
ORDERS_TOPIC = "orders"
ORDER_CONFIRMED = events_pb2.OrderConfirmed.DESCRIPTOR.full_name
SOURCE = "/services/shipping"

COMMIT_BEFORE, COMMIT_AFTER = "shipping.commit.before", "shipping.commit.after"
declare(COMMIT_BEFORE, COMMIT_AFTER)

SERVICES = text("SELECT carrier_id, zone, parcels_per_day FROM carrier_zones WHERE zone = ANY(:zones)").bindparams(
    *texts("zones")
)

# Every day exists before it is counted on, so that there is a row to hold.
OPEN_DAYS = text(
    """
    INSERT INTO capacity_days (carrier_id, zone, ship_date, booked)
    SELECT carrier_id, zone, ship_date, 0
      FROM unnest(:carrier_ids, :zones, :days) AS day (carrier_id, zone, ship_date)
     ORDER BY zone, ship_date, carrier_id
    ON CONFLICT DO NOTHING
    """
).bindparams(*texts("carrier_ids", "zones"), *dates("days"))

# Holds these days until the transaction's end. In an order that goes day by day within a zone, for everybody: then who
# locks as many days as it needs, one after another, waits for nobody who waits for it.
LOCK_DAYS = text(
    """
    SELECT carrier_id, zone, ship_date, booked
      FROM capacity_days
           JOIN unnest(:carrier_ids, :zones, :days) AS day (carrier_id, zone, ship_date)
           USING (carrier_id, zone, ship_date)
     ORDER BY zone, ship_date, carrier_id FOR UPDATE OF capacity_days
    """
).bindparams(*texts("carrier_ids", "zones"), *dates("days"))

COUNT = text(
    """
    UPDATE capacity_days AS day SET booked = day.booked + added.parcels
      FROM unnest(:carrier_ids, :zones, :days, :parcels) AS added (carrier_id, zone, ship_date, parcels)
     WHERE (day.carrier_id, day.zone, day.ship_date) = (added.carrier_id, added.zone, added.ship_date)
    """
).bindparams(*texts("carrier_ids", "zones"), *dates("days"), *integers("parcels"))

# The lease of a place that is held begins now, by the database's clock.
ADD_SHIPMENTS = text(
    """
    INSERT INTO shipments (shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address, status, label,
                           booked_at, lease_until)
    SELECT shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address::jsonb, status, label, booked_at,
           now() + lease_ms * interval '1 millisecond'
      FROM unnest(:shipment_ids, :transaction_ids, :carrier_ids, :zones, :days, :parcels, :addresses, :statuses,
                  :labels, :booked_at, :leases_ms)
           AS new (shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address, status, label, booked_at,
                   lease_ms)
    """
).bindparams(
    *texts("shipment_ids", "transaction_ids", "carrier_ids", "zones", "addresses", "statuses", "labels"),
    *dates("days"),
    *integers("parcels", "leases_ms"),
    *instants("booked_at"),
)

# In order, so that nobody waits in a circle.
LOCK_SHIPMENTS = text(
    f"""
    SELECT {COLUMNS} FROM shipments
     WHERE transaction_id = ANY(:transaction_ids) ORDER BY transaction_id FOR UPDATE
    """  # noqa: S608  (the columns are a constant)
).bindparams(*texts("transaction_ids"))
SAVE_STATUSES = text(
    """
    UPDATE shipments SET status = new.status, lease_until = NULL
      FROM unnest(:shipment_ids, :statuses) AS new (shipment_id, status)
     WHERE shipments.shipment_id = new.shipment_id
    """
).bindparams(*texts("shipment_ids", "statuses"))

# Lets the parcels of confirmed orders leave, in the same order; cancelled and dispatched ones stay as they are.
RELEASE = text(
    """
    WITH ready AS (
        SELECT shipment_id FROM shipments
         WHERE transaction_id = ANY(:transaction_ids) AND status IN ('held', 'booked')
         ORDER BY transaction_id FOR UPDATE)
    UPDATE shipments SET status = 'released', lease_until = NULL
      FROM ready WHERE shipments.shipment_id = ready.shipment_id
    """
).bindparams(*texts("transaction_ids"))

LOCK_SHIPMENT = text(f"SELECT {COLUMNS} FROM shipments WHERE shipment_id = :shipment_id FOR UPDATE")  # noqa: S608
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


class PostgresShipping:
    def __init__(self, connection: AsyncConnection, ids: Ids) -> None:
        self._connection = connection
        self._ids = ids

    async def services(self, zones: Collection[str]) -> Sequence[Service]:
        rows = await self._connection.execute(SERVICES, {"zones": sorted(zones)})
        return [Service(*row) for row in rows]

    async def lock_days(self, days: Collection[Day]) -> Mapping[Day, int]:
        if not days:
            return {}
        values = _day_columns(days)
        rows = (await self._connection.execute(LOCK_DAYS, values)).all()
        if len(rows) < len(days):
            await self._connection.execute(OPEN_DAYS, values)
            rows = (await self._connection.execute(LOCK_DAYS, values)).all()
        return {(carrier_id, zone, ship_date): booked for carrier_id, zone, ship_date, booked in rows}

    async def count(self, parcels: Mapping[Day, int]) -> None:
        if parcels:
            await self._connection.execute(COUNT, {**_day_columns(parcels), "parcels": list(parcels.values())})

    async def add_shipments(self, new: Sequence[NewShipment]) -> None:
        if new:
            shipments = [one.shipment for one in new]
            await self._connection.execute(
                ADD_SHIPMENTS,
                {
                    **_day_columns([shipment.place.day for shipment in shipments]),
                    "shipment_ids": [shipment.shipment_id for shipment in shipments],
                    "transaction_ids": [shipment.transaction_id for shipment in shipments],
                    "parcels": [shipment.place.parcels for shipment in shipments],
                    "addresses": [shipment.address for shipment in shipments],
                    "statuses": [shipment.status.value for shipment in shipments],
                    "labels": [shipment.label for shipment in shipments],
                    "booked_at": [shipment.booked_at for shipment in shipments],
                    "leases_ms": [one.lease_ms for one in new],
                },
            )

    async def lock_shipments(self, transaction_ids: Collection[str]) -> Mapping[str, Shipment]:
        if not transaction_ids:
            return {}
        rows = await self._connection.execute(LOCK_SHIPMENTS, {"transaction_ids": list(transaction_ids)})
        return {shipment.transaction_id: shipment for shipment in (shipment_of(*row) for row in rows)}

    async def save_statuses(self, shipments: Sequence[Shipment]) -> None:
        if shipments:
            await self._connection.execute(
                SAVE_STATUSES,
                {
                    "shipment_ids": [shipment.shipment_id for shipment in shipments],
                    "statuses": [shipment.status.value for shipment in shipments],
                },
            )

    async def release(self, transaction_ids: Collection[str]) -> None:
        """Lets the parcels of confirmed orders leave."""
        await self._connection.execute(RELEASE, {"transaction_ids": sorted(transaction_ids)})

    async def lock_shipment(self, shipment_id: str) -> Shipment | None:
        row = (await self._connection.execute(LOCK_SHIPMENT, {"shipment_id": shipment_id})).one_or_none()
        return shipment_of(*row) if row is not None else None

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
            failpoint(COMMIT_BEFORE)
        failpoint(COMMIT_AFTER)
        self.on_commit()

    def joining(self, connection: AsyncConnection) -> PostgresUnit:
        """A unit inside somebody else's transaction, who decides when it commits."""
        return PostgresUnit(connection, self._ids)

    async def apply_orders(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        """A parcel may leave once its order is confirmed."""
        confirmed = [delivery.subject for delivery in deliveries if delivery.type == ORDER_CONFIRMED]
        if confirmed:
            await PostgresShipping(connection, self._ids).release(confirmed)


def _day_columns(days: Collection[Day]) -> dict[str, Sequence[object]]:
    return {
        "carrier_ids": [carrier_id for carrier_id, _, _ in days],
        "zones": [zone for _, zone, _ in days],
        "days": [ship_date for _, _, ship_date in days],
    }
