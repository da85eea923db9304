"""What is read from the shipping service's database outside of its transactions."""

from collections.abc import Mapping, Sequence

from sqlalchemy import text

from libs.kernel.errors import NotFound
from libs.runtime.database import Database
from libs.tcc.barrier import Manner, Operation
from libs.tcc.trail import Trail, Words, read_trail
from libs.twophase.prepared import Prepared
from services.shipping.adapters.rows import COLUMNS, shipment_of
from services.shipping.domain import Service
from services.shipping.handlers import BOOK_SHIPMENT
from services.shipping.ports import Shipment

WORDS: Mapping[str, Words] = {
    BOOK_SHIPMENT: Words(
        effects={
            (Operation.DO, Manner.AT_ONCE): "shipment booked",
            (Operation.DO, Manner.HOLD): "place held",
            (Operation.DO, Manner.PREPARE): "shipment prepared",
            (Operation.CONFIRM, Manner.AT_ONCE): "booking confirmed",
            (Operation.UNDO, Manner.AT_ONCE): "booking cancelled",
        },
        kept={Manner.HOLD: "capacity held", Manner.PREPARE: "rows locked by a prepared transaction"},
    )
}

ONE = text(f"SELECT {COLUMNS} FROM shipments WHERE shipment_id = :shipment_id")  # noqa: S608  (the columns are a constant)
CARRIERS = text(
    """
    SELECT carrier_id, name, coalesce(array_agg(zone ORDER BY zone) FILTER (WHERE zone IS NOT NULL), '{}'),
           coalesce(array_agg(parcels_per_day ORDER BY zone) FILTER (WHERE zone IS NOT NULL), '{}')
      FROM carriers LEFT JOIN carrier_zones USING (carrier_id)
     WHERE carrier_id > :after GROUP BY carrier_id, name ORDER BY carrier_id LIMIT :limit
    """
)

# The transactions whose holds have lasted longer than was agreed, by the database's clock.
OVERDUE = text(
    "SELECT transaction_id FROM shipments WHERE lease_until < now() ORDER BY lease_until, transaction_id LIMIT :limit"
)


class ShippingQueries:
    """Reads shipments, carriers and trails."""

    def __init__(self, database: Database, prepared: Prepared) -> None:
        self._database = database
        self._prepared = prepared

    async def shipment(self, shipment_id: str) -> Shipment:
        """Raises NotFound."""
        async with self._database.read() as connection:
            row = (await connection.execute(ONE, {"shipment_id": shipment_id})).one_or_none()
        if row is None:
            raise NotFound(f"there is no shipment {shipment_id}")
        return shipment_of(*row)

    async def carriers(self, after: str, limit: int) -> tuple[list[tuple[str, str, list[Service]]], str]:
        """Carriers by id with what they promise, and the key of the next page; "" at the end."""
        async with self._database.read() as connection:
            rows = (await connection.execute(CARRIERS, {"after": after, "limit": limit + 1})).all()
        found = [
            (carrier_id, name, [Service(carrier_id, *promise) for promise in zip(zones, parcels, strict=True)])
            for carrier_id, name, zones, parcels in rows
        ]
        return found[:limit], found[limit - 1][0] if len(found) > limit else ""

    async def trail(self, transaction_id: str) -> Trail:
        async with self._database.read() as connection:
            return await read_trail(connection, transaction_id, WORDS, self._prepared.gid(transaction_id))

    async def held_too_long(self, limit: int) -> Sequence[str]:
        """Transactions whose hold's lease has ended, longest ago first."""
        async with self._database.read() as connection:
            return (await connection.execute(OVERDUE, {"limit": limit})).scalars().all()
