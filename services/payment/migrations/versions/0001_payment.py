"""Accounts, payments, the ledger, barrier."""

from alembic import op

from libs.tcc.postgres_barrier import BARRIER_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PAYMENT_DDL = (
    """
    CREATE TABLE accounts (
        account_id text PRIMARY KEY,
        name text NOT NULL,
        opened_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE payments (
        payment_id text PRIMARY KEY,
        transaction_id text NOT NULL,
        step text NOT NULL,
        account_id text NOT NULL REFERENCES accounts,
        amount_minor bigint NOT NULL CHECK (amount_minor > 0),
        currency text NOT NULL,
        card_token text NOT NULL,
        status text NOT NULL CHECK (status IN ('charging', 'charged', 'declined', 'refunding', 'refunded')),
        created_at timestamptz NOT NULL,
        decline_code text NOT NULL DEFAULT '',
        processor_reference text NOT NULL DEFAULT '',
        UNIQUE (transaction_id, step)
    ) WITH (fillfactor = 70)
    """,
    "CREATE INDEX payments_unfinished ON payments (created_at) WHERE status IN ('charging', 'refunding')",
    # Two postings make an entry: what one account gains the other loses. The one statement that writes postings makes
    # both from one row, and the audit adds up every entry; a deferred constraint trigger that did so at each commit
    # doubled what an entry costs the server (25 µs more). Balances are sums: no row is hot.
    """
    CREATE TABLE postings (
        posting_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        entry_id text NOT NULL,
        account text NOT NULL,
        amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
        currency text NOT NULL,
        memo text NOT NULL,
        payment_id text NOT NULL REFERENCES payments,
        posted_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (entry_id, account)
    )
    """,
    "CREATE INDEX postings_by_account ON postings (account, posting_id)",
)


def upgrade() -> None:
    for statements in (BARRIER_DDL, PAYMENT_DDL):
        for statement in statements:
            op.execute(statement)
