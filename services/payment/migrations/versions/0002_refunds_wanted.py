"""A refund asked for while the charge is under way is remembered with the payment."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE payments ADD COLUMN refund_wanted boolean NOT NULL DEFAULT false")
