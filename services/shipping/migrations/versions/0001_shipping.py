"""Carriers, their capacity, shipments, outbox, inbox, barrier."""

from alembic import op

from libs.messaging.consumer import INBOX_DDL
from libs.messaging.outbox import OUTBOX_DDL
from libs.runtime.horizon import HORIZON_DDL
from libs.tcc.postgres_barrier import BARRIER_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SHIPPING_DDL = (
    "CREATE TABLE carriers (carrier_id text PRIMARY KEY, name text NOT NULL)",
    """
    CREATE TABLE carrier_zones (
        carrier_id text NOT NULL REFERENCES carriers,
        zone text NOT NULL,
        parcels_per_day int NOT NULL CHECK (parcels_per_day >= 0),
        PRIMARY KEY (carrier_id, zone)
    )
    """,
    """
    CREATE TABLE capacity_days (
        carrier_id text NOT NULL,
        zone text NOT NULL,
        ship_date date NOT NULL,
        booked int NOT NULL CHECK (booked >= 0),
        PRIMARY KEY (carrier_id, zone, ship_date),
        FOREIGN KEY (carrier_id, zone) REFERENCES carrier_zones
    ) WITH (fillfactor = 20)
    """,
    """
    CREATE TABLE shipments (
        shipment_id text PRIMARY KEY,
        transaction_id text NOT NULL UNIQUE,
        carrier_id text NOT NULL,
        zone text NOT NULL,
        ship_date date NOT NULL,
        parcels int NOT NULL,
        address jsonb NOT NULL,
        status text NOT NULL CHECK (status IN ('booked', 'released', 'dispatched', 'cancelled')),
        label text NOT NULL,
        booked_at timestamptz NOT NULL
    ) WITH (fillfactor = 85)
    """,
)


def upgrade() -> None:
    for statements in (HORIZON_DDL, OUTBOX_DDL, INBOX_DDL, BARRIER_DDL, SHIPPING_DDL):
        for statement in statements:
            op.execute(statement)
