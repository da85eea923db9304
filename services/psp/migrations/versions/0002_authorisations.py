"""A charge can be authorised first, and captured or voided afterwards."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

AUTHORISATIONS_DDL = (
    # `capture`: whether its money was to be taken at once. Only what was taken can be given back.
    """
    ALTER TABLE charges
      ADD COLUMN capture boolean NOT NULL DEFAULT true,
      ADD COLUMN status text NOT NULL DEFAULT 'captured' CHECK (status IN ('authorised', 'captured', 'voided')),
      ADD CONSTRAINT charges_refunded_captured CHECK (refunded_minor = 0 OR status = 'captured')
    """,
)


def upgrade() -> None:
    for statement in AUTHORISATIONS_DDL:
        op.execute(statement)
