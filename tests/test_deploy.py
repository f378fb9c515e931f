"""The files of deploy/ fit together and name commands that are there."""

import json
import re
from pathlib import Path

import pytest
import typer
import yaml

from flows.cli import app

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"


@pytest.mark.parametrize("pool", ["docker", "kubernetes"])
def test_pools_use_each_of_their_variables(pool):
    template = json.loads((DEPLOY / f"{pool}-pool.json").read_text())
    variables = template["variables"]["properties"]
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(variables)
    assert all(variable["description"] for variable in variables.values())


def test_compose_runs_commands_that_are_there():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    commands = [one["command"] for one in services.values() if isinstance(one.get("command"), list)]
    known = typer.main.get_command(app).commands
    for program, name, *arguments in commands:
        assert program == "textmill"
        options = {text for parameter in known[name].params for text in parameter.opts}
        assert {text for text in arguments if text.startswith("--")} <= options
    assert len(commands) == 2
    example = (DEPLOY / "env.example").read_text()
    asked = set(re.findall(r"\${(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert all(f"{name}=" in example for name in asked)


def test_nothing_listens_beyond_this_machine():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    ports = [port for one in compose["services"].values() for port in one.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_image_installs_what_the_project_offers():
    text = (DEPLOY / "Dockerfile").read_text()
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    for extra in re.search(r"'\.\[(.*?)\]'", text)[1].split(","):
        assert f"\n{extra} = [" in project
    ignored = (DEPLOY.parent / ".dockerignore").read_text()
    for name in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all(f"!{part}" in ignored for part in name.split())
