"""A training process does without torchmetrics; who wants it still gets the real one."""

import subprocess
import sys

import pytest

SLOW = {"torchmetrics", "scipy", "matplotlib", "transformers", "sklearn", "pandas"}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_training_imports_nothing_slow_that_it_does_not_use():
    names = python(
        "import sys; from modules.training import finetune, pretrain; print(*sys.modules)"
    )
    assert not SLOW & set(names.split())


@pytest.mark.parametrize("first", ["torchmetrics", "modules.training.loop"])
def test_torchmetrics_is_the_real_one_for_others(first):
    code = f"import {first}, torchmetrics, modules.training.loop; from torch import tensor\n"
    code += "metric = torchmetrics.MeanMetric(); metric.update(tensor([1.0, 2.0]))\n"
    code += "print(float(metric.compute()), isinstance(metric, torchmetrics.Metric))"
    assert python(code).split() == ["1.5", "True"]
