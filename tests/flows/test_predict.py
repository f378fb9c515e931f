"""A fine-tuned model from the flow to the registry, another process, the command line, GLUE."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from modules.evaluation import glue_files
from modules.files import read_jsonl
from modules.run import FinetuneRun
from modules.tasks import TASKS
from modules.training.config import OptimConfig
from modules.training.tuning_config import FinetuneConfig
from registry import artifacts, models
from registry.tables import Kind
from registry.workspace import Workspace

TRAINING = FinetuneConfig(
    optim=OptimConfig(lr=1e-3, warmup_fraction=0.1, schedule="linear"),
    epochs=1,
    batch_size=8,
    max_train_examples=16,
    max_val_examples=8,
    max_length=48,
    threads=1,
    precision="32-true",
    accelerator="cpu",
)
FORMATS = ("verse_pairs", "next_passage")  # labels, and answers


def publish_checkpoint(ws: Workspace):
    """Publish an untrained model of one block."""
    from modules import tokenizer
    from modules.model import checkpoint
    from modules.model.gpt import GPTConfig

    fp = artifacts.fingerprint(Kind.CHECKPOINT, {"n": 1}, {}, 1)
    with artifacts.workdir(ws, Kind.CHECKPOINT, "p", fp) as work:
        made = tokenizer.Tokenizer([("h", "e"), ("l", "l")])
        (work / "tokenizer").mkdir()
        made.save(work / "tokenizer")
        size = GPTConfig(vocab_size=made.n_vocab, n_positions=64, n_embd=16, n_layer=1, n_head=2)
        checkpoint.save(checkpoint.build(size), work)
        return artifacts.publish(
            ws,
            work,
            kind=Kind.CHECKPOINT,
            name="p",
            fingerprint=fp,
            config={"n": 1},
            inputs={},
            counts={},
        )


@pytest.fixture(scope="module")
def tuned(prefect_server, project):
    """Run the flow once; return the workspace and what it made."""
    from flows.finetune import finetune

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTMILL_ROOT", str(project))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("TEXTMILL_DATABASE_URL", raising=False)
        ws = Workspace.open(project)
        publish_checkpoint(ws)
        config = FinetuneRun(tasks=FORMATS, training=TRAINING)
        made = finetune(config, name="p", checkpoint="checkpoint/p")
        again = finetune(
            config.but(training=TRAINING.but(epochs=2)), name="p", checkpoint="checkpoint/p"
        )
    return ws, made, again


def test_the_first_version_is_champion_and_a_later_one_must_be_better(tuned):
    ws, made, again = tuned
    for task in FORMATS:
        first, second = (models.resolve(ws, f"textmill-p-{task}/{n}") for n in (1, 2))
        assert (first.fingerprint, second.fingerprint) == (
            made[task]["fingerprint"],
            again[task]["fingerprint"],
        )
        values = [
            json.loads((x.path / "validation.json").read_text())[0]["value"]
            for x in (first, second)
        ]
        better = values[1] > values[0]
        assert models.holder(ws, f"textmill-p-{task}") == (2 if better else 1)
        assert models.holder(ws, f"textmill-p-{task}", "challenger") == (None if better else 2)


def test_the_champion_answers_in_any_process(tuned):
    ws, _, _ = tuned
    code = """
import json, sys, mlflow, pandas as pd
m = mlflow.pyfunc.load_model("models:/textmill-p-verse_pairs@champion")
fields = [c.name for c in m.metadata.signature.inputs]
assert fields == ["text_a", "text_b"], fields
frame = pd.DataFrame({"text_a": ["a sea", "b"], "text_b": ["wood", "b"]}, index=[7, 9])
got = m.predict(frame)
assert list(got) == ["label", "index", "probability_different", "probability_same"], got
assert list(got.index) == [7, 9] and set(got["label"]) <= {"different", "same"}
assert (got[["probability_different", "probability_same"]].sum(axis=1) - 1).abs().max() < 1e-5
def refused(frame, words):
    try:
        m.predict(frame)
    except Exception as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
