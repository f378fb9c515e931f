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


def helps(schema: dict[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """Every field of a schema and of the configs in it, with its help.

    Of a field that is a config, pydantic leaves out what the config's own docstring says as well.
    """
    parts = schema.get("definitions", {})
    for title, part in {where: schema, **parts}.items():
        for name, field in part.get("properties", {}).items():
            named = parts.get(field.get("$ref", "").rpartition("/")[2], {})
            yield f"{title}.{name}", field.get("description") or named.get("description", "")


@pytest.mark.parametrize("deployment", LISTED["deployments"], ids=lambda made: made["name"])
def test_every_field_of_a_form_has_help(deployment):
    module, name = deployment["entrypoint"].split(":")
    schema = parameter_schema(getattr(importlib.import_module(module), name)).model_dump()
    found = dict(helps(schema, name))
    assert found
    assert [path for path, text in found.items() if not text] == []
    assert deployment["description"]


def test_what_overlaps_waits_or_is_left_out():
    for deployment in LISTED["deployments"]:
        if deployment.get("schedules"):
            policy = deployment["concurrency_limit"]
            assert policy["limit"] == 1
            assert policy["collision_strategy"] in ("ENQUEUE", "CANCEL_NEW")
