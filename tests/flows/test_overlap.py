"""The overlap flow: a table for a published corpus, made once."""

import json

from modules.corpus.document import Document, document_id, shard_path, write_documents
from modules.corpus.overlap import OverlapConfig
from modules.corpus.splits import TokensConfig
from modules.files import read_jsonl
from registry import artifacts
from registry.tables import Kind
from registry.workspace import Workspace

ALL_TRAIN = TokensConfig(val_fraction=0, test_fraction=0)


def test_the_table_of_a_corpus_is_published_once(prefect_server, in_project):
    from flows.overlap import overlap
    from flows.settings import enter

    workspace: Workspace = enter()
    passages = [
        row["text"] for row in read_jsonl(in_project / "data/zeroshot/lambada_like.jsonl.zst")
    ]
    with artifacts.workdir(workspace, Kind.DOCUMENTS, "small", "f" * 64, wait=True) as work:
        write_documents(
            shard_path(work, 0),
            [Document(document_id(str(i)), text) for i, text in enumerate(passages[::2])],
        )
        artifacts.publish(
            workspace,
            work,
            kind=Kind.DOCUMENTS,
            name="small",
            fingerprint="f" * 64,
            config={},
            inputs={},
            counts={},
            run_id=None,
        )
    chosen = {
        "config": OverlapConfig(
            random_strings=1000, tokens={"val_fraction": 0, "test_fraction": 0}
        ),
        "name": "small",
        "documents": "documents/small",
        "task_names": ("lambada_like", "winograd_like", "verse_pairs"),
        "workers": 1,
    }
    made = overlap(**chosen)
    lambada, winograd, verses = made["data_sets"]
    assert lambada["items_with_any"] >= len(passages) / 2
    assert 0.4 < lambada["corpus"] < 0.6
    assert winograd["corpus"] == 0 and winograd["own_train"] is None
    assert verses["own_train"] > 0
    again = overlap(**chosen)
    assert again == made
    table = artifacts.checkout(workspace, "report/small-overlap")
    assert table.fingerprint == made["fingerprint"]
    assert json.loads((table.path / "overlap.json").read_text())["data_sets"] == made["data_sets"]
    assert not (table.path / "filter").exists()
