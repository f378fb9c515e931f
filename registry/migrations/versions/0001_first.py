"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """The first tables."""
    op.create_table(
        "alias_move",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("alias", sa.String(length=40), nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("previous", INTEGER, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_move")),
    )
    op.create_index(op.f("ix_alias_move_name_alias"), "alias_move", ["name", "alias"])

    op.create_table(
        "outbox",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("system", sa.String(length=20), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("topic", sa.String(length=120), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("done", MOMENT, nullable=True),
        sa.Column("attempts", INTEGER, nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_system_done"), "outbox", ["system", "done"])
    op.create_index(op.f("ix_outbox_topic"), "outbox", ["topic"])

    op.create_table(
        "run",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("started", MOMENT, nullable=False),
        sa.Column("ended", MOMENT, nullable=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("parent_id", sa.String(length=32), nullable=True),
        sa.Column("flow_run_id", sa.String(length=64), nullable=True),
        sa.Column("mlflow_run_id", sa.String(length=64), nullable=True),
        sa.Column("git_commit", sa.String(length=64), nullable=False),
        sa.Column("data_version", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", INTEGER, nullable=False),
        sa.Column("pid_started", INTEGER, nullable=False),
        sa.Column("heartbeat", MOMENT, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["run.id"], name=op.f("fk_run_parent_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_parent_id"), "run", ["parent_id"])
    op.create_index(op.f("ix_run_status"), "run", ["status"])

    op.create_table(
        "artifact",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("size", INTEGER, nullable=False),
        sa.Column("n_files", INTEGER, nullable=False),
        sa.Column("dvc_md5", sa.String(length=40), nullable=False),
        sa.Column("dvc_file", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.Column("code_version", sa.String(length=64), nullable=False),
        sa.Column("git_commit", sa.String(length=64), nullable=False),
        sa.Column("data_version", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_artifact_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifact")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_artifact_fingerprint")),
    )
    op.create_index(op.f("ix_artifact_kind_name"), "artifact", ["kind", "name"])
    op.create_index(op.f("ix_artifact_run_id"), "artifact", ["run_id"])

    op.create_table(
        "lineage",
        sa.Column("child_id", INTEGER, nullable=False),
        sa.Column("role", sa.String(length=100), nullable=False),
        sa.Column("parent_id", INTEGER, nullable=True),
        sa.Column("data", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "(parent_id IS NULL) <> (data IS NULL)", name=op.f("ck_lineage_one_parent")
        ),
        sa.ForeignKeyConstraint(
            ["child_id"], ["artifact.id"], name=op.f("fk_lineage_child_id_artifact")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["artifact.id"], name=op.f("fk_lineage_parent_id_artifact")
        ),
        sa.PrimaryKeyConstraint("child_id", "role", name=op.f("pk_lineage")),
    )
    op.create_index(op.f("ix_lineage_parent_id"), "lineage", ["parent_id"])

    op.create_table(
        "model_version",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("version", INTEGER, autoincrement=False, nullable=False),
        sa.Column("artifact_id", INTEGER, nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("mlflow_version", INTEGER, nullable=True),
        sa.Column("created", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_model_version_artifact_id_artifact")
        ),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_model_version")),
        sa.UniqueConstraint("name", "artifact_id", name=op.f("uq_model_version_name_artifact_id")),
    )
    op.create_index(op.f("ix_model_version_artifact_id"), "model_version", ["artifact_id"])

    op.create_table(
        "score",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("artifact_id", INTEGER, nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=True),
        sa.Column("task", sa.String(length=100), nullable=False),
        sa.Column("metric", sa.String(length=100), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("n", INTEGER, nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("split", sa.String(length=40), nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifact.id"], name=op.f("fk_score_artifact_id_artifact")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_score_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_score")),
        sa.UniqueConstraint(
            "artifact_id",
            "task",
            "metric",
            "split",
            "version",
            "protocol",
            name=op.f("uq_score_artifact_id_task_metric_split_version_protocol"),
        ),
    )
    op.create_index(op.f("ix_score_run_id"), "score", ["run_id"])

    op.create_table(
        "alias",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("alias", sa.String(length=40), nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "version"],
            ["model_version.name", "model_version.version"],
            name=op.f("fk_alias_name_model_version"),
        ),
        sa.PrimaryKeyConstraint("name", "alias", name=op.f("pk_alias")),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("alias")
    op.drop_index(op.f("ix_score_run_id"), "score")

    op.drop_table("score")
    op.drop_index(op.f("ix_model_version_artifact_id"), "model_version")

    op.drop_table("model_version")
    op.drop_index(op.f("ix_lineage_parent_id"), "lineage")

    op.drop_table("lineage")
    op.drop_index(op.f("ix_artifact_run_id"), "artifact")
    op.drop_index(op.f("ix_artifact_kind_name"), "artifact")

    op.drop_table("artifact")
    op.drop_index(op.f("ix_run_status"), "run")
    op.drop_index(op.f("ix_run_parent_id"), "run")

    op.drop_table("run")
    op.drop_index(op.f("ix_outbox_topic"), "outbox")
    op.drop_index(op.f("ix_outbox_system_done"), "outbox")

    op.drop_table("outbox")
    op.drop_index(op.f("ix_alias_move_name_alias"), "alias_move")

    op.drop_table("alias_move")
