"""The whole chain with the tiny preset: made once, found again, redone in part."""

import json
import shutil

import pytest

from modules import presets
from modules.corpus.document import read_documents
from modules.files import read_jsonl

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def chain(prefect_server, project, request):
    """The summary of one run of the tiny chain."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setenv("TEXTMILL_ROOT", str(project))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from flows.reproduce import reproduce

    return reproduce(presets.TINY)


def states(summary):
    """Return kind/name -> made now or there already."""
    table = next(table for table in summary["tables"] if table["title"] == "Artifacts")
    return {f"{row[0]}/{row[1]}": row[-1] for row in table["rows"]}


def test_everything_is_made_and_shown(chain, in_project):
    kinds = {key.split("/")[0] for key in states(chain)}
    assert kinds >= {"links", "pages", "documents", "tokenizer", "tokens", "checkpoint", "tuned"}
    assert set(states(chain).values()) == {"made now"}
    titles = [table["title"] for table in chain["tables"]]
    starts = ("Language model", "Held-out text by domain", "Fine-tuned")
    for title, start in zip(titles[1:], starts, strict=False):
        assert title.startswith(start)
    html = next(in_project.glob("artifacts/report/tiny/*/report.html")).read_text()
    assert "data:image/png;base64," in html and "passage_source" in html


def test_a_second_run_makes_nothing(chain, in_project):
    from flows.reproduce import reproduce

    again = reproduce(presets.TINY)
    assert set(states(again).values()) == {"there already"}
    assert again["version"] == chain["version"]


def test_a_changed_filter_redoes_only_what_follows(chain, in_project):
    from flows.corpus import prepare_corpus
    from flows.stage import stage

    clean = presets.TINY.corpus.clean
    changed = presets.TINY.corpus.but(clean=clean.but(filters=clean.filters.but(min_words=60)))
    with stage("test", {}) as at:
        prepare_corpus(changed)
        made = {f"{x.kind}/{x.name}" for x in at.made}
        reused = {f"{x.kind}/{x.name}" for x in at.reused}
    assert made == {"documents/tiny", "tokenizer/tiny", "tokens/tiny", "report/tiny-corpus"}
    assert reused == {"links/tiny", "pages/tiny", "documents/tiny-text"}


def test_the_corpus_is_what_the_truth_says(chain, in_project):
    """No page below karma 3, no Wikipedia, nothing of another page's text."""
    truth = {row["url"]: row for row in read_jsonl(in_project / "data/web/truth.jsonl.zst")}
    from registry import artifacts
    from registry.workspace import Workspace

    documents = artifacts.checkout(Workspace.open(in_project), "documents/tiny").path
    kept = [truth[d.url] for d in read_documents(documents) if d.url]
    assert len(kept) > 100
    assert not [row["url"] for row in kept if row["is_wikipedia"] or row["status"] != 200]
    assert not [row["url"] for row in kept if (row["max_score_with_redirects"] or 0) < 3]


def test_restore_from_the_storage_alone(chain, in_project):
    from registry import artifacts
    from registry.workspace import Workspace

    workspace = Workspace.open(in_project)
    before = artifacts.checkout(workspace, "textmill-tiny@champion")
    old = {p.name: p.read_bytes() for p in before.path.rglob("*") if p.is_file()}
    shutil.rmtree(in_project / "artifacts")
    for cache in (in_project / ".dvc" / "cache", in_project / ".textmill" / "dvc" / "cache"):
        shutil.rmtree(cache, ignore_errors=True)
    again = artifacts.checkout(workspace, "textmill-tiny@champion")
    assert {p.name: p.read_bytes() for p in again.path.rglob("*") if p.is_file()} == old


