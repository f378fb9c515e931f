"""Lineage from input files down, and the look-ups that a large catalogue needs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the files behind each fingerprint of input data, and indices."""
    op.create_table(
        "input_file",
        sa.Column("data", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("data", "path", name=op.f("pk_input_file")),
    )
    op.create_index(op.f("ix_input_file_sha256"), "input_file", ["sha256"])
    op.create_index(op.f("ix_input_file_name"), "input_file", ["name"])
    op.create_index(op.f("ix_lineage_data"), "lineage", ["data"])
    op.create_index(op.f("ix_run_started"), "run", ["started"])
    # the newest of a name is the last entry of its range
    op.drop_index(op.f("ix_artifact_kind_name"), "artifact")
    op.create_index(op.f("ix_artifact_kind_name_id"), "artifact", ["kind", "name", "id"])


def downgrade() -> None:
    """Undo it."""
    op.drop_index(op.f("ix_artifact_kind_name_id"), "artifact")
    op.create_index(op.f("ix_artifact_kind_name"), "artifact", ["kind", "name"])
    op.drop_index(op.f("ix_run_started"), "run")
    op.drop_index(op.f("ix_lineage_data"), "lineage")
    op.drop_table("input_file")
