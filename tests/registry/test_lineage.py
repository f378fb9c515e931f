"""Lineage both ways, by artifact and by input file; no look-up reads a whole table."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, select

from registry import catalogue, db, lineage, models, outbox, references, runs, versions
from registry.files import digest
from registry.workspace import Workspace


@pytest.fixture
def family(ws: Workspace, make) -> dict[str, Any]:
    """Two input files -> links -> documents -> two checkpoints, one of them a model; and tokens."""
    files = [ws.root / "data" / name for name in ("a.zst", "b.zst")]
    files[0].parent.mkdir()
    for file in files:
        file.write_text(file.name)
    data = versions.data_fingerprint(ws, files)
    links = make(ws, kind="links", inputs={"dumps": data})
    documents = make(ws, kind="documents", inputs={"links": links})
    checkpoints = [
        make(ws, kind="checkpoint", config={"n": n}, inputs={"documents": documents})
        for n in (1, 2)
    ]
    models.register(ws, "m", checkpoints[0], "run")
    models.promote(ws, "m", 1, expected=None, reason="first")
    other = make(ws, kind="tokens", inputs={"data": "e" * 64})
    return {"files": files, "data": data, "links": links, "checkpoints": checkpoints, "x": other}


def test_ancestry_ends_at_named_files(ws: Workspace, family) -> None:
    with db.reading(ws.database_url) as session:
        found = lineage.ancestry(session, references.find(session, "m@champion"))
    assert [x.kind for x in found.artifacts] == ["checkpoint", "documents", "links"]
    assert [model.version for model in found.models] == [1]
    [(data, files)] = found.files.items()
    assert data == family["data"]
    assert [(x.path, x.sha256, x.size) for x in files] == [
        (f"data/{path.name}", digest(path), 5) for path in family["files"]
    ]


def test_progeny_is_counted_and_models_are_named(ws: Workspace, family) -> None:
    with db.reading(ws.database_url) as session:
        start = references.find(session, family["links"].fingerprint)
        found = lineage.progeny(session, [start])
        nothing = lineage.progeny(session, [])
    assert found.counts == {"links": 1, "documents": 1, "checkpoint": 2}
    assert [(model.name, model.version, held) for model, held in found.models] == [
        ("m", 1, ["champion"])
    ]
    assert (nothing.counts, nothing.models) == ({}, [])


@pytest.mark.parametrize("how", ["sha256", "name", "path", "together"])
def test_a_file_is_found_in_every_way(ws: Workspace, family, how: str) -> None:
    path = family["files"][0]
    text = {"sha256": digest(path), "name": "a.zst", "path": "data/a.zst"}.get(how, family["data"])
    with db.reading(ws.database_url) as session:
        found = lineage.find_inputs(session, text)
        made = lineage.made_from_data(session, {x.data for x in found})
    assert "data/a.zst" in [x.path for x in found]
    assert [row.fingerprint for row in made] == [family["links"].fingerprint]


def test_other_files_of_the_name_are_not_meant(ws: Workspace, family) -> None:
    with db.reading(ws.database_url) as session:
        assert lineage.find_inputs(session, "other/a.zst") == []


ASKED: dict[str, Callable[[Any], Any]] = {
    "fingerprint": lambda s: catalogue.match_artifacts(s, "abcd"),
    "kind/name": lambda s: references.find(s, "links/sample"),
    "kind/name@": lambda s: catalogue.match_artifacts(s, "abcd", kind="links", name="sample"),
    "model@alias": lambda s: references.find(s, "m@champion"),
    "model/version": lambda s: references.find(s, "m/1"),
    "ancestry": lambda s: lineage.ancestry(s, references.find(s, "m/1")),
    "file": lambda s: lineage.made_from_data(s, {x.data for x in lineage.find_inputs(s, "a.zst")}),
    "scores": lambda s: catalogue.leaderboard(s, fingerprint="a" * 64),
    "newest": lambda s: catalogue.list_artifacts(s, kind="links", limit=1),
    "runs": lambda s: runs.list_runs(s, limit=15),
    "dead runs": runs.interrupted_runs,
    "outbox": lambda s: outbox.count_pending(s, "mlflow"),
}


@pytest.mark.parametrize("what", ASKED)
def test_no_look_up_reads_a_whole_table(ws: Workspace, family, what: str) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _k: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            asked.append((statement, parameters))

    engine = db.engine(ws.database_url)
    event.listen(engine, "before_cursor_execute", note)
    try:
        with db.reading(ws.database_url) as session:
            ASKED[what](session)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert asked
    with engine.connect() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [str(row[3]) for row in plan]
            # a scan along an index is one that a limit ends
            scans = [x for x in steps if re.match(r"SCAN (?!CONSTANT|\(|\w+ USING)", x)]
            assert not scans, (what, statement, steps)


def test_the_walk_down_follows_the_index(ws: Workspace, family) -> None:
    walk = lineage._below([1])
    text = str(select(walk.c.id).compile(compile_kwargs={"literal_binds": True}))
    with db.engine(ws.database_url).connect() as connection:
        plan = [str(row[3]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    assert any("ix_lineage_parent_id" in step for step in plan)
    assert not any(step == "SCAN lineage" for step in plan), plan
