"""Sort more lines than fit into memory: sorted runs on disk, merged a few at a time."""

import heapq
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import zstandard

from modules.files import atomic_write

FAN_IN = 128  # runs merged at once: open files, and a window and a buffer in memory for each
WINDOW_LOG = 17  # 128 KiB for each open run; zstd's own choice is 2 MiB and more
BUFFER = 2**16


def write_run(path: Path, lines: Iterable[bytes]) -> None:
    """Write sorted lines, each with its newline."""
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=WINDOW_LOG)
    with atomic_write(path) as raw:
        packed = zstandard.ZstdCompressor(compression_params=settings).stream_writer(
            raw, closefd=False
        )
        with io.BufferedWriter(cast(io.RawIOBase, packed), BUFFER) as file:
            file.writelines(lines)


def merge_runs(runs: list[Path], scratch: Path) -> Iterator[bytes]:
    """Yield the lines of sorted runs in order; `scratch` takes what must be merged before."""
    while len(runs) > FAN_IN:
        merged = [
            _merge_into(scratch / f"merged-{len(runs)}-{i}", runs[i : i + FAN_IN])
            for i in range(0, len(runs), FAN_IN)
        ]
        runs = merged
    with ExitStack() as stack:
        yield from heapq.merge(*[stack.enter_context(_lines(path)) for path in runs])


def _merge_into(path: Path, runs: list[Path]) -> Path:
    """Merge a few runs into one."""
    write_run(path, merge_runs(runs, path.parent))
    return path


def _lines(path: Path) -> io.BufferedReader:
    """Open a run; iterating yields its lines."""
    stream = zstandard.ZstdDecompressor().stream_reader(
        path.open("rb"), read_size=BUFFER, closefd=True
    )
    return io.BufferedReader(stream, BUFFER)
