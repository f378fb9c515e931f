"""What something was made from: as a tree a person can read, and as JSON."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from rich.tree import Tree

from flows.charts import holds
from registry import db, lineage, references
from registry.catalogue import Edge
from registry.lineage import Ancestry
from registry.tables import Artifact, InputFile
from registry.workspace import Workspace

MANY = 4  # input files named of one fingerprint in the tree; JSON and picture have them all


def read(workspace: Workspace, reference: str) -> Ancestry:
    """Return everything an artifact or model version was made from.

    Raises:
        ValueError: the reference names nothing in the catalogue.
    """
    with db.reading(workspace.database_url) as session:
        return lineage.ancestry(session, references.find(session, reference))


def tree(workspace: Workspace, reference: str) -> Tree:
    """Return the ancestors of an artifact or model version, newest at the root."""
    return tree_of(read(workspace, reference), reference)


def tree_of(found: Ancestry, reference: str) -> Tree:
    """Return an ancestry as a tree; what has its place already is not drawn again."""
    below: dict[int, list[Edge]] = defaultdict(list)
    for edge in found.edges:
        below[edge.child.id].append(edge)
    top = Tree(f"[bold]{reference}[/bold]")
    _grow(top.add(_label(found, found.root)), found, found.root, below, {found.root.id})
    return top


def _grow(
    node: Tree, found: Ancestry, artifact: Artifact, below: dict[int, list[Edge]], shown: set[int]
) -> None:
    for edge in sorted(below[artifact.id], key=lambda edge: edge.role):
        role = f"[cyan]{edge.role}[/cyan]"
        if edge.parent is None:
            branch = node.add(f"{role} input files, sha256 {(edge.data or '')[:12]}")
            files = found.files.get(edge.data or "", [])
            for line in _named(files):
                branch.add(f"[dim]{line}[/dim]")
            continue
        if edge.parent.id in shown:
            same = f"{edge.parent.kind} {edge.parent.name} {edge.parent.fingerprint[:12]}"
            node.add(f"{role} {same} [dim](above)[/dim]")
            continue
        shown.add(edge.parent.id)
        branch = node.add(f"{role} {_label(found, edge.parent)}")
        _grow(branch, found, edge.parent, below, shown)


def _named(files: list[InputFile]) -> list[str]:
    """Return the first input files, and how many more there are."""
    left = len(files) - MANY
    lines = [f"{x.path} {x.sha256[:12]}, {x.size / 1e6:.1f} MB" for x in files[:MANY]]
    return [*lines, *([f"and {left:,} more"] if left > 0 else [])]


def _label(found: Ancestry, artifact: Artifact) -> str:
    told = holds(artifact.counts)
    run = f" · run {artifact.run_id}" if artifact.run_id in found.runs else ""
    return (
        f"[bold]{artifact.kind} {artifact.name}[/bold] {artifact.fingerprint[:12]} "
        f"[dim]{artifact.created:%Y-%m-%d %H:%M} · data {artifact.data_version[:8]} · "
        f"commit {artifact.git_commit[:8]}{run}{' · ' + told if told else ''}[/dim]"
    )


def as_json(found: Ancestry, reference: str, services: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an ancestry as JSON: artifacts with their runs, edges, input files."""
    return {
        "reference": reference,
        "root": found.root.fingerprint,
        "models": [f"{model.name}/{model.version}" for model in found.models],
        "artifacts": [_facts(found, x, services) for x in found.artifacts],
        "edges": [
            {
                "from": edge.parent.fingerprint if edge.parent else edge.data,
                "to": edge.child.fingerprint,
                "role": edge.role,
            }
            for edge in found.edges
        ],
        "inputs": {
            data: [{"path": x.path, "sha256": x.sha256, "size": x.size} for x in files]
            for data, files in found.files.items()
        },
    }


def _facts(
    found: Ancestry, artifact: Artifact, services: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return all that the catalogue says of an artifact and of the run that made it."""
    names = ("kind", "name", "fingerprint", "config", "counts", "size", "n_files", "dvc_md5")
    versions = ("code_version", "git_commit", "data_version")
    return {
        **{name: getattr(artifact, name) for name in (*names, *versions)},
        "created": artifact.created.isoformat(),
        "libraries": artifact.manifest.get("libraries", {}),
        "files": artifact.manifest["files"],
        "run": _run(found, artifact.run_id, services),
    }


def _run(
    found: Ancestry, run_id: str | None, services: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return what is known of the run that made an artifact, with links where servers are up."""
    run = found.runs.get(run_id or "")
    if run is None:
        return None
    known = {
        "id": run.id,
        "stage": run.stage,
        "flow_run": run.flow_run_id,
        "mlflow_run": run.mlflow_run_id,
    }
    return known | links(run.flow_run_id, run.mlflow_run_id, services)


def links(
    flow_run: str | None, mlflow_run: str | None, services: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return the addresses of a run's pages in the UIs that are up."""
    if services is None:
        return {}
    prefect = str(services["prefect"]).removesuffix("/api")
    pages = {
        "flow_run_page": flow_run and f"{prefect}/runs/flow-run/{flow_run}",
        "mlflow_run_page": mlflow_run and f"{services['mlflow']}/#/runs/{mlflow_run}",
    }
    return {name: page for name, page in pages.items() if page}
