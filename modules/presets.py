"""Named runs, made from one another. Values only.

Sizes are the papers' (GPT-1 paper, section 4.1; GPT-2 paper, Table 2; heads from the release).
"""

from typing import TypeVar

from modules import tasks
from modules.model.config import GPTConfig, LSTMConfig
from modules.preset_corpora import CORPORA, NIGHTS, OWN_CORPUS, SAMPLE_CORPUS
from modules.run import (
    ContinueConfig,
    CorpusConfig,
    FinetuneConfig,
    FinetuneRun,
    NightlyConfig,
    PretrainConfig,
    RunConfig,
    TokenizerConfig,
    ZeroShotConfig,
    ZeroShotRun,
)
from modules.task import FINETUNE_FORMATS
from modules.training.config import GPT1_OPTIM, OptimConfig
from modules.training.tuning_config import GPT1_FINETUNE_OPTIM

T = TypeVar("T")

# --- models --------------------------------------------------------------------------------------

GPT1_MODEL = GPTConfig(  # GPT-1 paper, section 4.1
    vocab_size=40478,
    n_positions=512,
    norm="post",
    embd_dropout=0.1,
    attn_dropout=0.1,
    resid_dropout=0.1,
)
GPT2_SMALL = GPTConfig()  # GPT-2 paper, Table 2: 117M there, 124,439,808 by count
GPT2_MEDIUM = GPT2_SMALL.but(n_layer=24, n_embd=1024, n_head=16)
GPT2_LARGE = GPT2_SMALL.but(n_layer=36, n_embd=1280, n_head=20)
GPT2_XL = GPT2_SMALL.but(n_layer=48, n_embd=1600, n_head=25)
LSTM_MODEL = LSTMConfig()  # GPT-1 paper, section 5: one layer of 2048 units, 55.7 M parameters
# As many parameters as GPT1_MODEL (116.3 M of 116.5 M), which the paper's LSTM has not.
LSTM_EQUAL = LSTM_MODEL.but(n_units=4160)

FINETUNE_TASKS = (
    "passage_source",
    "question_in_sentence",
    "verse_pairs",
    "next_passage",
    "social_iqa",
)
ZERO_SHOT_TASKS = (
    "lm_ppl_bible_kjv",
    "lm_ppl_speeches",
    "lm_ppl_python_docs",
    "lm_ppl_encyclopedia",
    "lm_ppl_technical_manual",
    "tokenized_wikitext",
    "tokenized_treebank",
    "tokenized_ptb",
    "lambada_like",
    "cbt_like_CN",
    "cbt_like_NE",
    "cbt_like_V",
    "winograd_like",
    "coqa_like",
    "summarization_manuals",
    "translation_en_fr",
    "translation_fr_en",
    "open_qa",
)

# --- runs ----------------------------------------------------------------------------------------

SAMPLE = RunConfig(
    name="sample",
    corpus=SAMPLE_CORPUS,
    pretrain=PretrainConfig(
        # Chosen by val loss in trials of a minute each: at the same time, fewer weights that read
        # more tokens (3 x 128) were 0.2 nats ahead of 4 x 192.
        model=GPTConfig(vocab_size=1024, n_positions=256, n_layer=3, n_embd=128, n_head=2),
        # Muon was far ahead of AdamW in one short trial each (untuned rates, unequal batches).
        optim=OptimConfig(optimizer="muon", lr=0.01, warmup_steps=20, min_lr_fraction=0.05),
        batch_size=8,
        max_steps=2400,
        val_every=200,
        val_windows=128,
        checkpoint_every=100,
        threads=2,
    ),
    # Minutes on two cores are the budget: rates are higher and rows fewer than the paper's.
    finetune=FinetuneRun(
        tasks=FINETUNE_TASKS,
        training=FinetuneConfig(
            optim=GPT1_FINETUNE_OPTIM.but(lr=1e-3, warmup_fraction=0.1),
            epochs=1,
            batch_size=16,
            max_train_tokens=160_000,
            max_val_examples=100,
            threads=1,
        ),
        token_limits={
            "passage_source": 80_000,
            "social_iqa": 30_000,
            "next_passage": 120_000,
            "verse_pairs": 360_000,
        },
        # By validation, three seeds each: 0.315 of 250 where the head alone is at chance; on
        # social_iqa the head alone has the lower loss (1.10, with it 1.9).
        likelihood_tasks=("next_passage",),
        compare_scratch=True,
    ),
    zero_shot=ZeroShotRun(
        tasks=ZERO_SHOT_TASKS,
        settings=ZeroShotConfig(limit=60),
        limits=dict.fromkeys(("cbt_like_CN", "cbt_like_NE", "cbt_like_V", "coqa_like"), 40)
        | dict.fromkeys(("summarization_manuals", "open_qa"), 40)
        | dict.fromkeys(("translation_en_fr", "translation_fr_en"), 40),
    ),
)

