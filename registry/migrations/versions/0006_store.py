"""What gc needs of an artifact: who wants it kept, and when its bytes were given up."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("artifact", sa.Column("pinned", sa.Text(), nullable=True))
    op.add_column("artifact", sa.Column("removed", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Drop the columns."""
    with op.batch_alter_table("artifact") as table:
        table.drop_column("removed")
        table.drop_column("pinned")
