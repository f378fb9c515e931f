"""Pages made while the site is built (a mkdocs hook): commands, configuration, tasks, figures."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from flows.cli import app
from modules import presets, tasks
from modules.config import Config
from modules.run import NightlyConfig, RunConfig
from modules.task import Task

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    pages = {
        "commands": commands(),
        "configuration": configuration(),
        "tasks": task_table(),
        "measurements": measurements(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Take back what studies escape for CommonMark and this Markdown does not know."""
    if not page.file.src_uri.startswith(("gpt1/", "gpt2/")):
        return markdown
    markdown = markdown.replace(r"\<", "&lt;")
    return re.sub(r"""\\([:;=,"'/%&~^$@?])""", r"\1", markdown)


def commands() -> str:
    """Describe every command as its `--help` does."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="textmill")
    text = get_docs_for_click(obj=command, ctx=context, name="textmill", title="Commands")
    return re.sub(r"\[/?bold\]", "**", text)


def configs(start: type[Config]) -> Iterator[type[Config]]:
    """Yield a config class and all that are nested in it, outermost first, each once."""
    waiting, seen = [start], set()
    while waiting:
        found = waiting.pop(0)
        if found in seen:
            continue
        seen.add(found)
        yield found
        for field in found.model_fields.values():
            waiting += list(nested(field.annotation))


def nested(annotation: Any) -> Iterator[type[Config]]:
    """Yield the config classes that a field's type names."""
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        yield annotation
    for inner in get_args(annotation):
        yield from nested(inner)


def configuration() -> str:
    """Describe every setting: name, type, default, help; one table a config class."""
    found = dict.fromkeys([*configs(RunConfig), *configs(NightlyConfig)])
    names = {config.__name__ for config in found}
    parts = [
        "# Configuration\n\nEvery setting of a run, made from the models that the code reads. A run"
        " is a `RunConfig`; `--set a.b=VALUE` changes field `b` of the config in field `a`, and the"
        " form in the Prefect UI shows the same fields. Presets (named runs): "
        + ", ".join(f"`{name}`" for name in presets.RUNS)
        + ".\n"
    ]
    return "\n".join(parts + [section(config, names) for config in found])


def section(config: type[Config], names: set[str]) -> str:
    """Describe one config class."""
    rows = [
        f"| `{name}` | {kind_of(field, names)} | {default_of(field)} | {cell(field.description)} |"
        for name, field in config.model_fields.items()
    ]
    head = f"## {config.__name__}\n\n{inspect.cleandoc(config.__doc__ or '')}\n"
    return "\n".join(
        [head, "| field | type | default | what it does |", "|---|---|---|---|", *rows, ""]
    )


def kind_of(field: FieldInfo, names: set[str]) -> str:
    """Return a field's type, with links to the configs it names."""
    plain = inspect.formatannotation(field.annotation)
    text = cell(re.sub(r"\b(?:modules|typing|pathlib|datetime)\.(?:\w+\.)*", "", plain))
    linked = [name for name in names if re.search(rf"\b{name}\b", text)]
    links = [f"[{name}](#{name.lower()})" for name in sorted(linked)]
    return ", ".join(links) or f"`{text}`"


def default_of(field: FieldInfo) -> str:
    """Return a field's default, or that it must be given."""
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    return "as there" if isinstance(value, Config) else f"`{cell(repr(value))}`"


def cell(text: str | None) -> str:
    """Return a text on one line that does not end a table's cell."""
    return " ".join((text or "").split()).replace("|", "\\|")


def task_table() -> str:
    """List every task: format, rows, metrics, version."""
    rows = [task_row(tasks.get(name)) for name in sorted(tasks.TASKS)]
    head = (
        "# Tasks\n\nA file of `modules/tasks/` each. *hub*: the public set whose rows it reads;"
        " *like*: the public set whose shape its sample rows have.\n"
    )
    table = ["| task | format | hub | like | version |", "|---|---|---|---|---|"]
    return "\n".join([head, *table, *rows, ""])


def task_row(task: Task) -> str:
    """Describe a task in one row."""
    values = (task.name, task.format, task.hub or "", task.like or "", str(task.version))
    return "| " + " | ".join(cell(value) for value in values) + " |"


def measurements() -> str:
    """Return bench/'s page; its links to files of the repository become plain names."""
    text = (ROOT / "bench" / "README.md").read_text()
    text = re.sub(r"\]\(\.\./docs/([^)]*)\)", r"](../\1)", text)
    return re.sub(r"\[([^\]]+)\]\((?!http|\.\./|#)[^)]*\)", r"`\1`", text)
