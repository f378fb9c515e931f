"""How fast a run goes: tokens per second, time left, and MFU against the device's own ceiling."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from modules.training.ceiling import ceiling
from modules.training.step import Training

SECOND = 1.0  # between readings
WINDOW = 30  # readings that a rate is taken over
LONG = 20.0  # seconds: runs with more ahead measure the device's ceiling, 0.3 s
AGAIN = 8  # times as many readings later once more: what else ran at the start hid some of it


class Meter:
    """Rates over the last readings; the first step warms up and says nothing about them."""

    def __init__(
        self, tokens: Callable[[int], int], flops: Callable[[int], int] | None = None
    ) -> None:
        """Take tokens read in all steps before one, and operations per token at a step."""
        self.tokens, self.flops = tokens, flops
        self.ceiling = 0.0  # FLOP/s of all ranks, the best measured; 0: not measured
        self._warm = False
        self._readings, self._next = 0, 1
        self._clock: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # (time, step)

    def start(self, step: int) -> None:
        """Start the clock before a step."""
        self._clock.append((time.monotonic(), step))

    @property
    def due(self) -> bool:
        """True after the first step and a second after the last reading."""
        return not self._warm or time.monotonic() - self._clock[-1][0] >= SECOND

    def read(self, module: Training) -> dict[str, Any]:
        """Return tokens, rate, seconds left and, in long runs, MFU."""
        now, done = time.monotonic(), module.done
        seconds, steps = now - self._clock[0][0], done - self._clock[0][1]
        rate = (self.tokens(done) - self.tokens(done - steps)) / seconds
        left = (module.total - done) * seconds / steps
        self._readings += 1
        if self.flops and left > LONG and self._readings == self._next:
            self._next *= AGAIN
            alone = ceiling(module.device.type, module.product_dtype)
            self.ceiling = max(self.ceiling, alone * module.trainer.world_size)
            self._clock.clear()  # the time it took is not the training's
        if not self._warm:
            self._warm = True
            self._clock.clear()
        self.start(done)
        found = {
            "tokens": self.tokens(done),
            "tokens_per_second": round(rate, 1),
            "eta": round(left, 1),
        }
        if self.flops and self.ceiling:
            found["mfu"] = round(rate * self.flops(done - 1) / self.ceiling, 4)
        return found
