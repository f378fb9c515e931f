"""A model of transformers is asked the same way: here GPT-2's export, beside our own decoder."""

import shutil
import sys

import pytest

from modules import tasks
from modules.evaluation.ask import identity, load_subject
from modules.evaluation.config import ZeroShotConfig
from modules.evaluation.zero_shot import evaluate_subject
from modules.model.weights import export_hf

pytest.importorskip("transformers", reason="the extra with transformers is not installed")

FEW = ZeroShotConfig(limit=4, bootstrap_samples=10)


@pytest.fixture(scope="module")
def both(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_hf(checkpoint, folder)
    return load_subject(checkpoint), load_subject(folder)


@pytest.mark.parametrize(
    "name", ["lambada_like", "cbt_like_CN", "lm_ppl_bible_kjv", "winograd_like", "open_qa"]
)
def test_scores_are_those_of_our_decoder(name, both, data, tmp_path):
    ours, theirs = (
        evaluate_subject(subject, tasks.get(name), data, tmp_path / str(i), FEW)
        for i, subject in enumerate(both)
    )
    assert [s.metric for s in ours] == [s.metric for s in theirs]
    assert [s.value for s in theirs] == pytest.approx([s.value for s in ours], rel=1e-4)


def test_another_architecture_is_asked_too(tmp_path, data, both):
    """A LLaMA of two layers: rotary positions, no tied output, another tokenizer file."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(
        vocab_size=1000, num_attention_heads=2, max_position_embeddings=256, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    both[1].tokenizer.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("a b")
    subject = load_subject(tmp_path)
    assert subject.positions == 256
    scores = evaluate_subject(subject, tasks.get("lambada_like"), data, tmp_path / "out", FEW)
    assert scores[0].n == 4


def test_logits_that_go_another_way_are_refused(tmp_path, both):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    config = Gemma2Config(vocab_size=1000, num_attention_heads=2, num_key_value_heads=2, **sizes)
    config.final_logit_softcapping = 0.1
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Gemma2ForCausalLM changes its logits"):
        load_subject(tmp_path)


def test_without_transformers_the_extra_is_named(tmp_path, both, monkeypatch):
    both[1].tokenizer.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'textmill\[harness\]'"):
        load_subject(tmp_path)


def test_another_tokenizer_is_another_subject(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert identity(tmp_path / "copy") == identity(checkpoint)
    with (tmp_path / "copy" / "tokenizer" / "vocab.bpe").open("a") as merges:
        merges.write("z z\n")
    assert identity(tmp_path / "copy") != identity(checkpoint)
