"""dvc:// in MLflow: lists without bytes, hands out verified files, refuses what is damaged."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow.store.artifact.artifact_repository_registry  # noqa: F401 - finds our class by itself
import pytest

from registry import artifacts, manifests, models, projection, served, versions
from registry.access import client_environment
from registry.artifacts import Artifact
from registry.dvc_repository import DvcArtifactRepository
from registry.server import server_command
from registry.tables import Kind
from registry.workspace import Workspace

NAME = "textmill-x"
WEIGHTS = "model.safetensors"


@pytest.fixture
def packaged(ws: Workspace, make) -> tuple[DvcArtifactRepository, Artifact]:
    """A packaged checkpoint, as the repository sees it, and the checkpoint."""
    files = {WEIGHTS: b"w" * 5000, "tokenizer/vocab.bpe": b"v", "config.json": b"{}"}
    checkpoint = make(ws, kind="checkpoint", files=files)
    inputs = {served.WEIGHTS: checkpoint}
    model = make(ws, kind="model", name=NAME, inputs=inputs, files={"MLmodel": b"m: 1\n"})
    return DvcArtifactRepository(served.source(model), ws.tracking_uri), checkpoint


def test_it_lists_from_the_catalogue_alone(ws: Workspace, packaged) -> None:
    repository, _ = packaged
    shutil.rmtree(ws.artifacts)
    shutil.rmtree(ws.state / "storage")
    listed = [(x.path, x.is_dir, x.file_size) for x in repository.list_artifacts()]
    assert listed == [("MLmodel", False, 5), ("artifacts", True, None)]
    assert [x.path for x in repository.list_artifacts("artifacts/checkpoint/tokenizer")] == [
        "artifacts/checkpoint/tokenizer/vocab.bpe"
    ]
    assert repository.list_artifacts("MLmodel") == []
    assert repository.list_artifacts("artif") == []


def test_it_brings_files_from_here_or_from_the_storage(packaged, tmp_path: Path) -> None:
    repository, checkpoint = packaged
    for place in ("here", "storage"):
        (tmp_path / place).mkdir()
        repository.download_artifacts("", str(tmp_path / place))
        found = tmp_path / place / served.MOUNT / WEIGHTS
        assert found.read_bytes() == b"w" * 5000
        assert (tmp_path / place / "MLmodel").read_text() == "m: 1\n"
        shutil.rmtree(checkpoint.path, ignore_errors=True)  # then from the storage


def flip(path: Path) -> None:
    """Change one bit, leaving size and mode as they are."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def objects(ws: Workspace) -> list[Path]:
    """Every object of DVC, in the cache and in the storage."""
    return [x for x in ws.state.rglob("files/md5/*/*") if x.is_file()]


def test_a_flipped_byte_is_mended_or_refused_by_name(
    ws: Workspace, packaged, tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    repository, checkpoint = packaged
    flip(checkpoint.path / WEIGHTS)
    repository.download_artifacts(f"{served.MOUNT}/{WEIGHTS}", str(tmp_path))
    assert (tmp_path / served.MOUNT / WEIGHTS).read_bytes() == b"w" * 5000
    flip(checkpoint.path / WEIGHTS)
    for path in objects(ws):
        if path.stat().st_size == 5000:
            flip(path)
    with pytest.raises(MlflowException, match=r"model\.safetensors.*missing or damaged"):
        repository.download_artifacts("", str(tmp_path))
    with pytest.raises(MlflowException, match=r"model\.safetensors"):
        repository.download_artifacts(f"{served.MOUNT}/{WEIGHTS}", str(tmp_path))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("dvc://host/model/x/0123", "is not dvc:///"),
        ("dvc:///model/x", "is not dvc:///"),
        ("dvc:///model/../etc", "no artifact"),
        ("dvc:///checkpoint/x/ffff", "is not dvc:///model"),
        ("dvc:///model/x/ffff", "no artifact model/x@ffff"),
        ("file:///model/x/ffff", "is not dvc:///"),
    ],
)
def test_other_addresses_are_refused(ws: Workspace, uri: str, message: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=message):
        DvcArtifactRepository(uri, ws.tracking_uri).list_artifacts()


