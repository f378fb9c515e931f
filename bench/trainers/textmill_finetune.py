"""textmill's fine-tuning, stopped between steps to wait for its turn."""

from pathlib import Path

from bench.trainers import job
from bench.trainers.finetune import Turns, rows_of
from modules.model import checkpoint
from modules.model.heads import HeadConfig, TaskModel
from modules.training import loop
from modules.training.finetune import FinetuneData, FinetuneModule
from modules.training.transform import Encoded
from modules.training.tuning_config import FinetuneConfig

settings = job()
folder = Path(settings["folder"])
examples = [
    Encoded(str(i), tuple(map(tuple, row["sequences"])), row["label"], cut=False)
    for i, row in enumerate(rows_of(settings))
]
config = FinetuneConfig(
    lm_weight=0.5 if settings["name"].endswith("LM") else 0.0,
    precision="bf16-mixed" if settings["bf16"] else "32-true",
    threads=settings["threads"],
    batch_size=settings["batch"],
    checkpoint_every=10**9,
    log_every=10**6,
)
head = HeadConfig(format=settings["format"], n_classes=settings["classes"])
model = TaskModel(checkpoint.load(folder / "ours"), head).train()
module = FinetuneModule(model, config, [], total=10**6)
data = FinetuneData(examples, config, start=0, stop=10**6)
turns = Turns(settings)
safety = loop.Safety(folder / settings["name"], "", lambda event: None, turns)
loop.prepare(config, safety)
loop.run(module, data, config, safety, val_every=0, tokens=lambda step: step)
