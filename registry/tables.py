"""The catalogue's tables: what exists, what it was made from, how it scored, who is champion."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

Object = dict[str, Any]


class Kind(StrEnum):
    """What an artifact is; one member more is all that a new kind needs."""

    LINKS = "links"
    PAGES = "pages"
    DOCUMENTS = "documents"
    TOKENIZER = "tokenizer"
    TOKENS = "tokens"
    CHECKPOINT = "checkpoint"
    TUNED = "tuned"
    SCORES = "scores"
    REPORT = "report"
    MODEL = "model"  # what MLflow needs to load a checkpoint, without the weights


class Status(StrEnum):
    """Where a run stands; INTERRUPTED can be continued by the same run again."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


def now() -> datetime:
    """Return this moment, in UTC."""
    return datetime.now(UTC)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC; SQLite forgets the zone, so it is put back when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Read UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Base(DeclarativeBase):
    """Names every constraint by one convention, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own spelling
        datetime: Moment,
        Object: JSON,
        int: BigInteger().with_variant(Integer(), "sqlite"),  # SQLite numbers rows by INTEGER only
    }


class Run(Base):
    """One try of one step."""

    __tablename__ = "run"
    __table_args__ = (Index(None, "status"), Index(None, "started"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    stage: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(100))
    status: Mapped[str] = mapped_column(String(20))
    started: Mapped[datetime] = mapped_column(default=now)
    ended: Mapped[datetime | None]
    config: Mapped[Object]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
    flow_run_id: Mapped[str | None] = mapped_column(String(64))
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    git_commit: Mapped[str] = mapped_column(String(64))
    data_version: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    pid_started: Mapped[int]  # the kernel's start tick of that process; pids are used again
    heartbeat: Mapped[datetime] = mapped_column(default=now)
    detail: Mapped[str] = mapped_column(Text, default="")


class Slot(Base):
    """A scheduled time of a deployment, taken by the one flow run that may use it."""

    __tablename__ = "slot"

    deployment: Mapped[str] = mapped_column(String(200), primary_key=True)  # flow/name
    due: Mapped[datetime] = mapped_column(primary_key=True)
    flow_run_id: Mapped[str] = mapped_column(String(64))
    claimed: Mapped[datetime] = mapped_column(default=now)


class Artifact(Base):
    """A finished directory of one kind."""

    __tablename__ = "artifact"
    __table_args__ = (Index(None, "kind", "name", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(100))
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    config: Mapped[Object]
    counts: Mapped[Object]
    manifest: Mapped[Object]
    size: Mapped[int]  # bytes
    n_files: Mapped[int]
    dvc_md5: Mapped[str] = mapped_column(String(40))
    dvc_file: Mapped[str] = mapped_column(Text)  # what NAME.dvc beside the directory would say
    created: Mapped[datetime] = mapped_column(default=now)
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
    code_version: Mapped[str] = mapped_column(String(64))
    git_commit: Mapped[str] = mapped_column(String(64))
    data_version: Mapped[str] = mapped_column(String(64))
    pinned: Mapped[str | None] = mapped_column(Text)  # why gc must keep it
    removed: Mapped[datetime | None]  # when gc gave its bytes up; what it was stays known
    inputs: Mapped[list["Lineage"]] = relationship(
        foreign_keys="Lineage.child_id", order_by="Lineage.role"
    )


class Lineage(Base):
    """What an artifact was made from, and as what: another artifact, or files of data/."""

    __tablename__ = "lineage"
    __table_args__ = (CheckConstraint("(parent_id IS NULL) <> (data IS NULL)", name="one_parent"),)

    child_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(100), primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("artifact.id"), index=True)
    # fingerprint of files below data/
    data: Mapped[str | None] = mapped_column(String(64), index=True)
    parent: Mapped[Artifact | None] = relationship(foreign_keys=[parent_id])


class InputFile(Base):
    """One of the files that a fingerprint of input data stands for."""

    __tablename__ = "input_file"
    __table_args__ = (Index(None, "sha256"), Index(None, "name"))

    data: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(Text, primary_key=True)  # below the project's root
    name: Mapped[str] = mapped_column(Text)  # the last part of the path
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]  # bytes


class Score(Base):
    """One number of one artifact, with all that is needed to compare it."""

    __tablename__ = "score"
    __table_args__ = (
        UniqueConstraint("artifact_id", "task", "metric", "split", "version", "protocol"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("run.id"), index=True)
    task: Mapped[str] = mapped_column(String(100))
    metric: Mapped[str] = mapped_column(String(100))
    value: Mapped[float]
    n: Mapped[int]
    low: Mapped[float | None]
    high: Mapped[float | None]
    split: Mapped[str] = mapped_column(String(40))
    version: Mapped[int]  # of the task
    protocol: Mapped[str] = mapped_column(Text)  # canonical JSON
    created: Mapped[datetime] = mapped_column(default=now)
    artifact: Mapped[Artifact] = relationship()


class ModelVersion(Base):
    """One checkpoint under a model's name; MLflow's own number is kept beside ours."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("name", "artifact_id"),)

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"), index=True)
    tags: Mapped[Object]
    mlflow_version: Mapped[int | None]
    created: Mapped[datetime] = mapped_column(default=now)
    artifact: Mapped[Artifact] = relationship()


class Alias(Base):
    """Who is champion: one version per (model, alias), by its primary key."""

    __tablename__ = "alias"
    __table_args__ = (
        ForeignKeyConstraint(["name", "version"], ["model_version.name", "model_version.version"]),
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    alias: Mapped[str] = mapped_column(String(40), primary_key=True)
    version: Mapped[int]
    updated: Mapped[datetime] = mapped_column(default=now)


class AliasMove(Base):
    """Every move of an alias, oldest first."""

    __tablename__ = "alias_move"
    __table_args__ = (Index(None, "name", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    alias: Mapped[str] = mapped_column(String(40))
    version: Mapped[int]
    previous: Mapped[int | None]
    reason: Mapped[str] = mapped_column(Text)
    who: Mapped[str] = mapped_column(String(255))
    scores: Mapped[Object]  # what was known of the new holder then: {set: {value, low, high}}
    created: Mapped[datetime] = mapped_column(default=now)


class Outbox(Base):
    """What another system must still be told; `topic` keeps the order of things that belong."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "system", "done"), Index(None, "topic"))

    id: Mapped[int] = mapped_column(primary_key=True)
    system: Mapped[str] = mapped_column(String(20))
    action: Mapped[str] = mapped_column(String(40))
    topic: Mapped[str] = mapped_column(String(120))  # an MLflow run id or a model's name
    payload: Mapped[Object]
    created: Mapped[datetime] = mapped_column(default=now)
    done: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str] = mapped_column(Text, default="")
