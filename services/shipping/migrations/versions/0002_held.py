"""Places can be held, or booked in a prepared transaction, until they are confirmed."""

from alembic import op

from libs.tcc.postgres_barrier import CONFIRM_DDL

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

HELD_DDL = (
    # What is held, and only that, has a lease. So the index need not look at the status, and a change of status that
    # moves nothing else stays on its page.
    """
    ALTER TABLE shipments
      ADD COLUMN lease_until timestamptz,
     DROP CONSTRAINT shipments_status_check,
      ADD CONSTRAINT shipments_status_check
          CHECK (status IN ('held', 'booked', 'released', 'dispatched', 'cancelled')),
      ADD CONSTRAINT shipments_held_until CHECK ((status = 'held') = (lease_until IS NOT NULL))
    """,
    "CREATE INDEX shipments_held ON shipments (lease_until) WHERE lease_until IS NOT NULL",
)


def upgrade() -> None:
    for statements in (CONFIRM_DDL, HELD_DDL):
        for statement in statements:
            op.execute(statement)
