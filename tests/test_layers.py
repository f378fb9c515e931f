"""Each big package has one home, imports point one way, and flows import fast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "modules", "registry")

# package -> what nothing in it may import
FORBIDDEN = {
    "modules": {"prefect", "mlflow", "dvc", "dvc_data", "sqlalchemy", "registry", "flows"},
    "registry": {"prefect", "torch", "lightning", "modules", "flows"},
    "flows": {"torch", "lightning", "mlflow", "dvc", "dvc_data", "sqlalchemy", "alembic"},
}
# The served models' files need torch's side and MLflow's; doctor asks torch which device there is.
EXCEPTIONS = {
    "registry/pyfunc_model.py": {"modules", "torch"},
    "registry/pyfunc_tuned.py": {"modules"},
    "flows/doctor.py": {"torch"},
    "flows/cli_serve.py": {"torch"},  # its threads are a process's, not a model's
}


def imports(path: Path) -> set[str]:
    """Return the top-level packages a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    relative = path.relative_to(ROOT)
    allowed = EXCEPTIONS.get(str(relative), set())
    assert not imports(path) & FORBIDDEN[relative.parts[0]] - allowed


def test_no_pickle_on_any_path():
    for path in FILES:
        assert not imports(path) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, path


def test_flows_import_without_the_heavy_packages():
    heavy = ["torch", "lightning", "mlflow", "matplotlib", "dvc", "sklearn"]
    code = (
        "import sys, flows.reproduce, flows.study_ablation, flows.study_heuristics\n"
        "import flows.study_layers, flows.study_results, flows.cli, flows.services\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_packages_are_listed():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(settings["tool"]["setuptools"]["packages"])
    there = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == there
