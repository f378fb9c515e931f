"""Scheduled times, each taken once."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table of slots."""
    op.create_table(
        "slot",
        sa.Column("deployment", sa.String(length=200), nullable=False),
        sa.Column("due", sa.DateTime(timezone=True), nullable=False),
        sa.Column("flow_run_id", sa.String(length=64), nullable=False),
        sa.Column("claimed", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("deployment", "due", name=op.f("pk_slot")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("slot")
