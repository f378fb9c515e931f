"""The model that MLflow serves: continues texts, or says how probable they are.

MLflow keeps a copy of this file beside the weights and runs it where the model is loaded. It is
the one file that needs both mlflow and torch.
"""

import math
from pathlib import Path
from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from modules import tokenizer
from modules.model import checkpoint, generate
from modules.model.base import IGNORED

DEFAULTS: dict[str, Any] = {
    "mode": "generate",
    "max_new_tokens": 32,
    "temperature": 1.0,
    "top_k": 40,
    "top_p": 1.0,
    "seed": 0,
}


class TextModel(PythonModel):
    """A decoder and its tokenizer behind MLflow's `predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint (safetensors and JSON only)."""
        folder = Path(context.artifacts["checkpoint"])
        self.model = checkpoint.load(folder)
        self.tokenizer = tokenizer.load(folder / "tokenizer")

    def predict(
        self,
        context: PythonModelContext,
        model_input: list[str],
        params: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Return one result per text: its continuation, or how probable it is.

        Args:
            context: MLflow's; not needed after loading.
            model_input: texts; a DataFrame with the one column `text` does too.
            params: mode "generate" with max_new_tokens (at most what the model has room for),
                temperature (0: greedy), top_k (0: all tokens), top_p and seed; or mode "score",
                which gives {tokens, log_likelihood (nats), perplexity (per token)}.
        """
        chosen = DEFAULTS | (params or {})
        texts = [str(text) for text in model_input]
        if chosen["mode"] == "score":
            return [self._score(text) for text in texts]
        if chosen["mode"] != "generate":
            raise ValueError(f"mode {chosen['mode']!r}: expected 'generate' or 'score'")
        config = generate.GenerationConfig(
            max_new_tokens=min(chosen["max_new_tokens"], self.model.config.n_positions - 1),
            temperature=chosen["temperature"],
            top_k=chosen["top_k"] or None,
            top_p=chosen["top_p"],
            seed=chosen["seed"],
        )
        prompts = self.tokenizer.encode_batch(texts)
        rows = generate.generate(self.model, prompts, config, eot=self.tokenizer.eot)
        return [self.tokenizer.decode(row) for row in rows]

    @torch.no_grad()
    def _score(self, text: str) -> dict[str, float]:
        """Return the log-likelihood of a text after end-of-text, in windows that half overlap."""
        ids = torch.tensor([[self.tokenizer.eot, *self.tokenizer.encode(text)]])  # (1, T + 1)
        tokens, targets = ids[:, :-1], ids[:, 1:]
        size, n, done, loss = self.model.config.n_positions, tokens.shape[1], 0, 0.0
        while done < n:
            end = min(done + (size if done == 0 else size // 2), n)
            begin = max(0, end - size)
            scored = targets[:, begin:end].clone()
            scored[:, : done - begin] = IGNORED  # the window before scored these
            loss += float(self.model.token_losses(self.model(tokens[:, begin:end]), scored).sum())
            done = end
        perplexity = math.exp(min(loss / max(n, 1), 700.0))  # exp(710) overflows
        return {"tokens": n, "log_likelihood": -loss, "perplexity": perplexity}


set_model(TextModel())
