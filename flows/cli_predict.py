"""`textmill predict` and `textmill glue-submission`: a fine-tuned model's answers."""

import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.terminal import bar, console, errors, escape

app = typer.Typer()
Row = dict[str, Any]


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(help="tuned/NAME, a fingerprint, or textmill-sample-TASK@champion.")
    ],
    file: Annotated[
        str, typer.Argument(help="Rows: .jsonl, .csv, .tsv, .parquet; - for JSON lines on stdin.")
    ] = "",
    field: Annotated[
        list[str] | None, typer.Option(help="One row instead: COLUMN=TEXT (repeatable).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write here instead of to stdout.")] = None,
    skip_bad: Annotated[
        bool, typer.Option(help="Leave rows that cannot be read out, naming each on stderr.")
    ] = False,
) -> None:
    """Answer rows of a task with a fine-tuned model: JSON lines, in the order of the rows."""
    if bool(file) == bool(field):
        raise ValueError("give a FILE of rows, or one row as --field COLUMN=TEXT ...")
    predictor = open_model(model)
    rows = [row_of(field, predictor.task.lists)] if field else list(rows_of(file))
    good = [(number, row) for number, row in enumerate(rows, 1)]
    problems = {number: wrong for number, row in good if (wrong := predictor.problem(row))}
    where = file or "--field"
    for number, wrong in problems.items():
        if not skip_bad:
            raise ValueError(f"{where}, row {number}: {wrong}; --skip-bad leaves such rows out")
        errors.print(escape(f"left out: {where}, row {number}: {wrong}"), soft_wrap=True)
    good = [(number, row) for number, row in good if number not in problems]
    answers = answer(predictor, [row for _, row in good], model)
    lines = [
        shown(number, a, predictor.labels) for (number, _), a in zip(good, answers, strict=True)
    ]
    write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), out)


@app.command()
def glue_submission(
    models: Annotated[list[str], typer.Argument(help="tuned/NAME ... of GLUE's tasks.")],
    out: Annotated[Path, typer.Option(help="The zip file to write.")] = Path("submission.zip"),
) -> None:
    """Answer GLUE's test sets and zip the files its server takes."""
    from flows.settings import enter
    from modules.evaluation import glue_files
    from modules.rows import find_rows, read_rows

    data, texts = enter().data, dict[str, str]()
    for model in models:
        predictor = open_model(model)
        for wanted in glue_files.files_of(predictor.task):
            path = data / "hub" / glue_files.HUB / wanted.config / wanted.split
            try:
                rows = list(read_rows(find_rows(path)))
            except FileNotFoundError:
                if wanted is glue_files.NLI:
                    continue  # the diagnostics are optional
                raise
            if wanted.file in texts:
                raise ValueError(f"{model}: another model has answered {wanted.file} already")
            for number, row in enumerate(rows, 1):
                if wrong := predictor.problem(row):
                    raise ValueError(f"{path}, row {number}: {wrong}")
            answers = answer(predictor, rows, wanted.file)
            texts[wanted.file] = glue_files.tsv(wanted, rows, answers)
    write_zip(out, texts)
    every = {f.file for files in glue_files.FILES.values() for f in files}
    missing = sorted(every - set(texts))
    console.print(f"{out}: {', '.join(texts)}", soft_wrap=True)
    if missing:
        console.print(f"not in it, and GLUE's server wants them: {', '.join(missing)}")


def open_model(reference: str) -> Any:
    """Return the predictor of a tuned checkpoint."""
    from flows.settings import enter
    from registry import artifacts

    found = artifacts.checkout(enter(), reference)
    from modules.training.predictor import load_tuned

    return load_tuned(found.path)


def rows_of(file: str) -> Sequence[Row]:
    """Return the rows of a file, or of standard input.

    Raises:
        ValueError, FileNotFoundError: it cannot be read; names file and row.
    """
    from modules.rows import read_rows

    if file != "-":
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file} is not there")
        return list(read_rows(Path(file)))
    rows = []
    for number, line in enumerate(sys.stdin, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"stdin, row {number}: not JSON ({error})") from None
        if not isinstance(rows[-1], dict):
            raise ValueError(f"stdin, row {number}: expected an object")
    return rows


def row_of(fields: Sequence[str], lists: Sequence[str]) -> Row:
    """Return the row of COLUMN=TEXT words; a column of several texts is given several times.

    Raises:
        ValueError: a word has no "=".
    """
    row: Row = {}
    for word in fields:
        column, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"--field {word!r}: expected COLUMN=TEXT")
        row[column] = [*row.get(column, []), text] if column in lists else text
    return row


def answer(predictor: Any, rows: Sequence[Row], what: str) -> list[Row]:
    """Answer rows, with a bar on a terminal."""
    with bar(what) as progress:
        found: list[Row] = predictor.predict(rows, lambda done: progress(done, len(rows), ""))
    return found


def shown(number: int, given: Row, labels: Sequence[str]) -> Row:
    """Return one line of the output."""
    chances = given["probabilities"]
    named = dict(zip(labels, chances, strict=True)) if labels else chances
    return {"row": number, **given, "probabilities": named}


def write(text: str, out: Path | None) -> None:
    """Write to a file, whole or not at all, or to standard output."""
    from modules.files import write_bytes

    if out:
        write_bytes(out, text.encode("utf-8", "replace"))
    else:
        typer.echo(text, nl=False)


def write_zip(out: Path, texts: dict[str, str]) -> None:
    """Write files into one zip; the same texts are the same bytes."""
    from modules.files import write_bytes

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(texts.items()):
            archive.writestr(zipfile.ZipInfo(name), text)
    write_bytes(out, buffer.getvalue())
