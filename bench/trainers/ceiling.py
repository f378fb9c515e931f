"""The ceiling in the faster precision: the best rate of a large product, PyTorch's or ours."""

import sys

import torch

from bench.trainers import answer, bf16, job
from modules.training.ceiling import ceiling

job()
dtype = torch.bfloat16 if bf16() else torch.float32
for _ in sys.stdin:
    answer(flops=ceiling("cpu", dtype, seconds=1.0))