# --- studies of GPT-1 on seven sets (2 cores, an hour each): `textmill study NAME` ---------------

STUDY_TASKS = (  # ../shared/data/finetune; --data says where they lie
    "intents_snips",
    "passage_author",
    "vitaminc",
    "question_in_sentence",
    "verse_pairs",
    "next_passage",
    "social_iqa",
)
SAMPLE_LSTM_MODEL = LSTMConfig(vocab_size=1024, n_positions=256, n_embd=128, n_units=312)
# GPT-1 paper, section 5: one layer of 2,048 units beside 12 blocks of 768; here as many weights as
# the sample's three blocks of 128, so that the comparison is one of architectures.
SAMPLE_LSTM = SAMPLE.but(
    name="sample-lstm",
    pretrain=SAMPLE.pretrain.but(
        model=SAMPLE_LSTM_MODEL, optim=OptimConfig(lr=4e-3, warmup_steps=50, min_lr_fraction=0.05)
    ),
)
STUDY = SAMPLE.but(
    name="study",
    pretrain=SAMPLE.pretrain.but(  # five minutes of one core: held-out loss 2.99, the sample's 3.29
        model=SAMPLE.pretrain.model.but(n_layer=4, n_embd=192, n_head=3),
        batch_size=16,
        max_steps=1500,
    ),
    finetune=SAMPLE.finetune.but(
        tasks=STUDY_TASKS,
        seeds=(0, 1, 2),
        compare_scratch=False,
        token_limits={},
        likelihood_tasks=(),
        training=SAMPLE.finetune.training.but(
            # Chosen by validation in single trials: at 4e-3 the network from scratch falls apart.
            optim=SAMPLE.finetune.training.optim.but(lr=2e-3),
            epochs=2,
            max_train_tokens=300_000,
            max_val_examples=300,
        ),
    ),
)
STUDY_LSTM = STUDY.but(
    name="study-lstm",
    pretrain=SAMPLE_LSTM.pretrain.but(
        model=SAMPLE_LSTM_MODEL.but(
            n_embd=192, n_units=556
        ),  # 1.77 M weights, as four blocks of 192
        batch_size=16,
        max_steps=1500,
    ),
)

# --- study zero-shot: GPT-2's tables, and its figures against size -------------------------------

EVERY_ZERO_SHOT = tuple(n for n, task in tasks.TASKS.items() if task.format not in FINETUNE_FORMATS)
# The sample's own checkpoint, asked every benchmark whose rows are there, all of them.
ZERO_SHOT = SAMPLE.but(name="zero-shot", zero_shot=ZeroShotRun(tasks=EVERY_ZERO_SHOT))

TINY = SAMPLE.but(
    name="tiny",
    corpus=SAMPLE_CORPUS.but(
        name="tiny",
        warcs=("web/pages-00000.warc.gz",),
        extra=("lm/val.jsonl.zst",),
        tokenizer=TokenizerConfig(vocab_size=512),
    ),
    pretrain=SAMPLE.pretrain.but(
        model=GPTConfig(vocab_size=512, n_positions=128, n_layer=2, n_embd=32, n_head=2),
        max_steps=20,
        val_every=10,
        checkpoint_every=5,
        threads=1,
    ),
    finetune=FinetuneRun(
        tasks=("passage_source", "verse_pairs"),
        training=SAMPLE.finetune.training.but(max_train_examples=64, max_val_examples=32),
    ),
    zero_shot=ZeroShotRun(
        tasks=("lm_ppl_bible_kjv", "lambada_like", "winograd_like"),
        settings=ZeroShotConfig(limit=8, bootstrap_samples=100),
    ),
)

TINY_LSTM = TINY.but(
    name="tiny-lstm",
    pretrain=TINY.pretrain.but(
        model=LSTMConfig(vocab_size=512, n_positions=128, n_embd=32, n_units=48),
        optim=OptimConfig(lr=4e-3),
    ),
)

