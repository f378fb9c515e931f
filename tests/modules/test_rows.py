"""Rows come out the same whatever file they are in; a damaged file is named with its row."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from modules.files import write_jsonl
from modules.rows import ENDINGS, find_rows, read_rows

ROWS = [{"text": 'He said "no", twice', "label": "1"}, {"text": "two\u2028lines", "label": "0"}]


def write(folder, ending):
    path = folder / f"train{ending}"
    if ending.endswith(".parquet"):
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif ending == ".csv":
        text = 'label,text\r\n1,"He said ""no"", twice"\r\n\r\n0,two\u2028lines\r\n'
        path.write_bytes(text.encode("utf-8-sig"))
    elif ending == ".tsv":
        path.write_text('label\ttext\n1\tHe said "no", twice\n0\ttwo\u2028lines\n')
    else:
        write_jsonl(path, ROWS)
    return path


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e != ".txt"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    path = write(tmp_path, ending)
    assert find_rows(tmp_path / "train") == path
    assert list(read_rows(path)) == ROWS


def test_types_are_kept_where_the_file_has_them(tmp_path):
    rows = [{"options": ["a", "b"], "label": 1, "score": 0.5}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert list(read_rows(tmp_path / "x.parquet")) == rows


def test_no_file_is_answered_with_the_endings(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train is not there.*\.jsonl.*\.parquet"):
        find_rows(tmp_path / "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"a,b\n1,2\n1,2,3\n", "row 2: 3 fields for the columns a, b"),
        ("x.csv", b"a,b\n1\n", "row 1: 1 fields"),
        ("x.csv", b'a,b\n1,2\n"open,2\n', "after row 1: unexpected end of data"),
        ("x.tsv", b"a\tb\n1\t\xff\n", "after row 0: .*can't decode"),
        ("x.parquet", b"PAR1 and no more", "no readable Parquet file"),
        ("x.jsonl", b'{"a": 1}\n[2]\n', "line 2: expected an object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}, {message}|{name}: {message}"):
        list(read_rows(tmp_path / name))


def test_plain_text_is_one_row_a_line(tmp_path):
    (tmp_path / "x.txt").write_bytes("one\r\n\n two\u2028 M\u00fchle \n".encode())
    assert find_rows(tmp_path / "x") == tmp_path / "x.txt"
    texts = [row["text"] for row in read_rows(tmp_path / "x.txt")]
    assert texts == ["one\r", "", " two\u2028 M\u00fchle "]


def test_a_text_cut_inside_its_last_character_loses_that(tmp_path):
    """enwik8 ends at 100,000,000 bytes, wherever that is."""
    (tmp_path / "x.txt").write_bytes("a\nM\u00fc".encode()[:-1])
    assert [row["text"] for row in read_rows(tmp_path / "x.txt")] == ["a", "M"]
    (tmp_path / "x.txt").write_bytes("M\u00fc".encode()[:-1] + b"\nb\n")
    with pytest.raises(ValueError, match=r"x\.txt, line 1: not UTF-8"):
        list(read_rows(tmp_path / "x.txt"))
    (tmp_path / "x.txt").write_bytes(b"a\nb\xff c\n")
    with pytest.raises(ValueError, match=r"x\.txt, line 2: not UTF-8"):
        list(read_rows(tmp_path / "x.txt"))
