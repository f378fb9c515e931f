"""Workspaces for the registry's tests, MLflow, and a step that makes a small artifact."""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import artifacts, db, outbox, projection, runs
from registry.artifacts import Artifact
from registry.tables import Outbox
from registry.workspace import Workspace

NAME = "textmill-sample"
Maker = Callable[..., Artifact]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A new project; MLflow counts as away, so that nothing here waits for it."""
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Workspace.open(tmp_path)
    monkeypatch.setitem(projection._silent_until, made.tracking_uri, float("inf"))
    return made


def make(
    ws: Workspace,
    *,
    kind: str = "tokens",
    name: str = "sample",
    config: dict | None = None,
    inputs: dict | None = None,
    files: dict[str, bytes] | None = None,
    counts: dict | None = None,
    run_id: str | None = None,
) -> Artifact:
    """Do what a flow does: find, or make and publish."""
    config = config or {"size": 1}
    inputs = {"data": "d" * 64} if inputs is None else inputs
    named = {role: getattr(value, "fingerprint", value) for role, value in inputs.items()}
    fp = artifacts.fingerprint(kind, config, named, 1)
    if found := artifacts.find(ws, kind, fp):
        return found
    with artifacts.workdir(ws, kind, name, fp) as work:
        for path, data in (files or {"a.bin": b"abc" * 1000, "sub/b.json": b"{}"}).items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(data)
        return artifacts.publish(
            ws,
            work,
            kind=kind,
            name=name,
            fingerprint=fp,
            config=config,
            inputs=inputs,
            counts=counts or {"files": 2},
            run_id=run_id,
        )


@pytest.fixture(name="make")
def make_fixture() -> Maker:
    """Return the function that makes and publishes."""
    return make


@pytest.fixture(scope="session")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with this code and pyproject's entry points, as an installed package has."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path_factory.mktemp("site") / "textmill_entries-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: textmill-entries\nVersion: 0\n")
    lines = [
        line
        for group, table in entries.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in table.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return os.pathsep.join([str(ROOT), str(info.parent)])


def start_run(ws: Workspace, **changes: object) -> str:
    """Record that this process begins a step, with some columns changed; return the run."""

    def add(session):
        run = runs.start_run(
            session, stage="pretrain", name="a", config={}, git_commit="", data_version=""
        )
        for name, value in changes.items():
            setattr(run, name, value)
        return run.id

    return db.write(ws.database_url, add)


# With MLflow.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with an MLflow database (one for a whole file: it costs seconds)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TEXTMILL_DATABASE_URL", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = Workspace.open(tmp_path_factory.mktemp("store"))
    projection.experiment_id(made)
    return made


@pytest.fixture
def mlflow(store: Workspace):
    return projection.client(store)


def away(ws: Workspace) -> None:
    projection._silent_until[ws.tracking_uri] = float("inf")


def waiting(ws: Workspace) -> list[Outbox]:
    with db.reading(ws.database_url) as session:
        return outbox.pending(session, "mlflow")
