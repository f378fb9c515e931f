"""Every benchmark, asked of a tiny random model, gives finite scores with their protocol."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from modules import tasks
from modules.evaluation import zero_shot
from modules.evaluation.ask import load_subject
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.zero_shot import evaluate, evaluate_all, evaluate_subject, scores_of
from modules.files import read_jsonl, sha256
from modules.model.checkpoint import load, save

# sets of the hub, and those to bring by hand, are no part of the data
HERE = {n: t for n, t in tasks.TASKS.items() if t.hub is None and not t.by_hand}
PROMPTED = [n for n, t in HERE.items() if t.format in ("perplexity", "cloze", "choice")]
GENERATED = [n for n, t in HERE.items() if t.format == "generation"]
CHOSEN = ["next_passage", "social_iqa"]
FOUR = ZeroShotConfig(limit=4, bootstrap_samples=50)


@pytest.fixture(scope="module")
def subject(checkpoint):
    return load_subject(checkpoint)


@pytest.mark.parametrize("name", PROMPTED + CHOSEN + GENERATED)
def test_every_task_gives_finite_scores(name, subject, data, tmp_path):
    task = tasks.get(name)
    scores = evaluate_subject(subject, task, data, tmp_path, FOUR)
    variants = [task.variant, *task.variants]
    assert [s.metric for s in scores] == [*task.metrics] * len(variants)
    for score in scores:
        assert math.isfinite(score.value) and score.low <= score.high
        assert (score.task, score.n, score.task_version) == (name, 4, task.version)
        assert score.protocol["limit"] == 4 and score.protocol["n"] == 4
        assert score.protocol["variant"] in variants and score.protocol["positions"] == 256
    rows = list(read_jsonl(tmp_path / "items" / f"{name}.jsonl.zst"))
    assert len(rows) == 4 * len(variants)
    assert scores_of(task, rows, FOUR, 256) == scores, "scores come from the rows alone"


@pytest.mark.parametrize("name", ["lambada_like", "cbt_like_V", "open_qa", "lm_ppl_bible_kjv"])
def test_the_lstm_is_asked_too(name, lstm_checkpoint, data, tmp_path):
    scores = evaluate(lstm_checkpoint, tasks.get(name), data, tmp_path, FOUR)
    assert all(math.isfinite(score.value) for score in scores)


def test_the_same_work_gives_the_same_bytes(checkpoint, data, tmp_path):
    chosen = [tasks.get(name) for name in ("summarization_manuals", "winograd_like")]
    for folder in ("a", "b"):
        evaluate_all(checkpoint, chosen, data, tmp_path / folder, FOUR)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 5, "scores, and for each task its items and how they were asked"
    for file in files:
        assert sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file)


def test_finished_items_are_used_again_only_if_they_are_the_same(
    subject, data, tmp_path, monkeypatch
):
    task = tasks.get("winograd_like")
    first = evaluate_subject(subject, task, data, tmp_path, FOUR)
    asked = []
    real = zero_shot.ask.rows_of
    monkeypatch.setattr(zero_shot.ask, "rows_of", lambda *a, **k: asked.append(1) or real(*a, **k))
    assert evaluate_subject(subject, task, data, tmp_path, FOUR) == first
    assert not asked
    evaluate_subject(subject, task, data, tmp_path, FOUR.but(limit=5))
    assert len(asked) == 2  # both variants


def test_word_and_byte_perplexity_are_one_likelihood(subject, data, tmp_path):
    task = tasks.get("lm_ppl_bible_kjv")
    scores = evaluate_subject(subject, task, data, tmp_path, FOUR)
    by = {score.metric: score.value for score in scores}
    rows = list(read_jsonl(tmp_path / "items" / "lm_ppl_bible_kjv.jsonl.zst"))
    nll = sum(row["nll"] for row in rows)
    assert by["word_perplexity"] == pytest.approx(math.exp(nll / sum(row["words"] for row in rows)))
    assert by["bits_per_byte"] == pytest.approx(math.log2(by["byte_perplexity"]))
    assert scores[0].protocol["stride"] == 128


def test_a_shorter_stride_is_in_the_protocol_and_a_longer_one_refused(subject, data, tmp_path):
    task = tasks.get("lm_ppl_technical_manual")
    score = evaluate_subject(subject, task, data, tmp_path, FOUR.but(stride=200, limit=1))[0]
    assert score.protocol["stride"] == 200
    with pytest.raises(ValueError, match="stride 300 is longer than the model's 256 positions"):
        evaluate_subject(subject, task, data, tmp_path / "b", FOUR.but(stride=300))


def test_open_questions_are_calibrated_where_there_are_enough(subject, data, tmp_path):
    task = tasks.get("open_qa")
    scores = evaluate_subject(subject, task, data, tmp_path, FOUR.but(limit=20))
    assert [s.metric for s in scores] == ["exact_match", "exact_match_most_confident_10_percent"]
    assert scores[1].n == 2
    rows = list(read_jsonl(tmp_path / "items" / "open_qa.jsonl.zst"))
    assert all(row["logprob"] < 0 for row in rows), "an empty answer is not certain"


def test_bleu_carries_its_signature(subject, data, tmp_path):
    score = evaluate_subject(subject, tasks.get("translation_fr_en"), data, tmp_path, FOUR)[0]
    assert "tok:13a" in score.protocol["signature"] and score.protocol["shots"] == 3
    assert score.protocol["temperature"] == 0.0


def test_a_result_that_is_not_finite_names_the_item(checkpoint, data, tmp_path):
    model = load(checkpoint)
    with torch.no_grad():
        model.ln_f.weight[0] = float("nan")
    (tmp_path / "bad").mkdir()
    save(model, tmp_path / "bad")
    for file in ("encoder.json", "vocab.bpe"):
        target = tmp_path / "bad" / "tokenizer" / file
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((checkpoint / "tokenizer" / file).read_bytes())
    task = tasks.get("lm_ppl_bible_kjv")
    with pytest.raises(ValueError, match=r"task lm_ppl_bible_kjv, item kjv/\S+: nll is nan"):
        evaluate(tmp_path / "bad", task, data, tmp_path / "out", FOUR)
    assert not list((tmp_path / "out").rglob("*.zst"))


def test_a_task_without_zero_shot_form_says_so(subject, data, tmp_path):
    with pytest.raises(ValueError, match=r"passage_source \(classification\) has no zero-shot"):
        evaluate_subject(subject, tasks.get("passage_source"), data, tmp_path, FOUR)


def test_a_checkpoint_with_too_few_embeddings_is_refused(checkpoint, data, tmp_path):
    from modules import tokenizer as bpe

    texts = [row["text"] for row in read_jsonl(data / "lm" / "val.jsonl.zst")]
    bpe.train(texts, tmp_path / "tokenizer", bpe.TokenizerConfig(vocab_size=1200))
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((checkpoint / file).read_bytes())
    with pytest.raises(ValueError, match="1200 ids, the model only 1000"):
        load_subject(tmp_path)


def test_limits_spread_over_the_set():
    assert zero_shot.spread(list("abcdefghij"), 3) == ["a", "d", "g"]
    assert zero_shot.spread(list("ab"), 3) == ["a", "b"]


def test_multiple_choice_takes_the_mean_token(subject, data, tmp_path):
    """GPT-1, section 5: highest mean token log-probability."""
    scores = evaluate_subject(subject, tasks.get("social_iqa"), data, tmp_path, FOUR)
    assert scores[0].protocol["answer"].startswith("highest mean")
    for row in read_jsonl(tmp_path / "items" / "social_iqa.jsonl.zst"):
        means = [a / b for a, b in zip(row["logprobs"], row["tokens"], strict=True)]
        assert row["prediction"] == means.index(max(means))


def test_scores_are_plain_json(subject, data, tmp_path):
    import json

    score = evaluate_subject(subject, tasks.get("coqa_like"), data, tmp_path, FOUR)[0]
    assert json.loads(json.dumps(asdict(score)))["protocol"]["history"] == "gold"
    assert replace(score) == score
