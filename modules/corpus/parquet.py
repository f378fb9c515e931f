"""Read link tables in Parquet batch by batch, whatever they hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from modules.corpus.submissions import COLUMNS, FIELDS, Rejection, Submission, submission

BATCH = 10_000  # rows held at a time
MAX_GROUP = 2**32  # bytes of a row group in the columns read; writers make 128 MiB to 1 GiB
MAX_FOOTER = 2**24  # bytes of a string, and entries of a list, in the file's description
DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)


def read_parquet(path: Path, file: IO[bytes]) -> Iterator[Submission | Rejection]:
    """Yield the rows of a Parquet file; damage costs the row, or the rest of a broken file.

    Raises:
        ValueError: a needed column is missing.
    """
    number = 0
    try:
        table = parquet.ParquetFile(
            file, thrift_string_size_limit=MAX_FOOTER, thrift_container_size_limit=MAX_FOOTER
        )
        names = table.schema_arrow.names
    except DAMAGE as error:
        yield Rejection(0, 0, _reason(error))
        return
    check_columns(path, "Parquet table", names)
    wanted = [name for name in names if name.lower() in COLUMNS]
    try:
        for group in range(table.num_row_groups):
            _check_size(table, group)
            for batch in table.iter_batches(BATCH, row_groups=[group], columns=wanted):
                for row in _rows(batch):
                    number += 1
                    yield _parse(row, number)
    except DAMAGE as error:
        yield Rejection(number + 1, 0, _reason(error))


def check_columns(path: Path, what: str, names: list[str]) -> None:
    """Raise ValueError unless there is a column for address, score and date."""
    known = {name.lower() for name in names}
    missing = [field for field, spellings in FIELDS.items() if known.isdisjoint(spellings)]
    if missing:
        raise ValueError(
            f"{path}: a {what} of links needs the columns {', '.join(FIELDS)}; "
            f"missing: {', '.join(missing)}; found: {', '.join(names)[:200]}"
        )


def _check_size(table: parquet.ParquetFile, group: int) -> None:
    """Refuse a row group that would not fit into memory, as far as the file tells the truth."""
    about = table.metadata.row_group(group)
    if about.total_byte_size > MAX_GROUP:
        raise ValueError(f"row group {group} holds {about.total_byte_size} bytes")


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """Yield rows under lower-case names; None for one whose values cannot be read."""
    names = [name.lower() for name in batch.schema.names]
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except (ValueError, OverflowError):  # some text is no UTF-8, or some date no date
        yield from (_row(batch, names, i) for i in range(len(batch)))
        return
    yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _row(batch: pa.RecordBatch, names: list[str], i: int) -> dict[str, Any] | None:
    """Return one row by itself; None if its values cannot be read."""
    try:
        return {name: batch.column(k)[i].as_py() for k, name in enumerate(names)}
    except (ValueError, OverflowError):
        return None


def _parse(row: dict[str, Any] | None, number: int) -> Submission | Rejection:
    """Return the submission in a row, or why there is none."""
    try:
        if row is None:
            raise ValueError("bad-value")
        return submission(row)
    except ValueError as error:
        return Rejection(number, 0, str(error))


def _reason(error: Exception) -> str:
    """Say in one line what is wrong with the file."""
    return f"container: {(str(error) or type(error).__name__).splitlines()[0][:200]}"
