"""Lightning as trainings import it: without torchmetrics, which it needs for `self.log` alone.

torchmetrics imports scipy, matplotlib and, where it is installed, transformers: 1.5 to 3 s of a
core and 120 MB in every process that trains. Nothing here logs by `self.log`. While Lightning is
imported, a stand-in has the two classes it names; afterwards `import torchmetrics` is the real one.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType

from torch import nn

NAME = "torchmetrics"


@contextmanager
def stand_in() -> Iterator[None]:
    """Answer `import torchmetrics` with two empty classes, unless it is imported already."""
    if NAME in sys.modules or "lightning" in sys.modules:
        yield
        return
    module = ModuleType(NAME, "Stands in for torchmetrics while Lightning is imported.")
    module.__spec__ = ModuleSpec(NAME, None)
    for name in ("Metric", "MetricCollection"):
        setattr(module, name, type(name, (nn.Module,), {"__module__": NAME}))
    module.__version__ = version(NAME)  # type: ignore[attr-defined]
    sys.modules[NAME] = module
    try:
        yield
    finally:
        del sys.modules[NAME]


with stand_in():
    import lightning as L
    from lightning.pytorch.strategies import (
        DDPStrategy,
        ModelParallelStrategy,
        ParallelStrategy,
        Strategy,
    )
    from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = [
    "DDPStrategy",
    "L",
    "ModelParallelStrategy",
    "ParallelStrategy",
    "SIGTERMException",
    "Strategy",
]
