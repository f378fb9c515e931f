"""How people name artifacts: model@alias, model/version, kind/name, kind/name@hash, hash."""

import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import catalogue
from registry.tables import Alias, Artifact, Kind, ModelVersion

KINDS = {kind.value for kind in Kind}
SHOWN = 12  # lines of "what there is" in an error


def find(session: Session, reference: str) -> Artifact:
    """Return the catalogue row that a reference means.

    Raises:
        ValueError: there is none, or more than one; the message lists what there is.
    """
    text = reference.removeprefix("models:/").strip()
    left, _, right = text.partition("@")
    first, _, second = left.partition("/")
    if second and first in KINDS:
        return _by_kind(session, first, second, right)
    if right and not second:
        return _by_alias(session, left, right)
    if second.isdecimal() and not right:
        return _by_version(session, first, int(second))
    if re.fullmatch(r"[0-9a-f]{4,64}", text):
        return _only(session, text, catalogue.match_artifacts(session, text))
    raise ValueError(
        f"{reference!r} is not a reference; write model@alias, model/version, kind/name, "
        f"kind/name@fingerprint or at least 4 digits of a fingerprint. {_offer(session)}"
    )


def _by_kind(session: Session, kind: str, name: str, prefix: str) -> Artifact:
    """Return the newest artifact of a name, or the one whose fingerprint begins so."""
    found = catalogue.match_artifacts(session, prefix, kind=kind, name=name)
    if found and not prefix:
        return found[0]
    return _only(session, f"{kind}/{name}" + (f"@{prefix}" if prefix else ""), found)


def _by_alias(session: Session, model: str, alias: str) -> Artifact:
    """Return the artifact under a model's alias."""
    version = catalogue.find_alias(session, model, alias)
    if version is None:
        raise ValueError(f"no model {model}@{alias}. {_offer(session)}")
    return version.artifact


def _by_version(session: Session, model: str, number: int) -> Artifact:
    """Return the artifact of a model version."""
    version = catalogue.find_model(session, model, number)
    if version is None:
        raise ValueError(f"no model {model}/{number}. {_offer(session)}")
    return version.artifact


def _only(session: Session, text: str, found: list[Artifact]) -> Artifact:
    """Return the one match."""
    if not found:
        raise ValueError(f"no artifact {text}. {_offer(session)}")
    if len(found) > 1:
        names = ", ".join(_name(row) for row in found[:SHOWN])
        raise ValueError(f"{text} means {len(found)} artifacts: {names}. Give more digits")
    return found[0]


def _offer(session: Session) -> str:
    """List what could have been meant."""
    aliases = select(Alias.name, Alias.alias).order_by(Alias.name, Alias.alias).limit(SHOWN)
    models = [f"{name}@{alias}" for name, alias in session.execute(aliases)]
    versions = select(ModelVersion.name, ModelVersion.version).limit(SHOWN)
    newest = versions.order_by(ModelVersion.name, ModelVersion.version.desc())
    models += [f"{name}/{version}" for name, version in session.execute(newest)]
    rows = [_name(row) for row in catalogue.list_artifacts(session, limit=SHOWN)]
    there = (models[:SHOWN] + rows)[: 2 * SHOWN]
    return "There is: " + ", ".join(there) if there else "The catalogue is empty: run a flow first"


def _name(row: Artifact) -> str:
    """Return an artifact's full reference."""
    return f"{row.kind}/{row.name}@{row.fingerprint[:12]}"
