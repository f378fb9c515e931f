"""Which processes train."""

from contextlib import suppress

import psutil

SERVER = "modules.training.fork_server"


def trainings(flow: psutil.Process) -> list[psutil.Process]:
    """The training processes of a flow, forks of its fork server; none when it has ended."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in flow.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                parent = process.parent()
                if SERVER in process.cmdline() and parent and SERVER in parent.cmdline():
                    found.append(process)
    return found
