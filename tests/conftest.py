"""What every test may ask for: the sample data, and the richer data beside the checkout."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The sample set under DVC (`make data` brings it)."""
    folder = ROOT / "data"
    if not (folder / "web").is_dir():
        pytest.fail("data/ is not there: run `make data` (dvc pull) first")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The larger development set; lies beside the checkout on developers' machines only."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not here (larger development data)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the registry's tests first: they fork.

    A fork of a process in which flows have left threads may inherit a lock that nobody releases.
    """
    items.sort(key=lambda item: not item.path.is_relative_to(ROOT / "tests" / "registry"))
