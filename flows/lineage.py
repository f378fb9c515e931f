"""What something was made from, as a tree a person can read."""

from collections import defaultdict

from rich.tree import Tree

from flows.charts import holds
from registry import artifacts, catalogue, db
from registry.catalogue import Edge
from registry.tables import Artifact
from registry.workspace import Workspace


def tree(workspace: Workspace, reference: str) -> Tree:
    """Return the ancestors of an artifact or model version, newest at the root.

    Raises:
        ValueError: the reference names nothing in the catalogue.
    """
    fingerprint = artifacts.look_up(workspace, reference).fingerprint
    with db.reading(workspace.database_url) as session:
        root = catalogue.find_artifact(session, fingerprint)
        assert root is not None
        below: dict[int, list[Edge]] = defaultdict(list)
        for edge in catalogue.ancestors(session, fingerprint):
            below[edge.child.id].append(edge)
        top = Tree(f"[bold]{reference}[/bold]" if reference != fingerprint else "lineage")
        _grow(top.add(_label(root)), root, below, {root.id})
    return top


def _grow(node: Tree, artifact: Artifact, below: dict[int, list[Edge]], shown: set[int]) -> None:
    for edge in sorted(below[artifact.id], key=lambda edge: edge.role):
        if edge.parent is None:
            node.add(f"[cyan]{edge.role}[/cyan] input files, sha256 {(edge.data or '')[:12]}")
            continue
        known = edge.parent.id in shown
        shown.add(edge.parent.id)
        branch = node.add(
            f"[cyan]{edge.role}[/cyan] {_label(edge.parent)}" + (" [dim](above)[/dim]" * known)
        )
        if not known:
            _grow(branch, edge.parent, below, shown)


def _label(artifact: Artifact) -> str:
    told = holds(artifact.counts)
    return (
        f"[bold]{artifact.kind} {artifact.name}[/bold] {artifact.fingerprint[:12]} "
        f"[dim]{artifact.created:%Y-%m-%d %H:%M} · data {artifact.data_version[:8]} · "
        f"commit {artifact.git_commit[:8]}{' · ' + told if told else ''}[/dim]"
    )
