"""Stop sequences in a stream of tokens."""

import pytest

from modules.model.endings import until

STOPS = [[7, 8, 9], [8, 1], [5]]


@pytest.mark.parametrize(
    ("tokens", "eot", "expected"),
    [
        ([1, 7, 8, 2, 3], None, [1, 7, 8, 2, 3]),  # begun, but no stop
        ([1, 7, 8, 9, 3], None, [1]),
        ([1, 7, 8, 1, 3], None, [1, 7]),  # another stop inside
        ([1, 7, 7, 8, 9], None, [1, 7]),
        ([1, 7, 8], None, [1, 7, 8]),  # the end comes first
        ([1, 7, 8, 0, 9], 0, [1, 7, 8]),
        ([5, 1], None, []),
    ],
)
def test_stops_in_a_stream(tokens, eot, expected):
    assert list(until(iter(tokens), STOPS, eot)) == expected


def test_a_stream_holds_back_only_what_may_become_a_stop():
    seen = []
    source = (seen.append(token) or token for token in [1, 7, 2, 3])
    got = until(source, STOPS, None)
    assert [(next(got), len(seen)) for _ in range(4)] == [(1, 1), (7, 3), (2, 3), (3, 4)]
