"""manifest.json: what an artifact is and what its files must be, byte for byte."""

import json
from pathlib import Path
from typing import Any

from registry.files import digest, list_files, write_whole

MANIFEST = "manifest.json"


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a folder's manifest; equal values are equal bytes."""
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_whole(folder / MANIFEST, text.encode() + b"\n")


def read(folder: Path) -> dict[str, Any] | None:
    """Read a folder's manifest; None if it is missing or damaged."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def hash_files(work: Path) -> dict[str, Any]:
    """Hash a work folder's files, dropping the half files of killed tries."""
    table: dict[str, Any] = {}
    for file in list_files(work):
        relative = file.relative_to(work).as_posix()
        if file.suffix == ".tmp":
            file.unlink()
        elif relative != MANIFEST:
            table[relative] = {"size": file.stat().st_size, "sha256": digest(file)}
    if not table:
        raise ValueError(f"{work} holds no files: nothing to publish")
    return table


def damage(folder: Path, manifest: dict[str, Any] | None, *, verify: bool) -> str:
    """Say what differs between a folder and its manifest: names and sizes, hashes if asked."""
    if manifest is None:
        return "no manifest"
    if not folder.is_dir():
        return "not here"
    if read(folder) != manifest:
        return f"{MANIFEST} differs from the catalogue"
    sizes = {
        file.relative_to(folder).as_posix(): file.stat().st_size for file in list_files(folder)
    }
    sizes.pop(MANIFEST)
    table = manifest["files"]
    for name in sorted(sizes.keys() | table.keys()):
        if sizes.get(name) != table.get(name, {}).get("size"):
            want = table.get(name, {}).get("size")
            return f"{name} has {sizes.get(name)} bytes, want {want} (None: not there)"
        if verify and digest(folder / name) != table[name]["sha256"]:
            return f"{name} sha256 mismatch"
    return ""
