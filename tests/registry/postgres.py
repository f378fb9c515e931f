"""A PostgreSQL 15 server of a test's own, in a folder of its own, that can be killed."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path("/usr/lib/postgresql/15/bin")


class Postgres:
    """One cluster on a port of loopback."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        # it refuses to run as root
        who = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self.prefix = ["setpriv", *who] if os.geteuid() == 0 else []

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        command = [*self.prefix, str(BIN / program), *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, check=True, cwd=self.folder, **quiet)

    def create(self) -> None:
        """Make the cluster, with page checksums."""
        if self.prefix:
            shutil.chown(self.folder, "postgres", "postgres")
        self.run("initdb", "-k", "-A", "trust", "-U", "postgres", "-D", f"{self.folder}/db")

    def start(self, seconds: float = 60) -> None:
        """Start the server; after a kill its processes may take a moment to be gone."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c max_connections=120"
        deadline = time.monotonic() + seconds
        while True:
            try:
                log = f"{self.folder}/log"
                self.run(
                    "pg_ctl", "-w", "-l", log, "-o", options, "-D", f"{self.folder}/db", "start"
                )
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the postmaster, as a crash would."""
        pid = int((self.folder / "db" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server."""
        self.run("pg_ctl", "-m", "immediate", "-D", f"{self.folder}/db", "stop")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a new server for a block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="textmill-postgres-"))
    server = Postgres(folder, port)
    try:
        server.create()
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
