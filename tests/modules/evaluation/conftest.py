"""A tiny checkpoint with a real tokenizer, weights large enough to have opinions."""

from pathlib import Path

import pytest
import torch

from modules import tokenizer as bpe
from modules.files import read_jsonl
from modules.model.checkpoint import save
from modules.model.gpt import GPT, GPTConfig
from modules.model.lstm import LSTM, LSTMConfig


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_checkpoint(folder: Path, data: Path, architecture: str) -> Path:
    texts = [row["text"] for row in read_jsonl(data / "lm" / "val.jsonl.zst")]
    config = bpe.TokenizerConfig(vocab_size=1000)
    bpe.train(texts, folder / "tokenizer", config)
    torch.manual_seed(0)
    if architecture == "lstm":
        sizes = LSTMConfig(vocab_size=1000, n_positions=256, n_embd=16, n_units=24, init_std=0.3)
        save(LSTM(sizes), folder)
    else:
        gpt = GPTConfig(
            vocab_size=1000, n_positions=256, n_embd=32, n_layer=2, n_head=2, init_std=0.2
        )
        save(GPT(gpt), folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("gpt"), data, "gpt")


@pytest.fixture(scope="session")
def lstm_checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("lstm"), data, "lstm")
