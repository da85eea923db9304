"""Stock can be held, or taken in a prepared transaction, until that is confirmed; and inventory hears of checkouts."""

from alembic import op

from libs.messaging.consumer import INBOX_DDL
from libs.tcc.postgres_barrier import CONFIRM_DDL

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

HELD_DDL = (
    # What is held, and only that, has a lease. So the index need not look at the status, and a change of status that
    # moves nothing else stays on its page.
    """
    ALTER TABLE deductions
      ADD COLUMN lease_until timestamptz,
     DROP CONSTRAINT deductions_status_check,
      ADD CONSTRAINT deductions_status_check CHECK (status IN ('held', 'deducted', 'restocked')),
      ADD CONSTRAINT deductions_held_until CHECK ((status = 'held') = (lease_until IS NOT NULL))
    """,
    "CREATE INDEX deductions_held ON deductions (lease_until) WHERE lease_until IS NOT NULL",
)


def upgrade() -> None:
    for statements in (INBOX_DDL, CONFIRM_DDL, HELD_DDL):
        for statement in statements:
            op.execute(statement)
