"""The same corpus on a Dask cluster of this machine's cores: the same bytes."""

import os
import subprocess
import sys

import pytest

from modules.files import sha256
from tests.flows.conftest import new_project

pytest.importorskip("prefect_dask", reason="the extra dask is not installed")
pytestmark = [pytest.mark.timeout(900)]

SETTINGS = ("extract.shard_pages=100", "clean.shard_documents=100", "workers=1")


def make(root, data, **environment):
    """Make the tiny corpus as a user would; return its tokens' files and what was said."""
    new_project(root, data)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    run = subprocess.run(
        [sys.executable, "-m", "flows.cli", "corpus", "tiny"]
        + [word for setting in SETTINGS for word in ("--set", setting)],
        env=kept | {"TEXTMILL_ROOT": str(root)} | environment,
        capture_output=True,
        text=True,
    )
    said = run.stdout + run.stderr
    assert run.returncode == 0, said[-3000:]
    files = {path.name: sha256(path) for path in root.glob("artifacts/tokens/tiny/*/*")}
    return {name: of for name, of in files.items() if name != "manifest.json"}, said


def test_the_same_corpus_on_dask(tmp_path, data):
    here, said_here = make(tmp_path / "here", data)
    there, said_there = make(tmp_path / "there", data, TEXTMILL_DASK="local")
    assert "run on the Dask cluster" in said_there and "Dask" not in said_here
    assert here == there and len(here) > 5
