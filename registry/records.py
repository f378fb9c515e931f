"""What the storage tells of the bytes it holds, so that any machine can start from it alone.

Beside DVC's objects lies one small JSON file for each published artifact, registered version and
alias. `publish` and `push` write them; `pull` makes catalogue rows of them. Each carries the hash
of its own text, and what is read is checked like any foreign input.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator as After
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from sqlalchemy.orm import Session

from registry import catalogue, objects, tables
from registry.files import canonical, check_name, fsync, write_whole
from registry.objects import StorageError
from registry.tables import Kind
from registry.workspace import Workspace

log = logging.getLogger(__name__)

ARTIFACTS, MODELS, ALIASES = "artifacts", "models", "aliases"
MAX_BYTES = 64 * 2**20  # of one record; a manifest of 100,000 files has 15 MB

Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, After(check_name)]


class Record(BaseModel):
    """A text at the storage."""

    model_config = ConfigDict(frozen=True)  # fields of newer versions are passed over


R = TypeVar("R", bound=Record)


class RunRecord(Record):
    """The run that made an artifact, or one around it."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,32}$")]
    stage: str
    name: str
    status: tables.Status
    started: datetime
    ended: datetime | None
    config: dict[str, Any]
    parent_id: str | None
    flow_run_id: str | None
    git_commit: str
    data_version: str
    host: str
    pid: int
    pid_started: int
    heartbeat: datetime
    detail: str


class ScoreRecord(Record):
    """One number of an artifact, as `catalogue.add_scores` takes it."""

    task: str
    metric: str
    value: float
    n: int
    low: float | None
    high: float | None
    split: str
    task_version: int
    protocol: dict[str, Any]


class Input(Record):
    """What an artifact was made from as one role: another artifact, or files of data/."""

    artifact: Hex | None = None
    data: str | None = None
    kind: Kind | None = None
    name: Name | None = None


class Manifest(Record):
    """The part of a manifest that becomes columns."""

    kind: Kind
    name: Name
    fingerprint: Hex
    config: dict[str, Any]
    counts: dict[str, Any]
    inputs: dict[str, Input]
    code_version: str
    git_commit: str
    data_version: str


class ArtifactRecord(Record):
    """A published artifact: its manifest, where its bytes are, who made it, how it scored."""

    manifest: dict[str, Any]
    size: int
    n_files: int
    dvc_md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}\.dir$")]
    dvc_file: str
    created: datetime
    runs: list[RunRecord] = Field(description="the outermost first; the last one made it")
    scores: list[ScoreRecord]

    @property
    def told(self) -> Manifest:
        """The manifest, checked."""
        return Manifest.model_validate(self.manifest)

    @property
    def parents(self) -> list[str]:
        """The addresses of the records of what it was made from."""
        made_of = self.told.inputs.values()
        return [address(x.kind, x.name, x.artifact) for x in made_of if x.kind and x.name]


class ModelRecord(Record):
    """A registered version; its number is the one it had where it was registered."""

    name: Name
    version: Annotated[int, Field(gt=0)]
    kind: Kind
    artifact: Name
    fingerprint: Hex
    tags: dict[str, str]
    created: datetime


class Holder(Record):
    """Who got an alias, and when: the moment tells two moves to the same version apart."""

    fingerprint: Hex
    moved: datetime


class AliasRecord(Record):
    """Who held an alias, oldest first, and why the last one holds it."""

    name: Name
    alias: Name
    holders: Annotated[list[Holder], Field(min_length=1)]
    reason: str


def address(kind: Kind, name: str, fingerprint: str | None) -> str:
    """Return where an artifact's record lies below textmill/."""
    return f"{ARTIFACTS}/{kind}/{name}/{fingerprint}"


def put(ws: Workspace, where: str, record: Record) -> None:
    """Write a record to the storage, whole, and read it back.

    Raises:
        StorageError: it did not arrive.
    """
    files, path = _file(ws, where)
    data = _seal(record)
    if _read(files, path) == data:
        return
    note = ws.state / "tmp" / f"{hashlib.sha256(data).hexdigest()[:32]}.json"
    note.parent.mkdir(exist_ok=True)
    write_whole(note, data)
    try:
        files.makedirs(files.parent(path), exist_ok=True)
        files.put_file(str(note), path)
    finally:
        note.unlink(missing_ok=True)
    if _read(files, path) != data:
        raise StorageError(f"{path} did not arrive whole; check that place, then: textmill push")
    if files.protocol == "local":
        for made in (Path(path), *list(Path(path).parents)[:4]):  # up to textmill/'s own folder
            fsync(made)


