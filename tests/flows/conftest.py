"""One Prefect server for all flow tests, and a workspace of its own for each."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def prefect_server():
    """Prefect's own harness; its start takes seconds, so once for the whole run."""
    from prefect.testing.utilities import prefect_test_harness

    # What later tests fork in this process (a DataLoader's workers, say) would end with status 1:
    # Prefect's exit asserts that its services run, and their threads are not in the child.
    os.register_at_fork(after_in_child=threading._threading_atexits.clear)
    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="session")
def project(tmp_path_factory, data) -> Path:
    """A project root of its own: a copy of the sample data, a git repository, no .venv."""
    return new_project(tmp_path_factory.mktemp("project"), data)


def new_project(root: Path, data: Path) -> Path:
    """Make a folder a project."""
    shutil.copytree(data, root / "data")
    shutil.copyfile(ROOT / "data.dvc", root / "data.dvc")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


@pytest.fixture
def in_project(project, monkeypatch):
    """Run inside that project."""
    monkeypatch.setenv("TEXTMILL_ROOT", str(project))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    return project


@pytest.fixture
def in_fresh_project(tmp_path, data, monkeypatch) -> Path:
    """Run inside a project in which nothing was made yet."""
    root = new_project(tmp_path / "fresh", data)
    monkeypatch.setenv("TEXTMILL_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    return root
