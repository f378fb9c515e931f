"""The crawl ledger: states, retries, batches under kills and races, counts, on both databases.

PostgreSQL is tested too where TEXTMILL_TEST_POSTGRES holds the address of an empty database.
"""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from registry import db, links
from registry.ledger import (
    Retry,
    add_links,
    batch_links,
    close_batch,
    open_batch,
    story,
    summary,
)
from registry.ledger_tables import Link, LinkBatch, LinkName, LinkState
from registry.links import in_order, key_of
from registry.tables import Base
from registry.workspace import Workspace

FORK = multiprocessing.get_context("fork")
NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path, monkeypatch) -> str:
    """The address of a database with an empty ledger."""
    if request.param == "postgresql":
        if not os.environ.get("TEXTMILL_TEST_POSTGRES"):
            pytest.skip("TEXTMILL_TEST_POSTGRES is not set")
        monkeypatch.setenv("TEXTMILL_DATABASE_URL", os.environ["TEXTMILL_TEST_POSTGRES"])
    else:
        monkeypatch.delenv("TEXTMILL_DATABASE_URL", raising=False)
    found = Workspace.open(tmp_path).database_url
    for table in Base.metadata.tables.values():
        if table.name.startswith("link"):
            db.write(found, lambda session, table=table: session.execute(table.delete()) and None)
    return found


def rows(n: int, score: int = 3):
    return [{"url": f"https://a.example/{i}", "score": score} for i in range(n)]


def urls(address: str, batch) -> list[str]:
    return [row["url"] for row in batch_links(address, batch.id)]


def counts(address: str) -> dict[str, int]:
    """What `summary` says; it must agree with counting the rows."""
    kept = {(state, reason): n for state, reason, n in summary(address)}
    with db.reading(address) as session:
        counted: Counter = Counter()
        query = select(Link.state, LinkName.name, func.count())
        query = query.outerjoin(LinkName, LinkName.id == Link.reason_id)
        for state, reason, n in session.execute(query.group_by(Link.state, LinkName.name)):
            failed = state in (LinkState.RETRY, LinkState.FAILED)
            counted[LinkState(state).name.lower(), reason or "" if failed else ""] += n
    assert kept == dict(counted)
    return {" ".join(key).strip(): n for key, n in kept.items()}


def test_adding_is_idempotent_and_scores_rise(address):
    assert add_links(address, rows(5), NOW)["new"] == 5
    assert add_links(address, rows(7), NOW + DAY) == {
        "new": 2,
        "known": 5,
        "risen": 0,
        "collisions": 0,
    }
    again = [{"url": "https://a.example/1", "score": s} for s in (9, 4, 2)]
    assert add_links(address, again, NOW)["risen"] == 1
    found = story(address, "https://a.example/1")
    assert (found.score, found.first_seen, found.state) == (9, NOW, "todo")
    assert counts(address) == {"todo": 7}
    assert story(address, "https://a.example/nowhere") is None


def test_large_inputs_are_inserted_in_the_order_of_keys(address, monkeypatch):
    monkeypatch.setattr(links, "MEMORY", 100)
    shuffled = rows(2500)
    random.Random(1).shuffle(shuffled)
    chunks = list(in_order((key_of(r["url"]), r["url"], r["score"]) for r in shuffled))
    assert len(chunks) > 5
    flat = [row for chunk in chunks for row in chunk]
    assert flat == sorted(flat)
    assert len(flat) == 2500
    assert add_links(address, shuffled, NOW)["new"] == 2500
    assert add_links(address, rows(2600), NOW)["new"] == 100


def test_an_address_with_the_key_of_another_is_left_out(address, monkeypatch):
    monkeypatch.setattr("registry.ledger.key_of", lambda url: 7)
    assert add_links(address, rows(3), NOW) == {"new": 1, "known": 0, "risen": 0, "collisions": 2}
    assert add_links(address, rows(3), NOW)["collisions"] == 2
    kept = [url for url in (r["url"] for r in rows(3)) if story(address, url)]
    assert len(kept) == 1  # the address is checked, not only the key


