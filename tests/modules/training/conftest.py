"""A tiny corpus and checkpoint, and a server that forks training processes which may be killed.

Importing torch and Lightning takes seconds, forking 0.1 s: the server imports once and forks a
process per attempt. It is a process of its own because autograd must not have run before a fork.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules import tokenizer as bpe
from modules.corpus.document import Document, write_documents
from modules.corpus.shards import TokensConfig, write_tokens
from modules.files import sha256, write_jsonl
from modules.model import checkpoint
from modules.model.gpt import GPTConfig

TEXT = "the old man and his dog went down to sea with seven small boats of blue wood"
WORDS = TEXT.split()
TINY = GPTConfig(
    vocab_size=280,
    n_positions=32,
    n_embd=16,
    n_layer=2,
    n_head=2,
    embd_dropout=0.1,
    attn_dropout=0.1,
    resid_dropout=0.1,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The machine is shared, and forks must not inherit a thread pool."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """tokens/ and tokenizer/ directories of a toy language."""
    root = tmp_path_factory.mktemp("corpus")
    say = random.Random(0)
    documents = [
        Document(
            id=str(i),
            text=" ".join(say.choices(WORDS, k=60)),
            meta={"split": "val" if i % 5 == 0 else "train"},
        )
        for i in range(50)
    ]
    for name in ("documents", "tokenizer", "tokens"):
        (root / name).mkdir()
    write_documents(root / "documents/documents-00000.jsonl.zst", documents)
    bpe.train((d.text for d in documents), root / "tokenizer", bpe.TokenizerConfig(vocab_size=280))
    write_tokens(root / "documents", root / "tokenizer", root / "tokens", TokensConfig())
    return {"tokens": str(root / "tokens"), "tokenizer": str(root / "tokenizer")}


@pytest.fixture(scope="session")
def pretrained(corpus: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint/ directory with untrained weights."""
    out = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    checkpoint.save(checkpoint.build(TINY), out)
    bpe.load(Path(corpus["tokenizer"])).save(out / "tokenizer")
    return out


@pytest.fixture(scope="session")
def toy_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with trivial rows for four real tasks, one per format."""
    root, say = tmp_path_factory.mktemp("data"), random.Random(1)

    def words(n: int, of: list[str] = WORDS[:8]) -> str:
        return " ".join(say.choices(of, k=n))

    def classification(i: int) -> dict[str, Any]:
        label = i % 2  # told by one word
        text = f"{words(4)} {('sea', 'wood')[label]} {words(3)}"
        return {"text": text, "label": ("apache_docs", "sqlite_docs")[label]}

    def entailment(i: int) -> dict[str, Any]:
        label = ("entailment", "not_entailment")[i % 2]
        return {"premise": words(5), "hypothesis": words(3), "label": label}

    def similarity(i: int) -> dict[str, Any]:
        return {"text_a": words(4), "text_b": words(4), "label": i % 2}

    def choice(i: int) -> dict[str, Any]:
        answers = [words(3) for _ in range(4)]
        return {"document": words(8), "question": "which", "answers": answers, "label": i % 4}

    makers = {
        "passage_source": classification,
        "question_in_sentence": entailment,
        "verse_pairs": similarity,
        "next_passage": choice,
    }
    for task, make in makers.items():
        for split, n in {"train": 96, "val": 24, "test": 40}.items():
            rows = [{"id": f"{split}-{i}", **make(i)} for i in range(n)]
            write_jsonl(root / f"finetune/{task}/{split}.jsonl", rows)
    return root


def write_stream(root: Path, ids: np.ndarray, *, eot: int, cuts: tuple[int, ...] = ()) -> Path:
    """Write ids as the training split of a tokens/ directory, cut into shards at `cuts`."""
    root.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, part in enumerate(np.split(ids.astype("<u2"), cuts)):
        path = root / f"train-{number:05d}.bin"
        part.tofile(path)
        shards.append({"file": path.name, "tokens": len(part), "sha256": sha256(path)})
    index = {"dtype": "uint16", "vocab_size": int(ids.max()) + 1, "eot": eot}
    splits = {"train": {"shards": shards, "spans": []}}
    (root / "index.json").write_text(json.dumps({**index, "splits": splits}))
    return root


@pytest.fixture(scope="session", name="write_stream")
def write_stream_fixture():
    """`write_stream`, for tests."""
    return write_stream


class Forks:
    """Asks the fork server for training processes."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("deadly_forks.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[3],
        )

    def run(self, job: dict[str, Any], **when: Any) -> dict[str, Any]:
        """Run a job; `signal` it `after` seconds or once it has reported step `at`."""
        path = Path(job["events"]).with_suffix(".job.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(job))
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"path": str(path), **when}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """The fork server, started once."""
    server = Forks()
    yield server
    server.process.stdin.close()
    server.process.wait(10)


def digests(out: Path) -> dict[str, str]:
    """The SHA-256 of every file of a finished directory."""
    return {str(p.relative_to(out)): sha256(p) for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session", name="digests")
def digests_fixture():
    """`digests`, for tests: with importlib mode they cannot import this file."""
    return digests


@pytest.fixture(scope="session")
def tiny() -> GPTConfig:
    """The smallest decoder, with dropout."""
    return TINY
