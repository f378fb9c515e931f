"""Read a data set's rows from the file they lie in: JSON lines, CSV, TSV, Parquet or plain text.

The public sets come as any of these. Values keep their types where the file has types; in CSV and
TSV all are text.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.files import MAX_LINE, read_jsonl

Row = dict[str, Any]

ENDINGS = (".jsonl", ".jsonl.zst", ".csv", ".tsv", ".parquet", "-00000-of-00001.parquet", ".txt")
"""What may follow a split's name; -00000-of- is how the hub names a split of one file."""
BATCH = 1024  # Parquet rows held at a time


def find_rows(path: Path) -> Path:
    """Return the file of rows for a path given without its ending.

    Raises:
        FileNotFoundError: there is none.
    """
    for ending in ENDINGS:
        candidate = path.with_name(path.name + ending)
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{path} is not there, with any of the endings {', '.join(ENDINGS)}")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        ValueError: the file or a row of it cannot be read; names file and row.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".csv":
        return _table(path, delimiter=",", strict=True)
    if path.suffix == ".tsv":  # as GLUE's: quotation marks are text
        return _table(path, delimiter="\t", quoting=csv.QUOTE_NONE)
    if path.suffix == ".txt":
        return _lines(path)
    return read_jsonl(path)


def _lines(path: Path) -> Iterator[Row]:
    """Yield the lines of a plain text, without their ends, under `text`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield {"text": line.removesuffix(b"\n").decode()}
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data" and not file.read(1):
                    yield {"text": line[: error.start].decode()}  # enwik8 ends within a character
                    continue
                raise ValueError(f"{path}, line {number}: not UTF-8 ({error})") from None


def _table(path: Path, **dialect: Any) -> Iterator[Row]:
    """Yield the rows below the line of column names; empty lines are none."""
    csv.field_size_limit(MAX_LINE)
    number = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, **dialect)
        try:
            names = next(lines, [])
            for number, fields in enumerate(filter(None, lines), 1):
                if len(fields) != len(names):
                    raise ValueError(
                        f"{path}, row {number}: {len(fields)} fields for the columns "
                        f"{', '.join(names)}"
                    )
                yield dict(zip(names, fields, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, after row {number}: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file, a batch at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches(BATCH):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: no readable Parquet file ({reason})") from None