def test_a_night(address):
    add_links(address, rows(5), NOW)
    batch = open_batch(address, "night", NOW, limit=4)
    assert (batch.size, batch.resumed) == (4, False)
    ok, gone, slow, _ = fetched = urls(address, batch)
    assert counts(address) == {"todo": 1, "claimed": 4}
    outcomes = [
        {"url": ok, "warc": "warc/00000.warc.gz", "offset": 1234},
        {"url": gone, "reason": "http-404"},
        {"url": slow, "reason": "timeout-total"},
        {"url": "https://stranger.example/"},
    ]
    done = close_batch(address, batch.id, outcomes, NOW + DAY / 24, pages="f" * 64)
    assert done == {"done": 1, "failed": 1, "retry": 1, "todo": 1, "unknown": 1}
    assert counts(address) == {"todo": 2, "done": 1, "failed http-404": 1, "retry timeout-total": 1}
    told = story(address, ok)
    assert (told.state, told.warc, told.offset) == ("done", "warc/00000.warc.gz", 1234)
    assert (told.batch, told.pages, told.time) == ("night", "f" * 64, NOW + DAY / 24)
    assert (told.attempts, told.due, told.reason) == (1, None, "")
    # the same night goes on with what is left; the next one takes what is due again
    left = open_batch(address, "night", NOW + 2 * DAY / 24)
    assert left.id != batch.id
    assert left.digest != batch.digest
    assert sorted(urls(address, left)) == sorted({row["url"] for row in rows(5)} - {ok, gone, slow})
    assert set(fetched) - {ok, gone, slow} < set(urls(address, left))
    tomorrow = open_batch(address, "tomorrow", NOW + DAY)
    assert urls(address, tomorrow) == [slow]
    assert open_batch(address, "nothing", NOW + DAY) is None


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ({}, "done"),
        ({"reason": ""}, "done"),
        ({"reason": "timeout_total"}, "retry"),
        ({"reason": "dns"}, "retry"),
        ({"reason": "reset"}, "retry"),
        ({"reason": "http-429"}, "retry"),
        ({"reason": "http-503"}, "retry"),
        ({"reason": "http-5xx"}, "retry"),
        ({"reason": "redirect-no-record"}, "retry"),
        ({"reason": "http-404"}, "failed"),
        ({"reason": "not-html"}, "failed"),
        ({"reason": "robots"}, "failed"),
        ({"reason": "blocked-domain"}, "failed"),
        ({"reason": "redirect-to-wikipedia"}, "failed"),
        ({"reason": "robots", "transient": True}, "retry"),
        ({"reason": "dns", "transient": False}, "failed"),
    ],
)
def test_which_failures_come_again(address, outcome, state):
    add_links(address, rows(1), NOW)
    batch = open_batch(address, "night", NOW)
    close_batch(address, batch.id, [outcome | {"url": "https://a.example/0"}], NOW)
    assert story(address, "https://a.example/0").state == state
    assert (open_batch(address, "later", NOW + 100 * DAY) is not None) == (state == "retry")


def test_back_off_doubles_and_ends(address):
    add_links(address, rows(1), NOW)
    retry, moment, waits = Retry(attempts=4, first=timedelta(hours=20)), NOW, []
    while batch := open_batch(address, "night", moment):
        close_batch(
            address,
            batch.id,
            [{"url": "https://a.example/0", "reason": "http-503"}],
            moment,
            retry=retry,
        )
        due = story(address, "https://a.example/0").due
        if due is None:
            break
        waits.append((due - moment) / timedelta(hours=1))
        assert open_batch(address, "night", due - timedelta(seconds=1)) is None
        moment = due
    assert waits == [20, 40, 80]
    assert counts(address) == {"failed http-503": 1}


def test_an_unfinished_batch_is_returned_again(address):
    add_links(address, rows(10), NOW)
    batch = open_batch(address, "night", NOW, limit=6)
    before = urls(address, batch)
    add_links(address, rows(20), NOW)
    again = open_batch(address, "night", NOW + DAY)
    assert again.resumed
    assert (again.id, again.size, again.digest) == (batch.id, 6, batch.digest)
    assert urls(address, again) == before


