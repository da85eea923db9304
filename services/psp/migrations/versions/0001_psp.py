"""What the card processor remembers: charges and refunds."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PSP_DDL = (
    """
    CREATE TABLE charges (
        charge_id text PRIMARY KEY,
        key text NOT NULL UNIQUE,
        reference text NOT NULL,
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        currency text NOT NULL,
        refunded_minor bigint NOT NULL DEFAULT 0 CHECK (refunded_minor BETWEEN 0 AND amount_minor),
        created_at timestamptz NOT NULL DEFAULT now()
    ) WITH (fillfactor = 80)
    """,
    "CREATE INDEX charges_by_reference ON charges (reference)",
    """
    CREATE TABLE refunds (
        key text PRIMARY KEY,
        charge_id text NOT NULL REFERENCES charges,
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)


def upgrade() -> None:
    for statement in PSP_DDL:
        op.execute(statement)
