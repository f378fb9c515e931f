"""The ceiling that MFU is told against is the best of several measurements, early and late."""

from types import SimpleNamespace

from modules.training import meter
from modules.training.meter import AGAIN, Meter


def test_other_work_at_the_start_does_not_lower_the_ceiling(monkeypatch):
    clock, measured = [0.0], iter([100.0, 400.0, 300.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: clock[0])

    def ceiling(*_):
        clock[0] += 0.3
        return next(measured)

    monkeypatch.setattr(meter, "ceiling", ceiling)
    module = SimpleNamespace(
        done=0, total=1000, device=SimpleNamespace(type="cpu"), product_dtype=None
    )
    module.trainer = SimpleNamespace(world_size=2)
    watch = Meter(lambda step: 10 * step, lambda step: 4)
    watch.start(0)
    found = []
    for _ in range(AGAIN**2 + 1):
        clock[0], module.done = clock[0] + 1, module.done + 1
        found.append(watch.read(module))
    assert next(measured, None) is None
    assert [row["tokens_per_second"] for row in found] == [10.0] * len(found)
    ceilings = [40 / row["mfu"] for row in found]
    assert ceilings == [200.0] * (AGAIN - 1) + [800.0] * (len(found) - AGAIN + 1)
