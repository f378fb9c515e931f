"""Rows of dumps: Pushshift's layouts, Hacker News's items, other names, and any JSON at all."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.corpus.dumps import parse_json
from tests.modules.corpus.link_dumps import collect, post, write


@pytest.mark.parametrize(
    "change",
    [
        {"score": "5", "created_utc": "1500000000", "over_18": "false", "is_self": "false"},
        {"is_self": None, "domain": "example.com", "over_18": None},
        {"score": None, "ups": 7, "downs": 2},  # the oldest dumps
        {"score": None, "ups": "5", "downs": None},
        {"promoted": None, "edited": 1500000100.0, "media": {"oembed": {}}, "selftext": ""},
        {"promoted": False, "crosspost_parent_list": [{"url": "https://other.example/"}]},
        {"created_utc": 1500000000.0, "created": 1500028800.0},  # the latter in Reddit's own zone
        {"created_utc": None, "created": "2017-07-14 02:40:00"},
    ],
)
def test_layouts_of_pushshift(tmp_path, change):
    dump = write(tmp_path / "RS_old.jsonl", post(**change))
    _, found, _, _ = collect(tmp_path / "out", dump)
    assert found == {
        "https://example.com/a": {
            "url": "https://example.com/a",
            "score": 5,
            "submissions": ["a1"],
            "created": 1500000000,
            "subreddits": [],
        }
    }


STORY = {  # Hacker News, as the Firebase API gives it
    "by": "dhouston",
    "descendants": 71,
    "id": 8863,
    "kids": [8952, 9224],
    "score": 111,
    "time": 1175714200,
    "title": "A title",
    "type": "story",
    "url": "http://www.example.com/u2",
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"score": "111", "time": "1175714200", "dead": None, "deleted": None}, ""),  # BigQuery
        ({"timestamp": "2007-04-04 19:16:40 UTC", "time": None}, ""),
        ({"time": "2007-04-04T19:16:40"}, ""),
        ({"url": None, "text": "Ask HN"}, "self-post"),
        ({"url": "", "text": "Ask HN"}, "self-post"),
        ({"type": "job"}, "job"),
        ({"type": "comment", "url": None, "score": None}, "comment"),
        ({"type": "poll", "url": None}, "poll"),
        ({"type": "pollopt", "url": None}, "pollopt"),
        ({"dead": True}, "dead"),
        ({"dead": "true"}, "dead"),
        ({"deleted": True, "url": None, "score": None, "by": None}, "deleted"),
        ({"score": 2}, "low-karma"),
    ],
)
def test_items_of_hacker_news(tmp_path, change, reason):
    dump = write(tmp_path / "hn.jsonl", json.dumps(STORY | change).encode() + b"\n")
    _, found, dropped, rejected = collect(tmp_path / "out", dump)
    assert [row["reason"] for row in dropped] == [reason] * bool(reason)
    assert not rejected
    for row in found.values():
        assert (row["score"], row["created"], row["submissions"]) == (111, 1175714200, ["hn-8863"])


def test_names_of_fields_in_json_lines(tmp_path):
    dump = write(
        tmp_path / "a.jsonl",
        b'{"link": "https://example.com/a", "points": 4, "date": "2017-07-14T02:40:00Z"}\n',
        b'{"url": "https://example.com/b", "karma": "4", "timestamp": 1500000000}\n',
    )
    _, found, _, _ = collect(tmp_path / "out", dump)
    assert [(row["score"], row["created"]) for row in found.values()] == [(4, 1500000000)] * 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["id", "url", "score", "created_utc", "domain"]), JSON))
@settings(max_examples=100, deadline=None)
def test_any_row_is_a_submission_or_a_reason(row):
    try:
        found = parse_json(json.dumps(row).encode())
    except ValueError as error:
        assert str(error) in {"no-url", "no-score", "bad-score"}
        return
    assert isinstance(found.score, int)
    assert found.url.encode()


@given(st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_submission_or_a_reason(line):
    try:
        parse_json(line)
    except ValueError as error:
        assert str(error) in {"not-utf8", "not-json", "not-an-object", "no-url", "no-score"}
