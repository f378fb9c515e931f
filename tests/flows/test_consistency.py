"""What `doctor` finds where the stores differ, and what `--fix` makes of it."""

import shutil
from pathlib import Path

import httpx
import pytest

from flows import consistency
from registry import artifacts, catalogue, db, gc, projection, storage
from registry.tables import Run, Status
from registry.workspace import Workspace
from tests.registry.conftest import make, start_run


@pytest.fixture
def ws(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Workspace.open(tmp_path)
    monkeypatch.setitem(projection._silent_until, made.tracking_uri, float("inf"))
    return made


def objects(ws: Workspace) -> list[Path]:
    return [path for path in (ws.state / "storage").rglob("*") if path.is_file()]


def test_storage_is_tried_and_left_as_it_was(ws):
    make(ws)
    before = objects(ws)
    assert consistency.storage_check(ws).good
    assert objects(ws) == before
    shutil.rmtree(ws.state / "storage")
    (ws.state / "storage").write_text("a file where the folder was")
    check = consistency.storage_check(ws)
    assert not check.good and str(ws.state / "storage") in check.found and check.mend


@pytest.mark.parametrize("suffix", ["", ".dir"], ids=["a file", "the listing"])
def test_what_the_storage_lost_is_named_and_sent_again(ws, suffix):
    kept = make(ws, name="kept", config={"n": 1}, files={"k": b"1"})
    hurt = make(ws, config={"n": 2}, files={"h": b"22"})
    assert consistency.published_check(ws).good
    listing = hurt.dvc_md5
    lost = [path for path in objects(ws) if (path.parent.name + path.name) == listing]
    if not suffix:
        lost = [path for path in objects(ws) if path.read_bytes() == b"22"]
    assert len(lost) == 1
    lost[0].unlink()
    assert storage.missing(ws) == {hurt.fingerprint: 1}
    check = consistency.published_check(ws)
    assert not check.good and hurt.fingerprint[:12] in check.found
    assert kept.fingerprint[:12] not in check.found
    consistency.send_missing(ws)
    assert consistency.published_check(ws).good


def test_what_gc_gave_up_is_not_missed(ws):
    make(ws, name="kept", config={"n": 1}, files={"k": b"1"})
    old = make(ws, name="a", config={"n": 2}, files={"h": b"22"})
    make(ws, name="a", config={"n": 3}, files={"h": b"33"})
    assert [item.what for item in gc.collect(ws, gc.Places(storage=True))]
    with db.reading(ws.database_url) as session:
        assert catalogue.find_artifact(session, old.fingerprint).removed
    assert consistency.published_check(ws).good


def test_a_damaged_copy_is_not_sent(ws):
    made = make(ws, files={"h": b"22"})
    for path in [*objects(ws), *(ws.state / "dvc" / ".dvc" / "cache").rglob("*")]:
        if path.is_file():
            path.unlink()
    (made.path / "h").chmod(0o644)
    (made.path / "h").write_bytes(b"23")
    consistency.send_missing(ws)
    assert storage.missing(ws) == {made.fingerprint: 1}


def test_fix_marks_the_dead_and_no_one_else(ws, monkeypatch):
    rows = tuple(row for row in consistency.CHECKS if row[0] is consistency.dead_check)
    monkeypatch.setattr(consistency, "CHECKS", rows)
    dead, alive = start_run(ws, pid_started=1), start_run(ws)
    (found,) = consistency.examine_state(ws)
    assert not found.good and found.found.startswith("1 runs died") and "--fix" in found.mend
    (found,) = consistency.examine_state(ws, fix=True)
    assert found.good
    with db.reading(ws.database_url) as session:
        assert session.get(Run, dead).status == Status.INTERRUPTED
        assert session.get(Run, alive).status == Status.RUNNING


def test_who_does_not_answer_is_a_finding_and_no_traceback():
    def ask():
        raise ConnectionError("refused\nlong story")

    check = consistency._asked("aliases", ask)
    assert check == consistency.Check("aliases", False, "does not answer: refused", "textmill up")


def test_late_runs_are_named_with_what_mends_them(ws, monkeypatch):
    late = [{"name": "blue-owl", "work_pool_name": "gpu"}]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "hangs":
            raise httpx.ReadTimeout("timed out")
        assert request.url.path == "/api/flow_runs/filter" and b'["Late"]' in request.content
        return httpx.Response(200, json=late)

    def client(_, services):
        return httpx.Client(base_url=services["prefect"], transport=httpx.MockTransport(answer))

    monkeypatch.setattr(consistency.reaper, "prefect_client", client)
    assert consistency.late_check(ws).good  # no server, nobody is asked
    monkeypatch.setattr(consistency, "running_services", lambda _: {"prefect": "http://up/api"})
    check = consistency.late_check(ws)
    assert not check.good and check.found == "blue-owl waits for a worker of gpu"
    assert "textmill worker --pool" in check.mend
    late.clear()
    assert consistency.late_check(ws).good
    monkeypatch.setattr(consistency, "running_services", lambda _: {"prefect": "http://hangs/api"})
    assert "does not answer" in consistency.late_check(ws).found


def test_names_of_ours_refuse_every_spelling(ws):
    from tests.flows.test_live_servers import spellings

    assert len(spellings()) >= 40
    for name in spellings():
        with pytest.raises(ValueError, match="not allowed"):
            artifacts.path_of(ws, "tokens", name, "a" * 64)
