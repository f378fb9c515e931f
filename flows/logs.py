"""Where log lines go while a command runs flows: short ones to the terminal, all to a file."""

import logging
import logging.handlers
import os
from pathlib import Path
from typing import Any

from rich.logging import RichHandler

from flows.terminal import INTERRUPTED, errors, fail


def begin() -> Any:
    """Open the workspace and say on the terminal what happens; the whole log goes into a file.

    Prefect's own lines are in its UI and in that file, where tracebacks are, too.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.orphans import stop_orphans
    from flows.settings import enter
    from flows.supervise import wait_for
    from flows.temporary_server import start
    from registry.access import credentials

    workspace = enter()
    stop_orphans(workspace)
    server = start(workspace)
    shown, whole = _shown(), _whole(workspace.state / "logs")
    for name in ("flows", "modules", "registry"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [shown, whole]
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        errors.print("Starting; without `textmill up` a temporary Prefect server needs a moment.")
        import flows.stage  # noqa: F401  all that a flow imports; Prefect configures logging, once

        if server:
            wait_for(server, f"{os.environ['PREFECT_API_URL']}/health", credentials(workspace))
    except KeyboardInterrupt:
        fail("stopped by a signal before it began; run the same command again", INTERRUPTED)
    except RuntimeError as error:
        fail(str(error), 1)
    logging.getLogger("prefect").addHandler(whole)
    return workspace


def _whole(logs: Path) -> logging.Handler:
    """Return the handler that writes everything into a file of bounded size."""
    logs.mkdir(exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        logs / "textmill.log", maxBytes=2**22, backupCount=2
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    return handler


def _shown() -> logging.Handler:
    """Return the handler that writes short lines onto the terminal."""
    handler = RichHandler(console=errors, show_path=False, show_level=False, markup=False)
    handler.setFormatter(logging.Formatter("%(message)s", datefmt="[%X]"))
    return handler