refused(pd.DataFrame({"text_a": ["x"]}), "row 1: column 'text_b' is missing")
refused(pd.DataFrame({"text_a": ["x", "y"], "text_b": ["z", None]}), "row 2: column 'text_b'")
refused(pd.DataFrame({"text_a": ["x", 3], "text_b": ["z", "z"]}), "row 2: column 'text_a' is 3")
m = mlflow.pyfunc.load_model("models:/textmill-p-next_passage@champion")
row = json.loads(sys.argv[1])
got = m.predict(pd.DataFrame([row, row | {"answers": row["answers"][:2]}]))
assert got["label"][1] in row["answers"][:2] and pd.isna(got[f"probability_2"][1]), got
"""
    example = models.resolve(ws, "textmill-p-next_passage@champion").path / "example.json"
    env = os.environ | {"MLFLOW_TRACKING_URI": ws.tracking_uri}
    subprocess.run([sys.executable, "-c", code, example.read_text()], env=env, check=True)


@pytest.fixture
def command(tuned, monkeypatch):
    """Return textmill, run in this process in that project."""
    from typer.testing import CliRunner

    from flows.cli import app

    monkeypatch.setenv("TEXTMILL_ROOT", str(tuned[0].root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda *words, **more: CliRunner().invoke(app, list(words), **more)


def test_predict_answers_files_stdin_and_single_rows(tuned, command, tmp_path):
    model = "textmill-p-verse_pairs@champion"
    (tmp_path / "rows.csv").write_text('text_a,text_b\nthe sea,wood\n7,"a, b"\n')
    out = tmp_path / "out.jsonl"
    assert command("predict", model, str(tmp_path / "rows.csv"), "--out", str(out)).exit_code == 0
    rows = list(read_jsonl(out))
    assert [row["row"] for row in rows] == [1, 2]
    assert set(rows[0]["probabilities"]) == {"different", "same"}
    piped = '{"text_a": "the sea", "text_b": "wood"}\n'
    for done in (
        command("predict", model, "-", input=piped),
        command("predict", model, "--field", "text_a=the sea", "--field", "text_b=wood"),
    ):
        assert json.loads(done.stdout) == rows[0]


def test_a_bad_row_stops_all_or_is_left_out(tuned, command, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"text_a": "a", "text_b": "b"}\n{"text_a": "a"}\n{"text_a": 1, "text_b": "b"}\n'
    )
    out = tmp_path / "out.jsonl"
    words = ("predict", "tuned/p-verse_pairs", str(tmp_path / "rows.jsonl"), "--out", str(out))
    done = command(*words)
    assert "row 2: column 'text_b' is missing" in str(done.exception) and not out.exists()
    assert command(*words, "--skip-bad").exit_code == 0
    assert [row["row"] for row in read_jsonl(out)] == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tuned/none", "x.jsonl"], "no artifact tuned/none"),
        (["tuned/p-verse_pairs", "none.jsonl"], "none.jsonl is not there"),
        (["tuned/p-verse_pairs"], "give a FILE of rows"),
        (["tuned/p-verse_pairs", "--field", "text_a"], "expected COLUMN=TEXT"),
        (["checkpoint/p", "--field", "text_a=x"], "no fine-tuned checkpoint"),
    ],
)
def test_mistakes_are_named(command, words, message):
    assert message in str(command("predict", *words).exception)


def test_glue_files(tuned, command, tmp_path):
    names = [s.file.removesuffix(".tsv") for files in glue_files.FILES.values() for s in files]
    wanted = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm AX QNLI RTE WNLI"  # gluebenchmark.com/faq
    assert " ".join(names) == wanted
    rows = [{"idx": 1}, {"idx": 0}]
    answers = [{"label": "entailment", "index": 0}, {"label": "not_entailment", "index": 1}]
    (rte,), (wnli,), (stsb,) = (glue_files.FILES[name] for name in ("rte", "wnli", "stsb"))
    header = "index\tprediction\n"
    assert glue_files.tsv(rte, rows, answers) == header + "0\tnot_entailment\n1\tentailment\n"
    assert glue_files.tsv(wnli, rows, answers) == header + "0\t1\n1\t0\n"
    scores = [{"label": 5.2}, {"label": 1.23456}, {"label": -0.1}]
    assert glue_files.tsv(stsb, [{}] * 3, scores) == header + "0\t5.000\n1\t1.235\n2\t0.000\n"
    with pytest.raises(ValueError, match="two rows have one idx"):
        glue_files.tsv(rte, [{"idx": 1}, {"idx": 1}], answers)
    done = command("glue-submission", "tuned/p-verse_pairs", "--out", str(tmp_path / "s.zip"))
    assert "none of GLUE's" in str(done.exception)


def test_a_submission_is_one_zip(tuned, command, tmp_path, monkeypatch):
    from dataclasses import replace

    task = replace(TASKS["verse_pairs"], hub="nyu-mll/glue mrpc")  # a set of the same columns
    monkeypatch.setitem(TASKS, "verse_pairs", task)
    folder = tuned[0].data / "hub/nyu-mll/glue/mrpc"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"text_a": "a", "text_b": "b", "label": -1, "idx": i} for i in range(3)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "s.zip"
    done = command("glue-submission", "tuned/p-verse_pairs", "--out", str(out))
    assert done.exit_code == 0, done.exception
    with zipfile.ZipFile(out) as archive:
        lines = archive.read("MRPC.tsv").decode().splitlines()
    assert lines[0] == "index\tprediction" and [line.split("\t")[0] for line in lines[1:]] == [
        *"012"
    ]
    assert "CoLA.tsv" in done.stdout  # what is missing is said


def test_the_page_shows_hostile_texts_as_texts(tuned):
    from flows.page import as_html, as_markdown
    from flows.tuned import blocks_of

    ws, made, _ = tuned
    folder = models.resolve(ws, made["verse_pairs"]["fingerprint"]).path
    diagnosis = json.loads((Path(folder) / "diagnosis.json").read_text())
    nasty = {"text_a": "<script>x</script>\n```\n[a](b)"}
    mistake = {"id": "<b>", "truth": "same", "prediction": "different", "confidence": 0.9}
    blocks = blocks_of("x", diagnosis | {"mistakes": [mistake | {"texts": nasty}]})
    page = as_html("x", blocks)
    assert "<script>" not in page and "&lt;script&gt;" in page and "data:image/png" in page
    assert "````text" in as_markdown("x", blocks)
