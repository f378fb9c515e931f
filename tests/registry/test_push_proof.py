"""R15: nothing counts as published with an object missing, whenever a push is killed.

`dvc push`, killed while it collects and run again, reported success with up to 1,500 of 1,501
objects missing (DVC 3.67.1). Sizes: TEXTMILL_PUSH_KILLS (100; about 4 s each on two shared cores),
TEXTMILL_PUSH_FILES (1,500).
"""

import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import artifacts, catalogue, db, exchange, objects, projection, records, versions
from registry.workspace import Workspace

FORK = multiprocessing.get_context("fork")
KILLS = int(os.environ.get("TEXTMILL_PUSH_KILLS", "100"))
FILES = int(os.environ.get("TEXTMILL_PUSH_FILES", "1500"))
EARLY = 0.25  # of the time that it takes: where DVC collects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def contents(n: int = 0) -> dict[str, bytes]:
    return {f"{i % 7}/{i}.bin": f"{n} {i} ".encode() * 100 for i in range(FILES)}


def test_three_bad_objects_of_1500_are_found_named_and_mended(ws: Workspace, make) -> None:
    made = make(ws, files=contents())
    remote = objects.remote(ws)
    listed = objects.entries([remote], made.dvc_md5)
    assert len(listed) == FILES + 1  # and the manifest
    chosen = random.Random(0).sample(listed, 3)
    missing, flipped, cut = (Path(remote.oid_to_path(oid)) for _, oid in chosen)
    missing.unlink()
    for path, change in ((flipped, 7), (cut, None)):
        data = bytearray(path.read_bytes())
        path.chmod(0o644)
        if change is None:
            path.write_bytes(data[:-1])
        else:
            data[len(data) // 2] ^= change
            path.write_bytes(data)
        path.chmod(0o444)  # which DVC takes for "trusted"
    (found,) = exchange.damage(ws)
    assert "1 missing" in found.error and "2 damaged" in found.error
    for relative, oid in chosen:
        assert f"{relative} {oid[:12]}" in found.error
    mended = next(moved.done for moved in exchange.push(ws))
    assert mended.startswith("mended ") and all(oid[:12] in mended for _, oid in chosen)
    assert versions.verify(ws, made.dvc_md5) == {}
    assert [moved.error for moved in exchange.damage(ws)] == [""]


def published(ws: Workspace) -> list[str]:
    """Return the listings of what counts as published: by the catalogue, by the storage."""
    with db.reading(ws.database_url) as session:
        rows = [row.dvc_md5 for row in catalogue.list_artifacts(session)]
    return rows + there(ws)


def killed(work: Callable[[], object], seconds: float) -> bool:
    """Run something in a process of its own and kill that; say whether it was still at it."""
    process = FORK.Process(target=work)
    process.start()
    time.sleep(seconds)
    process.kill()
    process.join()
    return process.exitcode != 0


@pytest.mark.parametrize("how", ["publish", "push"])
def test_a_killed_push_never_counts_as_published(
    tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    draw, interrupted, whole = random.Random(how), 0, 0.0
    for n in range(-1, KILLS // 2):
        root = tmp_path / str(n)
        root.mkdir()
        ws = Workspace.open(root)
        monkeypatch.setitem(projection._silent_until, ws.tracking_uri, float("inf"))
        if how == "push":
            make(ws, files=contents(n))
            shutil.rmtree(ws.state / "storage")  # as after a move to a new, empty storage

        def work(ws: Workspace = ws, n: int = n) -> None:
            make(ws, files=contents(n)) if how == "publish" else list(exchange.push(ws))

        if n < 0:  # nobody kills the first one: it says how long it takes
            begin = time.monotonic()
            process = FORK.Process(target=work)
            process.start()
            process.join()
            assert process.exitcode == 0
            whole = time.monotonic() - begin
            continue
        interrupted += killed(work, draw.uniform(0, whole * (EARLY if n % 2 else 1)))
        for md5 in published(ws) if how == "publish" else there(ws):
            assert versions.verify(ws, md5) == {}, f"kill {n}: published with bad objects"
        work()
        assert len(set(published(ws))) == 1
        assert versions.verify(ws, published(ws)[0]) == {}
        assert artifacts.checkout(ws, "tokens/sample").n_files == FILES + 1
        shutil.rmtree(root)
    assert interrupted > KILLS // 4, "the kills came too late to prove anything"


def there(ws: Workspace) -> list[str]:
    """Return the listings of what counts as published at the storage."""
    places = records.list_names(ws, records.ARTIFACTS)
    found = (records.get(ws, place, records.ArtifactRecord) for place in places)
    return [record.dvc_md5 for record in found if record is not None]
