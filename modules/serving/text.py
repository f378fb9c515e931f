"""Tokens to text as they come: whole characters only, up to a stop string, with log-probabilities.

The form of log-probabilities is that of OpenAI's completions.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modules.model.endings import begun
from modules.model.gpt import GPT
from modules.model.lstm import LSTM
from modules.tokenizer import Tokenizer


class Text:
    """A text that grows by tokens; what may become a stop string is held back."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.tokenizer, self.stops = tokenizer, list(stops)
        self.ended = False  # by a stop string
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, token: int) -> str:
        """Take a token in; return the text that has become certain."""
        return self._certain(self._decoder.decode(self.tokenizer.decode_bytes([token])))

    def close(self) -> str:
        """Return the rest of a text that nothing follows."""
        rest = "" if self.ended else self._certain(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return rest + held

    def _certain(self, new: str) -> str:
        self._held += new
        found = [at for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.ended, out, self._held = True, self._held[: min(found)], ""
            return out
        ready = len(self._held) - begun(self._held, self.stops)
        out, self._held = self._held[:ready], self._held[ready:]
        return out


def spelling(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text; where its bytes are no whole characters, as OpenAI writes them."""
    raw = tokenizer.decode_bytes([token])
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def entry(
    tokenizer: Tokenizer, token: int, logits: Tensor, top: int, offset: int
) -> dict[str, Any]:
    """Return what logits (V,) say of a token, and of the `top` likeliest."""
    logprobs = logits.double().log_softmax(-1)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    best = zip(ids.tolist(), values.tolist(), strict=True)
    return {
        "tokens": spelling(tokenizer, token),
        "token_logprobs": float(logprobs[token]),
        "top_logprobs": {spelling(tokenizer, i): value for i, value in best},
        "text_offset": offset,
    }


def columns(entries: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return entries as OpenAI lists them, one list per field."""
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {name: [row[name] for row in entries] for name in names}


@torch.no_grad()
def prompt_entries(
    model: GPT | LSTM, tokenizer: Tokenizer, prompt: list[int], top: int
) -> list[dict[str, Any]]:
    """Return the entries of a prompt's own tokens; nothing is known of the first one."""
    hidden = model(torch.tensor([prompt], device=model.device))[0]  # (T, C)
    text, offset = Text(tokenizer, ()), 0
    entries: list[dict[str, Any]] = []
    for i, token in enumerate(prompt):
        if i:
            logits = model.logits(hidden[i - 1]).float().cpu()
            entries.append(entry(tokenizer, token, logits, top, offset))
        else:
            nothing = {"token_logprobs": None, "top_logprobs": None, "text_offset": 0}
            entries.append({"tokens": spelling(tokenizer, token), **nothing})
        offset += len(text.push(token))
    return entries
