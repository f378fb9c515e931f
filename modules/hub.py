"""Bring a public data set's rows below the data folder, as `datasets` gives them.

Each split is a file of its own, whole or absent; origin.json beside them says which revision of
the hub's repository they are from, and under which licence. No script from the hub is run.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modules.files import Progress, sha256, silent, write_json, write_jsonl
from modules.rows import Row, find_rows
from modules.task import Task, data_path, how_to_get

log = logging.getLogger(__name__)

ORIGIN = "origin.json"


def download(task: Task, data: Path, progress: Progress = silent) -> dict[str, Path]:
    """Bring the splits of a task that are not there yet; return the file of each.

    Raises:
        FileNotFoundError: the task's rows are on no hub; says where they are.
        ValueError: `datasets` or the hub cannot be had; says how to do it by hand.
    """
    paths = {split: data_path(task, data, split) for split in task.splits or ("test",)}
    missing = sorted({path for path in paths.values() if not is_there(path)})
    if missing and (task.by_hand or not task.hub):
        raise FileNotFoundError(f"{missing[0]} is not there; {how_to_get(task)}")
    for done, path in enumerate(missing):
        progress(done, len(missing), path.name)
        bring(task, path)
    return {split: find_rows(path) for split, path in paths.items()}


def splits_there(task: Task, data: Path) -> list[str]:
    """Return the splits of a task that have a file of rows."""
    return [s for s in task.splits or ("test",) if is_there(data_path(task, data, s))]


def is_there(path: Path) -> bool:
    """Return whether a split has a file of rows, whoever put it there."""
    try:
        return bool(find_rows(path))
    except FileNotFoundError:
        return False


def bring(task: Task, path: Path) -> None:
    """Write the rows of the hub's split `path.name`, and where they are from."""
    hub, _, config = str(task.hub).partition(" ")
    try:
        origin = origin_of(hub)
        rows = split_of(hub, config or None, path.name, origin["revision"])
        file = path.with_name(path.name + ".jsonl.zst")
        count = write_jsonl(file, rows)
    except ImportError:
        raise ValueError(
            f"task {task.name}: the package datasets is not installed "
            f"(pip install 'textmill[hub]'); or by hand: {by_hand(task, path)}"
        ) from None
    except Exception as error:  # whatever `datasets` and the network under it raise: no one base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"task {task.name}: {path.name} of {task.hub} cannot be had ({reason:.200}); "
            f"try again, or by hand: {by_hand(task, path)}"
        ) from error
    log.info("%s: %d rows of %s at revision %s", file, count, task.hub, origin["revision"])
    add_origin(path.parent / ORIGIN, {"hub": task.hub, **origin}, file, count)


def by_hand(task: Task, path: Path) -> str:
    """Return how to do without the hub."""
    return (
        f"put {path.name}.jsonl, .csv, .tsv or .parquet with the columns "
        f"{', '.join(task.columns)} into {path.parent}"
    )


def origin_of(hub: str) -> dict[str, Any]:
    """Return a hub repository's newest revision and its licence."""
    from huggingface_hub import HfApi

    about = HfApi().dataset_info(hub)
    card = about.card_data.to_dict() if about.card_data else {}
    return {"revision": about.sha, "licence": card.get("license", "not stated")}


def split_of(hub: str, config: str | None, split: str, revision: str) -> Iterable[Row]:
    """Return the rows of a split at a revision, labels as the hub's numbers."""
    import datasets

    found: Iterable[Row] = datasets.load_dataset(hub, config, split=split, revision=revision)
    return found


def add_origin(path: Path, origin: dict[str, Any], file: Path, rows: int) -> None:
    """Note where a file is from, beside what is noted already."""
    known = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, known | {file.name: {**origin, "rows": rows, "sha256": sha256(file)}})
