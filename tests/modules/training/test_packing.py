"""Best-fit packing against the textbook's loop; each token once; no document cut for nothing."""

import random

import numpy as np
import pytest

from modules.corpus.token_file import read_split
from modules.training.packing import Packed, best_fit, documents, pieces

EOT = 99
CONTEXT = 16


def stream(seed: int, n: int = 200, longest: int = 45) -> list[list[int]]:
    """Documents of random ids, end-of-text included."""
    say = random.Random(seed)
    return [[say.randrange(90) for _ in range(say.randrange(longest))] + [EOT] for _ in range(n)]


@pytest.fixture
def packed(write_stream, tmp_path):
    ids = np.concatenate(stream(0))
    return Packed(
        read_split(write_stream(tmp_path, ids, eot=EOT, cuts=(1000,)), "train"), CONTEXT, 7
    )


def textbook(lengths, capacity):
    """Best-fit decreasing, one piece at a time: the room left in each row."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@pytest.mark.parametrize("capacity", [1, 2, 7, 16, 100])
def test_rows_are_filled_as_by_the_textbook(capacity):
    for seed in range(20):
        n = random.Random(seed).randrange(1, 120)
        lengths = np.random.default_rng(seed).integers(1, capacity + 1, n)
        filled = np.bincount(best_fit(lengths, capacity), weights=lengths)
        assert sorted(capacity - filled) == textbook(lengths.tolist(), capacity)


def test_every_token_is_predicted_once_an_epoch(packed):
    for epoch in range(3):
        rows = packed.rows(np.arange(packed.per_epoch) + epoch * packed.per_epoch)
        targets = np.sort(rows[:, 1:][rows[:, 1:] >= 0])
        assert (targets == np.sort(np.concatenate(stream(0)))).all()
        empty = rows < 0
        assert (np.diff(empty.astype(int), axis=1) >= 0).all()  # at the ends of rows only
    assert packed.per_epoch * CONTEXT < 1.05 * len(targets)


def test_a_document_that_fits_is_never_cut(packed):
    text = {tuple(row[row >= 0].tolist()) for row in packed.rows(np.arange(packed.per_epoch))}

    def within(document):
        n = len(document)
        return any(r[i : i + n] == document for r in text for i in range(1, len(r)))

    for document in stream(0):
        assert within(tuple(document[:CONTEXT]))  # whole, or its first row


def test_a_row_begins_behind_the_token_before_it(packed):
    ids = np.concatenate(stream(0))
    rows = packed.read(np.arange(packed.per_epoch))
    for row, first in zip(rows, packed.starts[packed.first[:-1]], strict=True):
        assert row[0] == (ids[first - 1] if first else EOT) and row[1] == ids[first]


def test_rows_depend_on_the_sample_number_only(packed):
    whole = packed.rows(np.arange(600))
    for first in (599, 0, 311):
        assert (packed.rows(np.arange(first, 600)) == whole[first:]).all()


def test_documents_end_with_end_of_text_or_the_split(write_stream, tmp_path):
    ids = np.array([1, 2, EOT, EOT, 3, 4])
    tokens = read_split(write_stream(tmp_path, ids, eot=EOT), "train")
    starts, lengths = documents(tokens)
    assert starts.tolist() == [0, 3, 4] and lengths.tolist() == [3, 1, 2]
    starts, lengths = pieces(np.array([0, 10]), np.array([10, 4]), 4)
    assert starts.tolist() == [0, 4, 8, 10] and lengths.tolist() == [4, 4, 2, 4]
