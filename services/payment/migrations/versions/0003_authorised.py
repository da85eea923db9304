"""Charges can be authorised first and captured later, and announced to a checkout that waits for them."""

from alembic import op

from libs.messaging.consumer import INBOX_DDL
from libs.messaging.outbox import OUTBOX_DDL
from libs.runtime.horizon import HORIZON_DDL
from libs.tcc.postgres_barrier import CONFIRM_DDL

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AUTHORISED_DDL = (
    # What is authorised, or about to be, and only that, has a lease. `announced`: events wait for what becomes of it.
    """
    ALTER TABLE payments
      ADD COLUMN lease_until timestamptz,
      ADD COLUMN announced boolean NOT NULL DEFAULT false,
     DROP CONSTRAINT payments_status_check,
      ADD CONSTRAINT payments_status_check
          CHECK (status IN ('charging', 'authorising', 'authorised', 'capturing', 'charged', 'declined',
                            'voiding', 'voided', 'refunding', 'refunded')),
      ADD CONSTRAINT payments_authorised_until
          CHECK ((status IN ('authorising', 'authorised')) = (lease_until IS NOT NULL))
    """,
    "DROP INDEX payments_unfinished",
    """
    CREATE INDEX payments_unfinished ON payments (created_at)
     WHERE status IN ('charging', 'authorising', 'capturing', 'voiding', 'refunding')
    """,
    "CREATE INDEX payments_authorised ON payments (lease_until) WHERE status = 'authorised'",
    # What is to be said of an effect as soon as the card processor has settled it, and what it follows from.
    """
    CREATE TABLE owed_events (
        transaction_id text NOT NULL,
        step text NOT NULL,
        operation text NOT NULL CHECK (operation IN ('do', 'undo')),
        cause text NOT NULL,
        data bytea NOT NULL,
        traceparent text NOT NULL,
        owed_since timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (transaction_id, step, operation)
    )
    """,
)


def upgrade() -> None:
    for statements in (HORIZON_DDL, OUTBOX_DDL, INBOX_DDL, CONFIRM_DDL, AUTHORISED_DDL):
        for statement in statements:
            op.execute(statement)