def test_the_champion_loads_by_alias(chain, in_project):
    import mlflow

    from flows.settings import enter

    workspace = enter(in_project)
    mlflow.set_tracking_uri(workspace.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/textmill-tiny@champion")
    texts = model.predict(["In the beginning"], params={"max_new_tokens": 5, "temperature": 0.0})
    again = model.predict(["In the beginning"], params={"max_new_tokens": 5, "temperature": 0.0})
    assert len(texts) == 1 and list(texts) == list(again)


def test_lineage_goes_down_to_the_dumps(chain, in_project):
    from rich.console import Console

    from flows.lineage import tree
    from registry.workspace import Workspace

    console = Console(record=True, width=200)
    console.print(tree(Workspace.open(in_project), "textmill-tiny@champion"))
    text = console.export_text()
    for word in ("checkpoint tiny", "tokens tiny", "documents tiny-text", "links tiny", "dumps"):
        assert word in text


def test_runs_are_nested_in_mlflow(chain, in_project):
    from mlflow import MlflowClient

    from flows.settings import enter

    client = MlflowClient(enter(in_project).tracking_uri)
    experiment = client.get_experiment_by_name("textmill")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    by_id = {run.info.run_id: run for run in runs}
    parents = {
        run.info.run_name: by_id[run.data.tags["mlflow.parentRunId"]].info.run_name
        for run in runs
        if "mlflow.parentRunId" in run.data.tags
    }
    chain_run = "reproduce tiny"
    assert (
        parents["prepare_corpus tiny"] == parents["pretrain"] == parents["zero_shot"] == chain_run
    )
    assert parents["finetune-verse_pairs"] == "finetune"
    assert all(run.data.tags["textmill.data_version"] for run in runs)
    assert all(run.info.status == "FINISHED" for run in runs if run.info.run_name == "pretrain")


def test_tasks_that_share_a_file_are_scored_apart(chain, in_project):
    from flows.evaluate import zero_shot

    pair = ("translation_en_fr", "translation_fr_en")
    asked = presets.TINY.zero_shot.but(tasks=pair)
    made = zero_shot(asked, name="tiny", checkpoint="checkpoint/tiny")
    assert len({result["fingerprint"] for result in made.values()}) == 2
    assert [result["scores"][0]["task"] for result in made.values()] == list(pair)


def test_report_is_machine_readable(chain, in_project):
    report = next(in_project.glob("artifacts/report/tiny/*/report.json"), None)
    if report is None:  # an earlier test removed the artifacts; the storage has them
        from registry import artifacts
        from registry.workspace import Workspace

        report = artifacts.checkout(Workspace.open(in_project), "report/tiny").path / "report.json"
    assert len(json.loads(report.read_text())["tables"]) == 4


def test_two_corpora_of_one_tokenizer_are_mixed(chain, in_project):
    from flows.corpus import prepare_corpus
    from flows.pretrain import pretrain
    from flows.settings import enter
    from registry import artifacts

    more = presets.TINY.corpus.but(
        name="more", extra=("lm/test.jsonl.zst",), use_tokenizer="tokenizer/tiny"
    )
    prepare_corpus(more)
    config = presets.TINY.pretrain.but(
        max_steps=5, mixture={"tiny": 1, "more": 3}, val_domains=2, sampling="documents"
    )
    made = pretrain(config, name="both", tokens="tokens/tiny,tokens/more")
    checkpoint = artifacts.look_up(enter(in_project), made)
    assert set(checkpoint.inputs) == {"tokens", "tokens-more", "tokenizer"}
    facts = json.loads((checkpoint.path / "training.json").read_text())
    assert set(facts["epochs"]) == {"tiny", "more"}
    own = set(facts["held_out_losses"])
    assert {"tiny", "more"} < own and {name.partition("/")[0] for name in own} == {"tiny", "more"}
    with pytest.raises(ValueError, match="give each corpus another name"):
        pretrain(config, tokens="tokens/tiny,tokens/tiny")


def test_everything_comes_out_again_byte_for_byte(chain, in_project):
    from flows.remake import reproduce
    from flows.settings import enter
    from registry import catalogue, db, runs

    workspace = enter()
    with db.reading(workspace.database_url) as session:
        top = runs.list_runs(session, stage="reproduce")[-1]
        made = [row for row in catalogue.list_artifacts(session) if row.name.startswith("tiny")]
    before = {path: path.stat().st_mtime_ns for path in in_project.glob("artifacts/*/*/*")}
    compared = list(reproduce(workspace, top.id))
    assert {x.reference: (x.refused, x.differing) for x in compared} == {
        x.reference: ("", {}) for x in compared
    }
    kinds = {x.reference.split("/")[0] for x in compared}
    assert kinds == {row.kind for row in made} and len(compared) > len(kinds)
    assert all(x.same for x in compared)
    after = {path: path.stat().st_mtime_ns for path in in_project.glob("artifacts/*/*/*")}
    assert before.items() <= after.items()  # inputs may come back, what is there stays
    assert list((workspace.state / "reproduced").iterdir()) == []


def test_a_difference_is_told_and_kept(chain, in_project, monkeypatch):
    from flows import remake, same_bytes
    from flows.settings import enter
    from registry.artifacts import look_up

    workspace = enter()
    target = look_up(workspace, "tokenizer/tiny")

    def other(at, target):
        at.done = True
        shutil.copytree(target.path, at.out, ignore=shutil.ignore_patterns("manifest.json"))
        (at.out / "encoder.json").write_text("{}")

    monkeypatch.setattr(remake, "again", other)
    monkeypatch.setattr(same_bytes.provenance, "library_versions", lambda: {"torch": "0.1"})
    compared = remake.remake(workspace, target)
    assert not compared.equal and list(compared.differing) == ["encoder.json"]
    assert compared.same == ["vocab.bpe"] and "0.1 now" in compared.circumstances["torch"]
    assert (compared.folder / "encoder.json").read_text() == "{}"
    shutil.rmtree(compared.folder.parent)


def test_other_input_files_are_named_before_anything_is_made(chain, in_project):
    from flows.remake import reproduce
    from flows.settings import enter

    dump = in_project / "data" / presets.TINY.corpus.dumps[0]
    kept = dump.read_bytes()
    try:
        dump.write_bytes(kept + b"\n")
        [told] = reproduce(enter(), "links/tiny")
    finally:
        dump.write_bytes(kept)
    assert not told.equal and "other input files as dumps" in told.refused


def test_uses_agrees_with_the_truth_of_the_sample_web(chain, in_project):
    """Every tenth page of the truth file: in the corpus or not, as its documents say."""
    from flows.settings import enter
    from flows.uses import uses
    from registry.artifacts import checkout, look_up

    workspace = enter()
    documents = checkout(workspace, look_up(workspace, "tokens/tiny").inputs["documents"])
    kept = {document.url for document in read_documents(documents.path)}
    truth = [
        row["url"]
        for row in read_jsonl(in_project / "data/web/truth.jsonl.zst")
        if row["kind"] == "page"
    ]
    some = sorted(kept & set(truth))[::40] + sorted(set(truth) - kept)[::80]
    for url in some:
        found = uses(workspace, url)
        holding = [corpus for corpus in found.corpora if corpus.name == "tiny" and corpus.holds]
        assert bool(holding) == (url in kept), (url, found.corpora)
        named = {(model.name, model.version) for model, _ in found.progeny.models}
        assert (("textmill-tiny", chain["version"]) in named) == (url in kept)


def test_an_input_file_leads_to_the_model(chain, in_project):
    from flows.settings import enter
    from flows.uses import uses

    found = uses(enter(), str(in_project / "data" / presets.TINY.corpus.dumps[0]))
    assert any(x.startswith("links/tiny@") for x in found.starts)
    assert "textmill-tiny" in {model.name for model, _ in found.progeny.models}
    with pytest.raises(ValueError, match="no input file"):
        uses(enter(), "nothing.zst")


def test_the_picture_of_lineage_is_on_the_models_run(chain, in_project):
    import mlflow

    from flows.settings import enter
    from registry import db
    from registry.tables import Run

    workspace = enter()
    with db.reading(workspace.database_url) as session:
        runs = session.query(Run).filter_by(stage="promote").order_by(Run.started)
        run = runs.first().mlflow_run_id
    client = mlflow.MlflowClient(workspace.tracking_uri)
    assert "lineage.png" in [file.path for file in client.list_artifacts(run)]


def test_a_champion_goes_on_with_new_tokens(chain, in_project):
    from flows.continue_pretraining import continue_pretraining
    from flows.corpus import prepare_corpus
    from registry import artifacts
    from registry.workspace import Workspace

    workspace = Workspace.open(in_project)
    champion = artifacts.checkout(workspace, "textmill-tiny@champion")
    clean = presets.TINY.corpus.clean
    grown = presets.TINY.corpus.but(
        name="grown",
        clean=clean.but(filters=clean.filters.but(min_words=40)),
        use_tokenizer=champion.inputs["tokenizer"],
    )
    tokens = prepare_corpus(grown)
    config = presets.SAMPLE_CONTINUED.but(
        name="tiny",
        corpus="grown",
        pretrain=presets.TINY.pretrain.but(max_steps=4),
        zero_shot=presets.TINY.zero_shot,
    )
    made = continue_pretraining(config)
    checkpoint = artifacts.look_up(workspace, made["checkpoint"])
    assert checkpoint.inputs["tokens"] == tokens
    assert checkpoint.inputs["base"] == champion.fingerprint
    again = continue_pretraining(config)
    assert again.get("checkpoint", made["checkpoint"]) == made["checkpoint"]  # nothing new


def test_a_checkpoint_without_all_scores_is_scored(chain, in_project):
    from sqlalchemy import delete

    from flows.evaluate_new import evaluate_new
    from registry import artifacts, db
    from registry.tables import Score
    from registry.workspace import Workspace

    workspace = Workspace.open(in_project)
    evaluate_new(presets.TINY.zero_shot)
    assert evaluate_new(presets.TINY.zero_shot) == {}
    champion = artifacts.look_up(workspace, "textmill-tiny@champion")
    lost = delete(Score).where(Score.task == presets.TINY.zero_shot.tasks[0])
    db.write(workspace.database_url, lambda session: session.execute(lost).rowcount)
    assert champion.fingerprint in evaluate_new(presets.TINY.zero_shot)


def test_a_checkpoint_that_cannot_be_scored_leaves_the_others_their_turn(
    chain, in_project, monkeypatch
):
    from flows import evaluate_new as module
    from registry import catalogue, db
    from registry.workspace import Workspace

    with db.reading(Workspace.open(in_project).database_url) as session:
        bad, good, *_ = catalogue.list_artifacts(session, kind="checkpoint")
    asked = []

    def zero_shot(config, *, name, checkpoint):
        asked.append(checkpoint)
        if checkpoint == bad.fingerprint:
            raise ValueError("no tokenizer")

    monkeypatch.setattr(module, "zero_shot", zero_shot)
    monkeypatch.setattr(module, "promote", lambda model, checkpoint: {"decision": "stays"})
    monkeypatch.setattr(module.catalogue, "unscored", lambda *_, **__: [good, bad])
    with pytest.raises(ValueError, match=rf"1 scored, 1 not: checkpoint/{bad.name}.*no tokenizer"):
        module.evaluate_new(presets.TINY.zero_shot)
    assert asked == [bad.fingerprint, good.fingerprint]