def get(ws: Workspace, where: str, kind: type[R]) -> R | None:
    """Read a record; None if there is none.

    Raises:
        StorageError: it is damaged, or not a record of this kind.
    """
    files, path = _file(ws, where)
    data = _read(files, path)
    if data is None:
        return None
    try:
        sealed = json.loads(data)
        if sealed["sha256"] != hashlib.sha256(canonical(sealed["record"]).encode()).hexdigest():
            raise ValueError("its hash does not fit its text")
        record = kind.model_validate(sealed["record"])
        if isinstance(record, ArtifactRecord):
            _check_place(record, where)
    except (ValueError, KeyError, TypeError) as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise StorageError(
            f"{path} is damaged ({told}); write it again where the artifact is: textmill push"
        ) from None
    return record


def list_names(ws: Workspace, where: str) -> list[str]:
    """Return the addresses of the records below one, sorted."""
    files, root = _file(ws, where, suffix="")
    top = _file(ws, "", suffix="")[1].rstrip("/")
    if hasattr(files.fs, "invalidate_cache"):
        files.fs.invalidate_cache()  # others write there too
    try:
        found = [str(path) for path in files.find(root)]
    except FileNotFoundError:
        return []
    return sorted(p[len(top) + 1 :].removesuffix(".json") for p in found if p.endswith(".json"))


def remove(ws: Workspace, where: str) -> None:
    """Remove a record, if it is there."""
    files, path = _file(ws, where)
    try:
        files.remove(path)
    except FileNotFoundError:
        return


def of_artifact(session: Session, row: tables.Artifact) -> ArtifactRecord:
    """Return the record of a catalogue row."""
    scores = [
        ScoreRecord(
            **{name: getattr(score, name) for name in ("task", "metric", "value", "n", "split")},
            low=score.low,
            high=score.high,
            task_version=score.version,
            protocol=json.loads(score.protocol),
        )
        for score in catalogue.leaderboard(session, fingerprint=row.fingerprint)
    ]
    columns = {name: getattr(row, name) for name in ("manifest", "size", "n_files", "dvc_md5")}
    return ArtifactRecord(
        **columns,
        dvc_file=row.dvc_file,
        created=row.created,
        runs=_runs(session, row.run_id),
        scores=scores,
    )


def add(session: Session, record: ArtifactRecord) -> tables.Artifact:
    """Make a catalogue row of a record whose parents are in the catalogue, unless it is there."""
    told = record.told
    found = catalogue.find_artifact(session, told.fingerprint)
    if found is None or found.removed is not None:
        for run in record.runs:
            if session.get(tables.Run, run.id) is None:
                session.add(tables.Run(**run.model_dump()))
                session.flush()
        row = tables.Artifact(
            **told.model_dump(mode="json", exclude={"inputs"}),
            **record.model_dump(include={"manifest", "size", "n_files", "dvc_md5", "dvc_file"}),
            created=record.created,
            run_id=record.runs[-1].id if record.runs else None,
        )
        inputs = {role: str(x.artifact or x.data) for role, x in told.inputs.items()}
        found = catalogue.add_artifact(session, row, inputs)
    catalogue.add_scores(session, told.fingerprint, _new_scores(session, record, found))
    return found


def _new_scores(
    session: Session, record: ArtifactRecord, row: tables.Artifact
) -> Iterable[dict[str, Any]]:
    """Return the scores that the catalogue lacks; its own stay as they are."""
    there = {
        (x.task, x.metric, x.split, x.version, x.protocol)
        for x in catalogue.leaderboard(session, fingerprint=row.fingerprint)
    }
    for score in record.scores:
        key = (score.task, score.metric, score.split, score.task_version)
        if (*key, canonical(score.protocol)) not in there:
            yield score.model_dump()


def _runs(session: Session, run_id: str | None) -> list[RunRecord]:
    """Return a run and the runs around it, the outermost first."""
    runs: list[RunRecord] = []
    while run_id is not None and (row := session.get(tables.Run, run_id)):
        runs.append(RunRecord(**{name: getattr(row, name) for name in RunRecord.model_fields}))
        run_id = row.parent_id
    return runs[::-1]


def _check_place(record: ArtifactRecord, where: str) -> None:
    """Refuse a record that lies where another one belongs."""
    told = record.told
    if address(told.kind, told.name, told.fingerprint) != where:
        raise ValueError(f"it is of {told.kind}/{told.name}@{told.fingerprint[:12]}")


def _seal(record: Record) -> bytes:
    """Return a record's file: its text and the hash of that."""
    text = canonical(record.model_dump(mode="json"))
    return f'{{"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","record":{text}}}\n'.encode()


def _file(ws: Workspace, where: str, suffix: str = ".json") -> tuple[Any, str]:
    """Return the file system and path of a record, or of a folder of them."""
    files, root = objects.place(ws)
    return files, files.join(root, "textmill", *[part for part in where.split("/") if part]) + (
        suffix
    )


def _read(files: Any, path: str) -> bytes | None:
    """Return a file's bytes, None if it is not there."""
    try:
        with files.open(path, "rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_BYTES:
        raise StorageError(f"{path} has more than {MAX_BYTES:,} bytes: not a record of textmill")
    return data
