"""Products, what each transaction took of them, outbox, barrier."""

from alembic import op

from libs.messaging.outbox import OUTBOX_DDL
from libs.runtime.horizon import HORIZON_DDL
from libs.tcc.postgres_barrier import BARRIER_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INVENTORY_DDL = (
    """
    CREATE TABLE products (
        sku text PRIMARY KEY,
        name text NOT NULL,
        price_minor bigint NOT NULL CHECK (price_minor > 0),
        currency text NOT NULL,
        on_hand bigint NOT NULL CHECK (on_hand >= 0),
        reserved bigint NOT NULL CHECK (reserved >= 0),
        sold bigint NOT NULL CHECK (sold >= 0),
        received bigint NOT NULL,
        revision bigint NOT NULL,
        CONSTRAINT stock_adds_up CHECK (on_hand + reserved + sold = received)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE deductions (
        transaction_id text PRIMARY KEY,
        lines jsonb NOT NULL,
        status text NOT NULL CHECK (status IN ('deducted', 'restocked')),
        deducted_at timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 90)
    """,
)


def upgrade() -> None:
    for statements in (HORIZON_DDL, OUTBOX_DDL, BARRIER_DDL, INVENTORY_DDL):
        for statement in statements:
            op.execute(statement)
