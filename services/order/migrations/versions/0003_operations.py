"""What operators did, and finding what waits for them."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OPERATIONS_DDL = (
    """
    CREATE TABLE operator_actions (
        action_id text PRIMARY KEY,
        idempotency_key text NOT NULL,
        fingerprint bytea NOT NULL,
        transaction_id text NOT NULL,
        verb text NOT NULL CHECK (verb IN ('retry', 'skip', 'compensate', 'end')),
        step text NOT NULL,
        who text NOT NULL CHECK (who <> ''),
        why text NOT NULL CHECK (why <> ''),
        proof text NOT NULL CHECK (proof <> '' OR verb <> 'skip'),
        outcome text NOT NULL,
        refused boolean NOT NULL,
        at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX operator_actions_by_transaction ON operator_actions (transaction_id, action_id)",
    # A key is used up by what was done under it, not by what was refused.
    "CREATE UNIQUE INDEX operator_actions_once ON operator_actions (idempotency_key) WHERE NOT refused",
    """
    CREATE UNIQUE INDEX operator_actions_refused ON operator_actions (idempotency_key, fingerprint, outcome)
     WHERE refused
    """,
    # What operators list, in the order of ids. The predicate of the last names nothing that ever changes: updates of
    # the view stay cheap.
    "CREATE INDEX sagas_parked_by_id ON sagas (saga_id) WHERE status = 'parked'",
    "CREATE INDEX choreographies_by_id ON choreographies (order_id) WHERE status <> 'ended'",
    "CREATE INDEX order_view_naive ON order_view (order_id) WHERE coordination = 'naive'",
)


def upgrade() -> None:
    for statement in OPERATIONS_DDL:
        op.execute(statement)
