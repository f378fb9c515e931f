"""The checkpoint's page: hours of training are those that counted, and all kinds of runs draw."""

import pytest

from flows.curves import learning_curve, with_hours
from flows.trained import domain_metrics, domain_table

DOMAINS = [
    {
        "domain": "a host.example/[x](y)",
        "documents": 2,
        "tokens": 1200,
        "bytes": 5000,
        "nats": 9.0,
        "perplexity": 1234.5,
        "bits_per_byte": 1.25,
    }
]


def event(attempt: int, step: int, time: float) -> dict[str, float]:
    return {"attempt": attempt, "step": step, "time": time, "loss": 5.0 - step / 10}


def test_hours_leave_out_what_was_lost_and_the_time_between_attempts():
    events = [event(1, 1, 0), event(1, 2, 3600), event(1, 3, 7200), event(2, 3, 90_000)]
    events.append(event(2, 4, 90_000 + 1800))
    assert [(row["step"], row["hours"]) for row in with_hours(events)] == [
        (1, 0.0),
        (2, 1.0),
        (3, 1.0),
        (4, 1.5),
    ]


@pytest.mark.parametrize("events", [[], [event(1, 1, 0), event(1, 2, 9)]], ids=["afar", "here"])
@pytest.mark.parametrize("skipped", [[], [1]], ids=["sound", "skipped"])
def test_every_kind_of_run_draws(events, skipped):
    curve = [{"step": 1, "tokens": 10}, {"step": 2, "tokens": 20, "loss": 3.0, "val_loss": 3.1}]
    png = learning_curve(curve, {"bigram": 4.0}, events=events, skipped=skipped)
    assert png.startswith(b"\x89PNG") and len(png) > 10_000


def test_domains_have_names_that_mlflow_takes():
    assert domain_metrics({"domains": DOMAINS}) == {
        "perplexity/a host.example__x__y_": 1234.5,
        "bits_per_byte/a host.example__x__y_": 1.25,
    }
    assert domain_table({"domains": DOMAINS}).rows[0][1:] == ["2", "1,200", "1,234.5", "1.250"]
    assert domain_table({}).rows == []
