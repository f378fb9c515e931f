"""What the forms of the Prefect UI show: every field of every deployment has its help text."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from flows import services

LISTED = yaml.safe_load(Path(services.__file__).with_name("prefect.yaml").read_text())


def fields(schema: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a schema and of the configs in it."""
    for name, field in schema.get("properties", {}).items():
        yield f"{where}.{name}", field
    for name, part in schema.get("definitions", {}).items():
        yield from fields(part, name)


@pytest.mark.parametrize("deployment", LISTED["deployments"], ids=lambda made: made["name"])
def test_every_field_of_a_form_has_help(deployment):
    module, name = deployment["entrypoint"].split(":")
    schema = parameter_schema(getattr(importlib.import_module(module), name)).model_dump()
    found = dict(fields(schema, name))
    assert found
    assert [path for path, field in found.items() if not field.get("description")] == []
    assert deployment["description"]


def test_what_overlaps_waits_or_is_left_out():
    for deployment in LISTED["deployments"]:
        if deployment.get("schedules"):
            policy = deployment["concurrency_limit"]
            assert policy["limit"] == 1
            assert policy["collision_strategy"] in ("ENQUEUE", "CANCEL_NEW")
