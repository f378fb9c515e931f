"""A version's card: its facts are those of the catalogue; what is not known is said to be so."""

import json
import shutil
from pathlib import Path

import pytest

from registry import artifacts, card, catalogue, db, models, runs
from registry.licences import licences, named_files
from registry.workspace import Workspace

NAME = "textmill-x"
TRAINING = {
    "counts": {"parameters": 758912},
    "steps": 2400,
    "tokens": 4915200,
    "held_out_loss": 3.25,
    "epochs": {"tokens": 1.3381},
    "environment": {"device": "cpu", "versions": {}},
}


@pytest.fixture
def version(ws: Workspace, make) -> int:
    """A checkpoint made from tokens made from documents, by a run that is recorded."""

    def start(session) -> str:
        config = {"extra": ["lm/train.jsonl.zst"], "name": "sample"}
        facts = {"git_commit": "c" * 40, "data_version": "unpinned"}
        made = runs.start_run(session, stage="prepare_corpus", name="x", config=config, **facts)
        runs.finish_run(session, made.id, "completed")
        return made.id

    run = db.write(ws.database_url, start)
    documents = make(ws, kind="documents", run_id=run)
    tokens = make(
        ws, kind="tokens", inputs={"documents": documents}, counts={"train.tokens": 3673616}
    )
    files = {"training.json": json.dumps(TRAINING).encode(), "model.safetensors": b"w" * 999}
    model = {"architecture": "gpt", "n_positions": 256}
    checkpoint = make(
        ws, kind="checkpoint", config={"model": model}, inputs={"tokens": tokens}, files=files
    )
    row = {"task": "lm", "metric": "bits_per_byte", "split": "test", "task_version": 3, "n": 30}
    row |= {"value": 1.64272, "low": 1.59856, "high": 1.6874, "protocol": {"stride": 128}}
    db.write(ws.database_url, lambda s: catalogue.add_scores(s, checkpoint.fingerprint, [row]))
    return models.register(ws, NAME, checkpoint, "local-run")


def test_it_tells_the_facts(ws: Workspace, version: int) -> None:
    (ws.data / "lm").mkdir(parents=True)
    (ws.data / "lm" / "train.jsonl.zst").write_bytes(b"x")
    (ws.data / "LICENSES.md").write_text(
        "# L\n\n| file | work | licence |\n| --- | --- | --- |\n"
        "| lm/* | King James Bible | public domain |\n| zeroshot/* | CoQA | CC BY-SA 4.0 |\n"
    )
    text = card.write(ws, NAME, version)
    checkpoint = artifacts.look_up(ws, f"{NAME}/1")
    for fact in (
        f"# {NAME} version 1\n",
        "758,912 parameters (gpt) that reads up to 256 tokens",
        "| tokens/sample | ",
        "3,673,616 train.tokens",
        "| King James Bible | public domain |",
        "| lm | bits_per_byte | 1.6427 | 1.5986 to 1.6874 | 30 | test, task version 3 | stride",
        "It read 4,915,200 tokens in 2,400 steps.",
        "1.34 times its training text",
        "Held-out loss: 3.250 nats a token (perplexity 25.8)",
        "## Overlap with evaluation sets\n\nNot measured",
        checkpoint.fingerprint,
        checkpoint.dvc_md5,
        f'mlflow.pyfunc.load_model("models:/{NAME}/1")',
    ):
        assert fact in text, fact
    assert "CoQA" not in text


def test_it_tells_the_measured_overlap(ws: Workspace, version: int, make) -> None:
    documents = artifacts.look_up(ws, "documents/sample")
    table = {"data_sets": [{"task": "lm_ppl_speeches", "corpus": 0.0312}]}
    files = {"overlap.json": json.dumps(table).encode()}
    make(ws, kind="report", name="sample-overlap", inputs={"documents": documents}, files=files)
    assert "| lm_ppl_speeches | 3.12% |" in card.write(ws, NAME, version)


def test_it_invents_nothing(ws: Workspace, make) -> None:
    models.register(ws, NAME, make(ws, kind="checkpoint"), "local-run")
    text = card.write(ws, NAME, 1)
    for said in ("Licences: none is recorded", "None was measured", "Not measured", "Not recorded"):
        assert said in text
    for unknown in ("parameters", "perplexity", "tokens at once", "| run |"):
        assert unknown not in text
    with pytest.raises(ValueError, match="no model textmill-x/7"):
        card.write(ws, NAME, 7)


def test_other_data_than_then_has_no_licences(ws: Workspace, version: int) -> None:
    (ws.root / "data.dvc").write_text("outs:\n- md5: abc.dir\n")
    assert "data/ is at another version" in card.write(ws, NAME, version)


def test_cells_cannot_break_their_table() -> None:
    assert card.table(["a"], [["x | y\n| z"]]).splitlines()[2] == r"| x \| y \| z |"


def test_a_description_fits_its_column(ws: Workspace, version: int) -> None:
    text = card.write(ws, NAME, version)
    assert card.shortened(text) == text
    long = text.replace("## Scores\n", "## Scores\n" + "| x | y |\n" * 2000)
    short = card.shortened(long)
    assert len(short) <= card.SHORT < len(long)
    assert "## Scores\n\nIn README.md" in short and "## Limits\n\n- It read" in short


@pytest.mark.parametrize(
    ("patterns", "file", "about"),
    [
        ("lm/*", "lm/train.jsonl.zst", True),
        ("web/pages-*.warc.gz, web/main_text", "web/main_text.jsonl.zst", True),
        ("web/pages-*.warc.gz, web/main_text", "web/RS_2018.zst", False),
        ("zeroshot/summarization (package: which)", "zeroshot/summarization.jsonl", True),
    ],
)
def test_licences_by_file(ws: Workspace, patterns: str, file: str, about: bool) -> None:
    ws.data.mkdir()
    table = f"| file | work | licence |\n|---|---|---|\n| {patterns} | W | L |\n"
    (ws.data / "LICENSES.md").write_text(table)
    assert licences(ws, [file]) == ([("W", "L")] if about else [])


def test_files_are_those_below_data_that_configs_name(ws: Workspace) -> None:
    (ws.data / "lm").mkdir(parents=True)
    (ws.data / "lm" / "a").touch()
    (ws.root / "secret").touch()
    names = {"x": ["lm", "", "../secret", "absent", str(ws.root / "secret")], "y": {"z": "lm/a"}}
    assert named_files(ws, [names]) == {"lm/a"}
    shutil.rmtree(ws.data)
    assert licences(ws, ["lm/a"]) == []
    assert Path(ws.root / "secret").exists()