def test_closing_twice_counts_once(address):
    add_links(address, rows(3), NOW)
    batch = open_batch(address, "night", NOW)
    outcomes = [{"url": row["url"], "reason": "dns"} for row in rows(3)]
    close_batch(address, batch.id, outcomes, NOW)
    before = counts(address), story(address, rows(1)[0]["url"])
    assert sum(close_batch(address, batch.id, [{"url": rows(1)[0]["url"]}], NOW).values()) == 0
    assert (counts(address), story(address, rows(1)[0]["url"])) == before
    with pytest.raises(ValueError, match="no batch 999"):
        close_batch(address, 999, [], NOW)


def test_a_kill_while_closing_is_made_good(address, monkeypatch):
    monkeypatch.setattr("registry.batches.CHUNK", 7)
    monkeypatch.setattr("registry.batches.OUTCOMES", 14)
    add_links(address, rows(50), NOW)
    batch = open_batch(address, "night", NOW, limit=40)
    taken = urls(address, batch)
    assert len(taken) == len(set(taken)) == 40
    outcomes = [{"url": url, "reason": "dns"} for url in taken[:30]]

    def cut(n):
        yield from outcomes[:n]
        raise KeyboardInterrupt

    for n in (0, 14, 29):
        with pytest.raises(KeyboardInterrupt):
            close_batch(address, batch.id, cut(n), NOW)
        assert open_batch(address, "night", NOW).id == batch.id
    close_batch(address, batch.id, outcomes, NOW)
    assert counts(address) == {"todo": 20, "retry dns": 30}
    assert {story(address, url).attempts for url in taken[:30]} == {1}


def race(address: str, name: str, start, results) -> None:
    """Open a batch at the same moment as others do."""
    start.wait()
    batch = open_batch(address, name, NOW, limit=300)
    results.put((name, batch.id, batch.resumed, urls(address, batch)))


@pytest.mark.parametrize("names", [("night",) * 4, ("a", "b", "c", "d")])
def test_of_runs_at_once_one_gets_each_link(address, names):
    add_links(address, rows(2000), NOW)
    start, results = FORK.Barrier(len(names)), FORK.Queue()
    racers = [FORK.Process(target=race, args=(address, n, start, results)) for n in names]
    for racer in racers:
        racer.start()
    found = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    claims = [taken for _, _, resumed, taken in found if not resumed]
    assert len(claims) == len(set(names))  # one claims, the others are given the same batch
    assert len({url for taken in claims for url in taken}) == 300 * len(claims)
    assert len({(name, id) for name, id, _, _ in found}) == len(set(names))
    assert counts(address) == {"claimed": 300 * len(claims), "todo": 2000 - 300 * len(claims)}


def nights(address: str) -> None:
    """Work through everything that is due, a batch at a time; outcomes depend on the address."""
    while batch := open_batch(address, "night", NOW, limit=70):
        outcomes = [
            {"url": url, "reason": ("", "http-404", "dns")[key_of(url) % 3]}
            for url in urls(address, batch)
        ]
        close_batch(address, batch.id, outcomes, NOW)


def test_kills_lose_and_double_nothing(address):
    add_links(address, rows(6000), NOW)
    wanted = Counter(
        ("done", "failed http-404", "retry dns")[key_of(r["url"]) % 3] for r in rows(6000)
    )
    chance = random.Random(3)
    kills = 0
    while "todo" in (standing := counts(address)) or "claimed" in standing:
        worker = FORK.Process(target=nights, args=(address,))
        worker.start()
        time.sleep(chance.uniform(0.01, 0.15))
        if kills < 12 and worker.is_alive():
            os.kill(worker.pid, signal.SIGKILL)
            kills += 1
        worker.join()
    assert kills >= 5
    assert counts(address) == wanted
    with db.reading(address) as session:
        assert session.scalars(select(Link.attempts).distinct()).all() == [1]
        assert session.scalars(select(LinkBatch).where(LinkBatch.closed.is_(None))).all() == []
