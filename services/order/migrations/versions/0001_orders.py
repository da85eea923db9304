"""Orders: event streams, sagas, the order view, the catalogue copy, outbox, inbox, barrier."""

from alembic import op

from libs.eventsourcing.projection import PROJECTIONS_DDL
from libs.eventsourcing.store import EVENTS_DDL
from libs.messaging.consumer import INBOX_DDL
from libs.messaging.outbox import OUTBOX_DDL
from libs.runtime.horizon import HORIZON_DDL
from libs.saga.postgres_log import SAGA_DDL
from libs.tcc.postgres_barrier import BARRIER_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ORDER_VIEW_DDL = (
    """
    CREATE TABLE order_view (
        order_id text PRIMARY KEY,
        customer_id text NOT NULL,
        status text NOT NULL,
        reason text NOT NULL,
        coordination text NOT NULL,
        lines jsonb NOT NULL,
        total_minor bigint NOT NULL,
        currency text NOT NULL,
        ship_to jsonb NOT NULL,
        placed_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        version int NOT NULL
    ) WITH (fillfactor = 80)
    """,
    # Order ids sort by time: newest first is a backward scan of either index.
    "CREATE INDEX order_view_by_customer ON order_view (customer_id, order_id)",
    """
    CREATE TABLE catalogue (
        sku text PRIMARY KEY,
        name text NOT NULL,
        price_minor bigint NOT NULL,
        currency text NOT NULL,
        revision bigint NOT NULL
    )
    """,
)


def upgrade() -> None:
    for statements in (
        HORIZON_DDL,
        EVENTS_DDL,
        PROJECTIONS_DDL,
        OUTBOX_DDL,
        INBOX_DDL,
        BARRIER_DDL,
        SAGA_DDL,
        ORDER_VIEW_DDL,
    ):
        for statement in statements:
            op.execute(statement)
