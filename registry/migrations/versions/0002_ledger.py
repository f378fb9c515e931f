"""The crawl ledger: every link once."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the ledger's tables."""
    op.create_table(
        "link",
        sa.Column("key", INTEGER, autoincrement=False, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("score", INTEGER, nullable=False),
        sa.Column("state", INTEGER, nullable=False),
        sa.Column("attempts", INTEGER, nullable=False),
        sa.Column("first_seen", INTEGER, nullable=False),
        sa.Column("due", INTEGER, nullable=True),
        sa.Column("batch_id", INTEGER, nullable=True),
        sa.Column("time", INTEGER, nullable=True),
        sa.Column("reason_id", INTEGER, nullable=True),
        sa.Column("warc_id", INTEGER, nullable=True),
        sa.Column("offset", INTEGER, nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_link")),
    )
    is_due = sa.text("due IS NOT NULL")
    op.create_index(
        op.f("ix_link_due_key"),
        "link",
        ["due", "key"],
        sqlite_where=is_due,
        postgresql_where=is_due,
    )
    is_claimed = sa.text("state = 1")
    op.create_index(
        op.f("ix_link_batch_id_key"),
        "link",
        ["batch_id", "key"],
        sqlite_where=is_claimed,
        postgresql_where=is_claimed,
    )

    op.create_table(
        "link_batch",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("opened", MOMENT, nullable=False),
        sa.Column("closed", MOMENT, nullable=True),
        sa.Column("pages", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link_batch")),
    )
    is_open = sa.text("closed IS NULL")
    op.create_index(
        "uq_link_batch_open",
        "link_batch",
        ["name"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )

    op.create_table(
        "link_name",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link_name")),
        sa.UniqueConstraint("name", name=op.f("uq_link_name_name")),
    )
    op.create_table(
        "link_count",
        sa.Column("state", INTEGER, autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("n", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("state", "reason", name=op.f("pk_link_count")),
    )


def downgrade() -> None:
    """Remove the ledger."""
    for name in ("link_count", "link_name", "link_batch", "link"):
        op.drop_table(name)
