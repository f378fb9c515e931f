"""Files that are whole or absent."""

import pytest
import zstandard

from modules.files import atomic_write, read_jsonl, write_jsonl

ROWS = [{"id": n, "text": f"line\u2028{n}" * 50} for n in range(500)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.zst"])
def test_rows_come_back(tmp_path, name):
    assert write_jsonl(tmp_path / name, ROWS) == 500
    assert list(read_jsonl(tmp_path / name)) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no temporary file stays


def test_equal_rows_are_equal_bytes(tmp_path):
    write_jsonl(tmp_path / "a.jsonl.zst", [{"b": 1, "a": 2}])
    write_jsonl(tmp_path / "b.jsonl.zst", [{"a": 2, "b": 1}])
    assert (tmp_path / "a.jsonl.zst").read_bytes() == (tmp_path / "b.jsonl.zst").read_bytes()


def test_frames_after_one_another(tmp_path):
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "two.jsonl.zst").write_bytes(pack(b'{"a": 1}\n{"a"') + pack(b": 2}\n"))
    assert [row["a"] for row in read_jsonl(tmp_path / "two.jsonl.zst")] == [1, 2]


def test_a_cut_file_is_not_a_shorter_one(tmp_path):
    path = tmp_path / "cut.jsonl.zst"
    write_jsonl(path, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.zst: cut off"):
        list(read_jsonl(path))


@pytest.mark.parametrize("line", ["[1]", "{", "nonsense"])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2"):
        list(read_jsonl(tmp_path / "x.jsonl"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
