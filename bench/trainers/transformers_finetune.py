"""transformers.Trainer on the same weights and rows, with dynamic padding and length groups.

One sequence per example goes through GPT2ForSequenceClassification. For several there is no class,
so a module such as its users write: all sequences in one batch, the state of each one's last token,
then one linear layer on the sum of both orders (similarity) or on each answer.
"""

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    DataCollatorWithPadding,
    GPT2ForSequenceClassification,
    GPT2Model,
    GPT2TokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bench.trainers import job
from bench.trainers.finetune import Turns, rows_of

settings = job()
folder = Path(settings["folder"])
PAD = settings["pad"]


class Several(nn.Module):
    """GPT-2 on K sequences per example."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = GPT2Model.from_pretrained(folder / "hf", dtype=torch.float32)
        self.choice = settings["format"] == "multiple_choice"
        self.score = nn.Linear(self.decoder.config.n_embd, 1 if self.choice else 2, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return loss and logits for input_ids (B * K, T)."""
        states = self.decoder(input_ids, attention_mask=attention_mask, use_cache=False)[0]
        ends = attention_mask.sum(1) - 1
        states = states[torch.arange(len(ends)), ends].unflatten(0, (len(labels), -1))  # (B, K, C)
        logits = self.score(states).squeeze(-1) if self.choice else self.score(states.sum(1))
        return {"loss": nn.functional.cross_entropy(logits.float(), labels), "logits": logits}


class Waits(TrainerCallback):
    """Waits for its turn between steps."""

    def __init__(self) -> None:
        self.turns = Turns(settings)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """End the training at the end of the input."""
        control.should_training_stop = self.turns()


tokenizer = GPT2TokenizerFast.from_pretrained(folder / "hf", pad_token="<|endoftext|>")
pad = DataCollatorWithPadding(tokenizer)


def collate(rows: list[dict[str, Any]]) -> Any:
    """Pad the sequences of all rows to the longest."""
    batch = pad([{"input_ids": ids} for row in rows for ids in row["sequences"]])
    return {**batch, "labels": torch.tensor([row["label"] for row in rows])}


rows = [{**r, "length": max(map(len, r["sequences"]))} for r in rows_of(settings)]
if settings["name"].endswith("one order"):
    rows = [{**row, "sequences": row["sequences"][:1]} for row in rows]
if len(rows[0]["sequences"]) == 1:
    model: nn.Module = GPT2ForSequenceClassification.from_pretrained(
        folder / "hf",
        num_labels=settings["classes"],
        pad_token_id=PAD,
        dtype=torch.float32,
        use_cache=False,
    )
else:
    model = Several()
arguments = TrainingArguments(
    output_dir=str(folder / "out"),
    per_device_train_batch_size=settings["batch"],
    dataloader_drop_last=True,
    num_train_epochs=10**5,
    learning_rate=6.25e-5,
    weight_decay=0.01,
    bf16=settings["bf16"],
    use_cpu=True,
    train_sampling_strategy="group_by_length",
    save_strategy="no",
    logging_strategy="no",
    disable_tqdm=True,
    remove_unused_columns=False,
)
Trainer(
    model,
    arguments,
    data_collator=collate,
    train_dataset=Dataset.from_list(rows),  # which knows its lengths
    callbacks=[Waits()],
).train()
