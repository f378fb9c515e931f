"""The table of benchmarks: every file in this folder is one, under its file's name."""

from importlib import import_module
from pkgutil import iter_modules

from modules.task import Task

TASKS: dict[str, Task] = {
    name: import_module(f"modules.tasks.{name}").TASK
    for name in sorted(module.name for module in iter_modules(__path__))
}
for _name, _task in TASKS.items():
    if _task.name != _name:
        raise ImportError(f"modules/tasks/{_name}.py: TASK is named {_task.name!r}, not {_name!r}")


def get(name: str) -> Task:
    """Return the task of this name.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are: {', '.join(TASKS)}")
    return TASKS[name]
