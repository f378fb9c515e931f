"""The `dvc://` scheme of MLflow: a model version's files, read from DVC and verified.

`dvc:///model/NAME/FINGERPRINT` is a packaged model (registry/served.py) with the weights of its
checkpoint shown inside. Lists come from the manifests in the catalogue and touch no bytes. Files
come from the workspace if they are there and sound, else from the storage remote; what is handed
out has the manifest's sha256, so a flipped byte is mended from the remote or refused by name.

pyproject.toml makes this class MLflow's `mlflow.artifact_repository` for `dvc`, in every process
that imports mlflow: so textmill itself is imported only when a file is asked for.
"""

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import mlflow
from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DATA_LOSS,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.artifact.artifact_repo import ArtifactRepository

if TYPE_CHECKING:
    from registry.artifacts import Artifact
    from registry.workspace import Workspace

SCHEME = "dvc"
STORE = ".textmill/mlflow.db"  # where a project without a server keeps MLflow's tables


@dataclass(frozen=True)
class File:
    """One file of a version: which artifact has it, under which name, and what it must be."""

    artifact: "Artifact"
    name: str
    size: int
    sha256: str


class DvcArtifactRepository(ArtifactRepository):
    """Reads the files of one model version; nothing is written through it."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        parts = urlsplit(artifact_uri)
        names = PurePosixPath(parts.path).parts
        # only packaged models: who may make versions in MLflow may not read all of the project
        if parts.scheme != SCHEME or parts.netloc or names[1:2] != ("model",) or len(names) != 4:
            raise MlflowException(
                f"{artifact_uri!r} is not dvc:///model/NAME/FINGERPRINT", INVALID_PARAMETER_VALUE
            )
        self.reference = f"{names[1]}/{names[2]}@{names[3]}"

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return files and folders directly under a path, from the catalogue's manifests."""
        prefix = f"{path.rstrip('/')}/" if path else ""
        found: dict[str, int | None] = {}
        for name, file in self.files.items():
            if name.startswith(prefix):
                first, _, rest = name.removeprefix(prefix).partition("/")
                found[prefix + first] = None if rest else file.size
        return [FileInfo(name, size is None, size) for name, size in sorted(found.items())]

    @cached_property
    def files(self) -> dict[str, File]:
        """Return every file by its path in the version's folder."""
        from registry import artifacts, served

        try:
            model = artifacts.look_up(self.workspace, self.reference)
            weights = artifacts.look_up(self.workspace, model.inputs[served.WEIGHTS])
        except (ValueError, KeyError) as error:
            raise MlflowException(
                f"{self.artifact_uri}: {error}", RESOURCE_DOES_NOT_EXIST
            ) from None
        return self._manifest(model, "") | self._manifest(weights, f"{served.MOUNT}/")

    @cached_property
    def workspace(self) -> "Workspace":
        """Open the project: TEXTMILL_ROOT, the one whose MLflow store is asked, or here."""
        from registry.workspace import Workspace

        store = self.tracking_uri or mlflow.get_tracking_uri()
        root = None
        if store.startswith("sqlite:///") and store.endswith(f"/{STORE}"):
            root = Path(store.removeprefix("sqlite:///").removesuffix(f"/{STORE}"))
        return Workspace.open(None if os.environ.get("TEXTMILL_ROOT") else root)

    def _manifest(self, artifact: "Artifact", prefix: str) -> dict[str, File]:
        """Return an artifact's files as the catalogue has them."""
        from registry import catalogue, db

        with db.reading(self.workspace.database_url) as session:
            row = catalogue.find_artifact(session, artifact.fingerprint)
            assert row is not None, "looked up just now"
            table = row.manifest["files"]
        return {prefix + k: File(artifact, k, v["size"], v["sha256"]) for k, v in table.items()}

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """Copy a file out, verified; where it is missing or damaged here, bring it back first."""
        from registry import artifacts
        from registry.versions import StorageError

        file = self.files.get(remote_file_path)
        if file is None:
            raise MlflowException(
                f"{self.artifact_uri} has no file {remote_file_path!r}", RESOURCE_DOES_NOT_EXIST
            )
        if _copy(file, Path(local_path)):
            return
        try:
            artifacts.checkout(self.workspace, file.artifact.fingerprint)
        except StorageError as error:
            raise MlflowException(f"{remote_file_path}: {error}", DATA_LOSS) from None
        if not _copy(file, Path(local_path)):
            where = file.artifact.path / file.name
            raise MlflowException(f"{where} changes while it is read", DATA_LOSS)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Refuse: versions are made by `textmill promote`."""
        raise MlflowException(f"{self.artifact_uri} is read only", INVALID_PARAMETER_VALUE)

    log_artifacts = log_artifact


def _copy(file: File, target: Path) -> bool:
    """Copy a file from the workspace; say whether the copy is what it must be."""
    from registry.files import digest

    try:
        shutil.copyfile(file.artifact.path / file.name, target)
    except FileNotFoundError:
        return False
    if digest(target) == file.sha256:
        return True
    target.unlink()
    return False
