"""What is served under a name: a model that may be replaced by another one between requests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modules import tokenizer as bpe
from modules.model import checkpoint
from modules.model.gpt import GPT
from modules.model.lstm import LSTM
from modules.serving.engine import Engine
from modules.serving.limits import Limits
from modules.tokenizer import Tokenizer
from modules.training.predictor import Predictor, load_tuned


@dataclass(eq=False)
class Loaded:
    """A checkpoint in memory: a decoder that continues and scores, or a task's predictor."""

    fingerprint: str
    tokenizer: Tokenizer
    engine: Engine
    model: GPT | LSTM | None = None
    predictor: Predictor | None = None
    users: int = 0
    retired: bool = False
    created: int = field(default_factory=lambda: int(time.time()))


def load(folder: Path, fingerprint: str, limits: Limits, device: str = "cpu") -> Loaded:
    """Open a checkpoint or a tuned checkpoint.

    Raises:
        FileNotFoundError, ValueError: it is neither, or damaged.
    """
    room = {"rows": limits.rows, "queue": limits.queue}
    if (folder / "task.json").exists():
        predictor = load_tuned(folder, device)
        engine = Engine(None, **room)
        return Loaded(fingerprint, predictor.tokenizer, engine, predictor=predictor)
    tokenizer, model = bpe.load(folder / "tokenizer"), checkpoint.load(folder, device)
    return Loaded(fingerprint, tokenizer, Engine(model, **room), model=model)


class Slot:
    """A name, what stands behind it, and why a newer one does not."""

    def __init__(self, name: str, loaded: Loaded) -> None:
        self.name, self.current = name, loaded
        self.error = ""  # of the last try to follow
        self._lock = threading.Lock()

    @contextmanager
    def use(self) -> Iterator[Loaded]:
        """Hold what is served at present until one request is answered."""
        with self._lock:
            loaded = self.current
            loaded.users += 1
        try:
            yield loaded
        finally:
            with self._lock:
                loaded.users -= 1
                _close_unused(loaded)

    def replace(self, loaded: Loaded) -> None:
        """Serve another one from the next request on; the old one ends with its last request."""
        with self._lock:
            old, self.current = self.current, loaded
            old.retired = True
            _close_unused(old)


def _close_unused(loaded: Loaded) -> None:
    if loaded.retired and not loaded.users:
        loaded.engine.close()
