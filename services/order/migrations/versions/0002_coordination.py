"""Checkouts without a coordinator: where each is, by when it must move, and what was heard of it."""

from alembic import op

from libs.tcc.postgres_barrier import CONFIRM_DDL

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHOREOGRAPHIES_DDL = (
    """
    CREATE TABLE choreographies (
        order_id text PRIMARY KEY,
        traceparent text NOT NULL,
        status text NOT NULL CHECK (status IN ('running', 'withdrawn', 'parked', 'ended')),
        started_at timestamptz NOT NULL,
        moved_at timestamptz NOT NULL,
        deadline_at timestamptz NOT NULL,
        last_event text NOT NULL DEFAULT '',
        parked_reason text NOT NULL DEFAULT '',
        CONSTRAINT choreographies_parked_why CHECK ((status = 'parked') = (parked_reason <> ''))
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX choreographies_due ON choreographies (deadline_at) WHERE status IN ('running', 'withdrawn')",
    # What was heard of each, and that it was parked; the order's own events are in its stream.
    """
    CREATE TABLE choreography_log (
        order_id text NOT NULL,
        number bigint GENERATED ALWAYS AS IDENTITY,
        at timestamptz NOT NULL,
        event text NOT NULL,
        detail text NOT NULL,
        PRIMARY KEY (order_id, number)
    )
    """,
)


def upgrade() -> None:
    for statements in (CONFIRM_DDL, CHOREOGRAPHIES_DDL):
        for statement in statements:
            op.execute(statement)
