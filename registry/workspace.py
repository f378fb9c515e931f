"""Where a project's things are: the root, its databases, its artifacts."""

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from registry import db
from registry.files import locked

MIGRATIONS = Path(__file__).parent / "migrations"
TRACKING = "MLFLOW_TRACKING_URI"
TRACKING_DEFAULT = "TEXTMILL_TRACKING_DEFAULT"  # what environment.configure put into the former


@dataclass(frozen=True)
class Workspace:
    """One project's folders and database addresses."""

    root: Path
    database_url: str
    tracking_uri: str

    @property
    def state(self) -> Path:
        """Databases, logs, locks and the local storage (0700)."""
        return self.root / ".textmill"

    @property
    def artifacts(self) -> Path:
        """What flows make: artifacts/<kind>/<name>/<fingerprint>/."""
        return self.root / "artifacts"

    @property
    def data(self) -> Path:
        """The inputs, pinned by data.dvc."""
        return self.root / "data"

    @classmethod
    def open(cls, root: Path | None = None) -> "Workspace":
        """Open a project, creating its state and bringing its catalogue up to date.

        Raises:
            ValueError: no project found, or its catalogue cannot be opened.
        """
        root = (root or _find_root()).resolve()
        if not root.is_dir():
            raise ValueError(f"{root} is not a directory; give the project's root")
        state = root / ".textmill"
        state.mkdir(mode=0o700, exist_ok=True)
        database = os.environ.get("TEXTMILL_DATABASE_URL") or f"sqlite:///{state / 'catalogue.db'}"
        tracking = _chosen_tracking() or cls.own_tracking(root, database)
        made = cls(root=root, database_url=database, tracking_uri=tracking)
        made._upgrade()
        return made

    @staticmethod
    def own_tracking(root: Path, database_url: str) -> str:
        """Return the address of MLflow's own database: beside a PostgreSQL catalogue, or a file."""
        mlflow_db = root / ".textmill" / "mlflow.db"
        return db.beside(database_url, "mlflow") or f"sqlite:///{mlflow_db}"

    def _upgrade(self) -> None:
        """Migrate the catalogue under a lock, unless it is current already."""
        try:
            if _revision(self.database_url) == head():
                return
            with locked(self.state / "locks" / "catalogue.lock"):
                _migrate(self.database_url)
        except SQLAlchemyError as error:
            raise db.explain(self.database_url, error) from error


def head() -> str:
    """Return the newest migration's number, from its file name (0001_first.py)."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _find_root() -> Path:
    """Return TEXTMILL_ROOT, or the nearest folder upwards that has a data.dvc."""
    if named := os.environ.get("TEXTMILL_ROOT"):
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "data.dvc").is_file():
            return folder
    raise ValueError(
        f"no textmill project at {here} or above (no data.dvc); "
        "change into one, or set TEXTMILL_ROOT to its folder"
    )


def _chosen_tracking() -> str | None:
    """Return the tracking address that the user chose; not one of another project's defaults."""
    address = os.environ.get(TRACKING)
    return None if address == os.environ.get(TRACKING_DEFAULT) else address


def _revision(address: str) -> str | None:
    """Return the catalogue's migration number; None for an empty database."""
    with db.reading(address) as session:
        if not inspect(session.connection()).has_table("alembic_version"):
            return None
        query = text("SELECT version_num FROM alembic_version")
        found: str | None = session.execute(query).scalar()
        return found


def _migrate(address: str) -> None:
    """Run the missing migrations in one transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with db.engine(address).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise ValueError(
            f"the catalogue {db.redacted(address)} was made by a newer textmill ({error}); "
            "update textmill"
        ) from error
