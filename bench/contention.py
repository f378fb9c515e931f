"""What a flow and Prefect's server take from the training that they watch.

    python -m bench.contention --root /tmp/contention --pairs 20

bench.overhead tells what a chain waits for. While a training process works nobody waits, but the
flow and the temporary server need the processor too. Here both are stopped for some seconds and go
on for as many, again and again within one training, so that the speed of a shared host, which
swings by two within minutes, is the same for both: each stop is compared with what is before and
after it. A tenth of each window is left out at its beginning.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil

from flows.temporary_server import APP
from modules.training.events import read_events

LEFT_OUT = 0.1  # of a window
ENDLESS = {"max_steps": 10**6, "val_every": 0, "checkpoint_every": 10**6}
DRAWS = 2000  # bootstrap samples


def project(root: Path) -> dict[str, str]:
    """Make a project with the sample's tokens; return the environment of its commands."""
    environment = os.environ | {"TEXTMILL_ROOT": str(root.resolve())}
    if not root.exists():
        root.mkdir(parents=True)
        for name in ("data", "data.dvc"):
            (root / name).symlink_to(Path(name).resolve())
        command = [sys.executable, "-m", "flows.cli", "corpus", "sample"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return environment


def watchers(flow: psutil.Popen) -> list[psutil.Process]:
    """Return the flow's process and its temporary server."""
    servers = [x for x in flow.children(recursive=True) if APP in x.cmdline()]
    return [psutil.Process(flow.pid), *servers]


def read(events: Path) -> list[tuple[float, int]]:
    """Return [(time, step)] of a training so far."""
    return [(row["time"], row["step"]) for row in read_events(events) if "loss" in row]


def windows(flow: psutil.Popen, pairs: int, seconds: float) -> list[tuple[float, float]]:
    """Let the watchers go on and stop them in turn; return when each window began and ended."""
    found = []
    for number in range(2 * pairs + 1):
        stopped = watchers(flow) if number % 2 else []
        began = time.time()
        try:
            for process in stopped:
                process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
        finally:
            for process in reversed(stopped):
                process.send_signal(signal.SIGCONT)
        found.append((began + LEFT_OUT * seconds, time.time()))
        print(f"\r{number + 1} of {2 * pairs + 1} windows", end="", flush=True)
    return found


def speed(steps: list[tuple[float, int]], window: tuple[float, float]) -> float:
    """Return the steps per second of a training within a window."""
    within = [x for x in steps if window[0] <= x[0] <= window[1]]
    (began, first), (ended, last) = within[0], within[-1]
    return (last - first) / (ended - began)


def main() -> None:
    """Train, stop the watchers in turn, print what they cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="a folder for the project")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a window")
    given = parser.parse_args()
    environment = project(given.root)
    command = [sys.executable, "-m", "flows.cli", "pretrain", "sample"]
    command += [x for k, v in ENDLESS.items() for x in ("--set", f"pretrain.{k}={v}")]
    with (given.root / "flow.log").open("w") as log:
        flow = psutil.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        folder = given.root / ".textmill" / "training" / "sample"
        while not (files := sorted(folder.glob("*.jsonl"))) or len(read(files[-1])) < 10:
            assert flow.poll() is None, (given.root / "flow.log").read_text()
            time.sleep(1)
        found = windows(flow, given.pairs, given.seconds)
    finally:
        flow.terminate()
        flow.wait()
    speeds = [speed(read(files[-1]), window) for window in found]
    costs = [
        1 - (speeds[i - 1] + speeds[i + 1]) / 2 / speeds[i] for i in range(1, len(speeds) - 1, 2)
    ]
    draw = random.Random(0)
    drawn = sorted(median(draw.choices(costs, k=len(costs))) for _ in range(DRAWS))
    low, high = drawn[DRAWS // 40], drawn[-DRAWS // 40]
    print(f"\nwith both at work: {median(speeds[::2]):.2f} steps/s", end=", ")
    print(f"while they are stopped: {median(speeds[1::2]):.2f}")
    print(f"they take {median(costs):.2%} of a training's speed (95 %: {low:.2%} to {high:.2%})")


if __name__ == "__main__":
    main()