def test_nothing_else_can_be_read_or_written(packaged, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    repository, _ = packaged
    for path in ("../../secret", "/etc/passwd", "artifacts/checkpoint/../../../x", "absent"):
        with pytest.raises(MlflowException):
            repository.download_artifacts(path, str(tmp_path))
    with pytest.raises(MlflowException, match="read only"):
        repository.log_artifact(str(tmp_path / "x"))


def test_a_package_holds_no_weights(ws: Workspace, make, monkeypatch) -> None:
    checkpoint = make(ws, kind="checkpoint", files={WEIGHTS: b"w" * 5000})
    before = {path: path.stat().st_mtime_ns for path in objects(ws)}
    model = served.package(ws, NAME, checkpoint, "# card\n")
    assert {x.name for x in model.path.iterdir()} >= {"MLmodel", "README.md", "pyfunc_model.py"}
    assert not list(model.path.rglob(WEIGHTS))
    assert sum(x.stat().st_size == 5000 for x in objects(ws)) == 2  # cache and storage, as before
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert served.package(ws, NAME, checkpoint, "# another\n") == model
    assert not manifests.damage(model.path, manifests.read(model.path), verify=True)
    assert versions.verify(ws, model.dvc_md5) == {}


@pytest.fixture
def server(ws: Workspace, plugged: str, monkeypatch) -> Iterator[Workspace]:
    """The MLflow server that `textmill up` starts, on this project, and credentials for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for path in plugged.split(os.pathsep):
        monkeypatch.syspath_prepend(path)
    projection._silent_until.clear()
    projection.client(ws)  # makes the tables
    name = f"127.0.0.1:{port}"
    command, environment = server_command(ws, ws.tracking_uri, "127.0.0.1", port, [name])
    environment = os.environ | environment | {"PYTHONPATH": plugged}
    log = (ws.state / "server.log").open("w")
    process = subprocess.Popen(command, env=environment, cwd=ws.root, stdout=log, stderr=log)
    for key, value in client_environment(ws).items():
        monkeypatch.setenv(key, value)
    deadline = time.monotonic() + 100
    while True:
        try:
            ask(f"http://{name}/health")
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.name
            time.sleep(0.3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{name}")
    yield Workspace.open(ws.root)
    process.terminate()
    process.wait(20)


def ask(address: str) -> bytes:
    """Get a page with the project's credentials."""
    user, password = (os.environ[f"MLFLOW_TRACKING_{x}"] for x in ("USERNAME", "PASSWORD"))
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(address, headers={"Authorization": f"Basic {token}"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.read()


@pytest.mark.slow
def test_the_server_takes_the_source_and_its_pages_can_read_it(
    server: Workspace, make, plugged: str
) -> None:
    """About 30 s: a real server; its own checks of sources, its artifact route, a client."""
    from registry import tracking

    address = server.tracking_uri
    checkpoint = make(server, kind="checkpoint", files={WEIGHTS: b"w" * 5000})
    run = tracking.start(server, "x")
    models.register(server, NAME, checkpoint, run)
    models.promote(server, NAME, 1, expected=None, reason="first")
    found = projection.client(server).get_model_version_by_alias(NAME, "champion")
    assert found.source.startswith("dvc:///model/textmill-x/")
    assert found.description.startswith("# textmill-x version 1")

    def page(path: str) -> bytes:
        query = urllib.parse.urlencode({"name": NAME, "version": "1", "path": path})
        return ask(f"{address}/model-versions/get-artifact?{query}")

    assert b"python_function" in page("MLmodel")
    assert page("README.md").startswith(b"# textmill-x version 1")
    assert page(f"{served.MOUNT}/{WEIGHTS}") == b"w" * 5000
    with pytest.raises(urllib.error.HTTPError, match="4"):
        page("../../../.textmill/catalogue.db")
    code = (
        "import mlflow, json, pathlib\n"
        f"uri = 'models:/{NAME}@champion'\n"
        "names = [x.path for x in mlflow.artifacts.list_artifacts(uri)]\n"
        f"path = mlflow.artifacts.download_artifacts(uri + '/{served.MOUNT}/{WEIGHTS}')\n"
        "print(json.dumps([names, len(pathlib.Path(path).read_bytes())]))\n"
    )
    env = os.environ | {"PYTHONPATH": plugged, "TEXTMILL_ROOT": str(server.root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    )
    names, size = json.loads(done.stdout.splitlines()[-1])
    assert "MLmodel" in names and size == 5000
    model = artifacts.look_up(server, found.tags["textmill.model"])
    assert model.kind == Kind.MODEL
    flip(checkpoint.path / WEIGHTS)
    for path in objects(server):
        if path.stat().st_size == 5000:
            flip(path)
    failed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert failed.returncode and WEIGHTS in failed.stderr
