"""The same corpus flow on a Dask cluster of two workers: the same bytes."""

import pytest

from modules import presets
from modules.files import sha256

pytest.importorskip("prefect_dask", reason="the extra dask is not installed")
pytestmark = [pytest.mark.timeout(900)]


def test_two_dask_workers_make_the_same_corpus(
    prefect_server, in_fresh_project, tmp_path, monkeypatch
):
    from prefect_dask import DaskTaskRunner

    from flows import spread
    from flows.corpus import prepare_corpus
    from registry import artifacts
    from registry.workspace import Workspace

    tiny = presets.TINY.corpus
    config = tiny.but(
        name="dask",
        workers=1,
        extract=tiny.extract.but(shard_pages=100),
        clean=tiny.clean.but(shard_documents=100),
    )
    sent, real = [], spread._on_cluster

    def on_cluster(runner, function, items):
        sent.append(getattr(function, "func", function).__name__)
        return real(runner, function, items)

    monkeypatch.setattr(spread, "_on_cluster", on_cluster)
    made = []
    for runner in (None, DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})):
        flow = prepare_corpus.with_options(task_runner=runner) if runner else prepare_corpus
        tokens = artifacts.checkout(Workspace.open(in_fresh_project), flow(config))
        files = {path.name: sha256(path) for path in tokens.path.iterdir()}
        made.append({name: of for name, of in files.items() if name != "manifest.json"})
        # the second run must make everything again
        monkeypatch.setenv("TEXTMILL_DATABASE_URL", f"sqlite:///{tmp_path}/second.db")
        (in_fresh_project / "artifacts").rename(tmp_path / f"artifacts-{len(made)}")
    assert len(set(sent)) >= 5, sent  # links, pages, text, documents, tokens
    assert made[0] == made[1] and len(made[0]) > 5
