"""The history of aliases says who moved it, and what was known of the scores then."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; moves made before have neither."""
    op.add_column("alias_move", sa.Column("who", sa.String(255), nullable=False, server_default=""))
    op.add_column("alias_move", sa.Column("scores", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("alias_move", "scores")
    op.drop_column("alias_move", "who")
