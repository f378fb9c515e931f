"""Finding things at the storage by the names that people give: the references of an empty clone."""

import re
from dataclasses import dataclass

from registry import objects, records
from registry.files import check_name
from registry.objects import StorageError
from registry.records import ALIASES, ARTIFACTS, MODELS, AliasRecord, ArtifactRecord, ModelRecord
from registry.references import KINDS
from registry.workspace import Workspace

SHOWN = 12  # names of "what there is" in an error


@dataclass(frozen=True)
class Found:
    """What a reference means at the storage."""

    record: ArtifactRecord
    model: ModelRecord | None = None
    alias: AliasRecord | None = None


def find(ws: Workspace, reference: str) -> Found | None:
    """Return what a reference means at the storage; None if nothing there has that name.

    References are those of `artifacts.checkout`.

    Raises:
        ValueError: it means more than one artifact, or is none.
        StorageError: a record that it needs is missing or damaged.
    """
    text = reference.removeprefix("models:/").strip()
    left, _, right = text.partition("@")
    first, _, second = left.partition("/")
    if second and first in KINDS:
        return _newest(ws, f"{first}/{check_name(second)}", right)
    if right and not second:
        return _by_alias(ws, check_name(left), check_name(right))
    if second.isdecimal() and not right:
        return _by_version(ws, check_name(first), int(second))
    if re.fullmatch(r"[0-9a-f]{4,64}", text):
        return _only(ws, text, _starting(ws, ARTIFACTS, text))
    raise ValueError(
        f"{reference!r} is not a reference; write model@alias, model/version, kind/name, "
        "kind/name@fingerprint or at least 4 digits of a fingerprint"
    )


def list_aliases(ws: Workspace) -> list[str]:
    """Return model@alias for every alias at the storage.

    Raises:
        ValueError: there is none.
    """
    found = [place.split("/")[1:] for place in records.list_names(ws, ALIASES)]
    if not found:
        raise ValueError(
            f"the storage {objects.place(ws)[1]} holds no models. Where they are: textmill push; "
            f"is it another storage? dvc remote add --local -f {objects.REMOTE} ADDRESS"
        )
    return [f"{name}@{alias}" for name, alias in found]


def lineage(ws: Workspace, record: ArtifactRecord) -> list[ArtifactRecord]:
    """Return the records of all that an artifact was made from, and its own: parents first.

    Raises:
        StorageError: one is missing or damaged.
    """
    done: dict[str, ArtifactRecord] = {}
    told = record.told
    waiting = [records.address(told.kind, told.name, told.fingerprint)]
    read = {waiting[0]: record}
    while waiting:
        where = waiting[-1]
        here = read.setdefault(where, read.get(where) or _get(ws, where))
        missing = [parent for parent in here.parents if parent not in done]
        if set(missing) & set(waiting):
            raise StorageError(f"{where} is said to be made from itself: not a record of textmill")
        if missing:
            waiting += missing[:1]
        else:
            done[waiting.pop()] = here
    return list(done.values())


def _get(ws: Workspace, where: str) -> ArtifactRecord:
    """Read an artifact's record that must be there."""
    found = records.get(ws, where, ArtifactRecord)
    if found is None:
        raise StorageError(
            f"the storage {objects.place(ws)[1]} has no record of {where}; "
            "write it where the artifact is: textmill push"
        )
    return found


def _newest(ws: Workspace, name: str, prefix: str) -> Found | None:
    """Return the newest artifact of kind/name, or the one whose fingerprint begins so."""
    places = _starting(ws, f"{ARTIFACTS}/{name}", prefix)
    if prefix or not places:
        return _only(ws, f"{name}@{prefix}", places)
    return Found(max((_get(ws, place) for place in places), key=lambda record: record.created))


def _by_alias(ws: Workspace, model: str, alias: str) -> Found | None:
    """Return the version under an alias."""
    record = records.get(ws, f"{ALIASES}/{model}/{alias}", AliasRecord)
    return None if record is None else _version(ws, model, record.holders[-1].fingerprint, record)


def _by_version(ws: Workspace, model: str, number: int) -> Found | None:
    """Return a version by its number where it was registered."""
    for place in records.list_names(ws, f"{MODELS}/{model}"):
        record = records.get(ws, place, ModelRecord)
        if record is not None and record.version == number:
            return _version(ws, model, record.fingerprint, None)
    return None


def _version(ws: Workspace, model: str, fingerprint: str, alias: AliasRecord | None) -> Found:
    """Return the version that a checkpoint is of a model."""
    record = records.get(ws, f"{MODELS}/{model}/{fingerprint}", ModelRecord)
    if record is None:
        raise StorageError(
            f"the storage {objects.place(ws)[1]} has no record of {model} {fingerprint[:12]}; "
            "write it where the model is: textmill push"
        )
    artifact = _get(ws, records.address(record.kind, record.artifact, fingerprint))
    return Found(artifact, record, alias)


def _starting(ws: Workspace, folder: str, prefix: str) -> list[str]:
    """Return the records below a folder whose fingerprint begins so."""
    places = records.list_names(ws, folder)
    return [place for place in places if place.rpartition("/")[2].startswith(prefix)]


def _only(ws: Workspace, text: str, places: list[str]) -> Found | None:
    """Return the one match."""
    if len(places) > 1:
        raise ValueError(
            f"{text} means {len(places)} artifacts at the storage: "
            f"{', '.join(places[:SHOWN])}. Give more digits"
        )
    return Found(_get(ws, places[0])) if places else None