GPT1 = RunConfig(
    name="gpt1",
    # GPT-1's own tokenizer is lower-cased and lossy; ours is byte-level with as many entries.
    corpus=OWN_CORPUS.but(name="gpt1", tokenizer=TokenizerConfig(vocab_size=40478)),
    pretrain=PretrainConfig(  # GPT-1 paper, section 4.1
        model=GPT1_MODEL, optim=GPT1_OPTIM, batch_size=64, epochs=100, checkpoint_every=1000
    ),
    finetune=FinetuneRun(tasks=FINETUNE_TASKS),  # the paper's settings are the defaults
    zero_shot=ZeroShotRun(tasks=ZERO_SHOT_TASKS),
)
# GPT-1 paper, section 5: the LSTM is trained and tuned in the same framework.
GPT1_LSTM = GPT1.but(name="gpt1-lstm", pretrain=GPT1.pretrain.but(model=LSTM_MODEL))
GPT1_LSTM_EQUAL = GPT1.but(name="gpt1-lstm-equal", pretrain=GPT1.pretrain.but(model=LSTM_EQUAL))
# The GPT-2 paper says sizes, batch and context (section 2.3, Table 2), and that each rate was tuned
# by hand (section 3), no more. The rest is nanoGPT's config/train_gpt2.py for 124M, and for the
# larger ones the rates of GPT-3's models of these sizes (GPT-3 paper, Table 2.1: 350M, 760M, 1.3B),
# which learn with the same batch of 0.5 M tokens (1.3B: 1 M), betas, decay 0.1, clip 1.0 and a
# cosine to a tenth (GPT-3 paper, appendix B).
GPT2 = RunConfig(
    name="gpt2",
    corpus=OWN_CORPUS,
    pretrain=PretrainConfig(
        model=GPT2_SMALL,
        optim=OptimConfig(lr=6e-4, warmup_steps=2000),  # nanoGPT; GPT-3 paper, Table 2.1: 125M
        batch_size=16,
        accumulate=32,  # GPT-2 paper, section 2.3: 512 sequences of 1,024 tokens
        max_steps=600_000,  # nanoGPT, config/train_gpt2.py
        val_every=2000,
        checkpoint_every=1000,
    ),
    finetune=FinetuneRun(tasks=FINETUNE_TASKS),
    zero_shot=ZeroShotRun(tasks=ZERO_SHOT_TASKS),
)


def _gpt2(name: str, model: GPTConfig, lr: float) -> RunConfig:
    """Return the run of a larger GPT-2: another size and rate."""
    optim = GPT2.pretrain.optim.but(lr=lr)
    return GPT2.but(name=name, pretrain=GPT2.pretrain.but(model=model, optim=optim))


GPT2_MEDIUM_RUN = _gpt2("gpt2-medium", GPT2_MEDIUM, 3e-4)  # GPT-3 paper, Table 2.1: 350M
GPT2_LARGE_RUN = _gpt2("gpt2-large", GPT2_LARGE, 2.5e-4)  # GPT-3 paper, Table 2.1: 760M
GPT2_XL_RUN = _gpt2("gpt2-xl", GPT2_XL, 2e-4)  # GPT-3 paper, Table 2.1: 1.3B


RUNS = {
    run.name: run
    for run in (
        SAMPLE,
        SAMPLE_LSTM,
        STUDY,
        STUDY_LSTM,
        ZERO_SHOT,
        TINY,
        TINY_LSTM,
        GPT1,
        GPT1_LSTM,
        GPT1_LSTM_EQUAL,
        GPT2,
        GPT2_MEDIUM_RUN,
        GPT2_LARGE_RUN,
        GPT2_XL_RUN,
    )
}


def continued(run: RunConfig) -> ContinueConfig:
    """Return how a run's champion goes on: an eighth of its length at a fifth of its rate.

    Its weights are good already: a rate from the run's peak would undo what it has learnt.
    """
    config = run.pretrain
    if config.max_steps:
        shorter = config.but(max_steps=max(1, config.max_steps // 8))
    else:
        shorter = config.but(epochs=(config.epochs or 1) / 8)
    optim = config.optim.but(lr=config.optim.lr / 5)
    return ContinueConfig(name=run.name, pretrain=shorter.but(optim=optim), zero_shot=run.zero_shot)


SAMPLE_CONTINUED = continued(SAMPLE)


SHAPES = {  # run -> layers and width of its model's other sizes
    "sample": ((1, 32), (2, 64)),
    "zero-shot": ((1, 32), (2, 64)),
    "tiny": ((1, 16),),
}


def sizes(run: RunConfig) -> tuple[RunConfig, ...]:
    """Return the runs of a model's other sizes, all else the same; those of gpt2 have own rates."""
    if run.name == GPT2.name:
        return GPT2_MEDIUM_RUN, GPT2_LARGE_RUN, GPT2_XL_RUN
    return tuple(_sized(run, *shape) for shape in SHAPES.get(run.name, ()))


def _sized(run: RunConfig, layers: int, width: int) -> RunConfig:
    """Return a run with another size of model."""
    model = run.pretrain.model.but(n_layer=layers, n_embd=width, n_head=max(1, width // 64))
    pretrain = run.pretrain.but(model=model.model_dump())
    return run.but(name=f"{run.name}-{layers}x{width}", pretrain=pretrain)


def get(name: str) -> RunConfig:
    """Return a named run."""
    return _named("preset", RUNS, name)


def get_corpus(name: str) -> CorpusConfig:
    """Return a named corpus: the paper's WebText, a replication of it, or the sample."""
    return _named("corpus", CORPORA, name)


def get_night(name: str) -> NightlyConfig:
    """Return a named night."""
    return _named("night", NIGHTS, name)


def _named(what: str, table: dict[str, T], name: str) -> T:
    """Return an entry of a table.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in table:
        raise ValueError(f"no {what} {name!r}; there are {', '.join(table)}")
    return table[name]
