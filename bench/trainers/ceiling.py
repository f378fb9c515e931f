"""The bfloat16 ceiling: the best rate of a large product, PyTorch's or ours."""

import sys

import torch

from bench.trainers import answer, job
from modules.training.ceiling import ceiling

job()
for _ in sys.stdin:
    answer(flops=ceiling("cpu", torch.bfloat16, seconds=1.0))
