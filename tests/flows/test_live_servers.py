"""Real servers as `textmill up` starts them, on PostgreSQL by one address (3 to 10 minutes).

All four stores lie in PostgreSQL, a run goes through the worker into both UIs, no spelling of a
path leaves its folder even with the credentials, a killed server comes back, Ctrl-C leaves nothing.
"""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from sqlalchemy import create_engine, text

from tests.flows.conftest import new_project
from tests.registry.postgres import BIN, postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not BIN.is_dir(), reason="PostgreSQL 15 is not installed"),
]
READY_SECONDS = 400.0  # three starts and 20 deployments took 60 s on an idle machine
RUN_SECONDS = 400.0
SECRETS = (b"root:x:0", b"textmill:")  # /etc/passwd, .textmill/secret

DOTS = ("..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%252e%252e", "..;", "%c0%ae%c0%ae", "..%00")
SLASHES = ("/", "%2f", "%2F", "%252f", "%5c", "\\", "//", "/./", "%c0%af")
ABSOLUTE = ("/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "%252fetc%252fpasswd")
ABSOLUTE += (
    "file:///etc/passwd",
    "file:%2f%2f%2fetc/passwd",
    "C:%5cetc%5cpasswd",
    "%00/etc/passwd",
)


def spellings() -> list[str]:
    """Ways to write the path of a file outside of a folder: one level up, ten levels up."""
    mixed = [(dots, "/") for dots in DOTS] + [("..", slash) for slash in SLASHES]
    mixed += [("%2e%2e", "%2f"), ("%252e%252e", "%252f"), ("....", "//"), ("..", "%5c..%5c")]
    near = [f"{dots}{slash}secret" for dots, slash in mixed]
    far = [f"{(dots + slash) * 10}etc{slash}passwd" for dots, slash in mixed]
    return [*near, *far, *ABSOLUTE]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(root: Path) -> list[psutil.Process]:
    """Every process that was started for a project, but for this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("TEXTMILL_ROOT") == str(root):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory, data):
    """One `textmill up` for all tests here; in the end Ctrl-C, and nothing may be left."""
    root = new_project(tmp_path_factory.mktemp("live") / "project", data)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    ports = free_port(), free_port()
    with postgres() as database:
        environment = kept | {
            "TEXTMILL_ROOT": str(root),
            "TEXTMILL_DATABASE_URL": database.url.removesuffix("postgres") + "mill",
        }
        create = create_engine(database.url, isolation_level="AUTOCOMMIT")
        with create.connect() as connection:
            connection.execute(text("CREATE DATABASE mill"))
        log = root.with_suffix(".log")
        command = [sys.executable, "-m", "flows.cli", "up"]
        command += ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
        with log.open("wb") as out:
            up = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: (root / ".textmill" / "services.json").is_file(), up, log)
            secret = (root / ".textmill" / "secret").read_text().strip()
            yield SimpleNamespace(
                root=root,
                environment=environment,
                ports=ports,
                secret=secret,
                database=create,
                log=log,
                up=up,
            )
            up.send_signal(signal.SIGINT)
            assert up.wait(90) == 0, log.read_text()
            assert processes_of(root) == []
        finally:
            for process in processes_of(root):
                process.kill()
            up.kill()
            up.wait()
            create.dispose()


def wait_until(happened, up: subprocess.Popen, log: Path, seconds: float = READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert up.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def ask(site, port: int, method: str, path: str, body=None, *, known: bool = True, **headers):
    """Send one request exactly as written, and return (status, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if known:
        pair = base64.b64encode(site.secret.encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    if body is not None:
        headers["Content-Type"] = "application/json"
        body = json.dumps(body)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def api(site, method: str, path: str, body=None):
    status, answer = ask(site, site.ports[0], method, f"/api{path}", body)
    assert status < 300, (path, status, answer[:500])
    return json.loads(answer)


def runs_in_mlflow(site) -> list[dict]:
    status, answer = ask(
        site,
        site.ports[1],
        "POST",
        "/api/2.0/mlflow/runs/search",
        {"experiment_ids": ["0", "1"], "max_results": 100},
    )
    assert status == 200, answer
    return json.loads(answer).get("runs", [])


def test_a_run_of_the_worker_is_in_all_stores(site):
    from modules.presets import RUNS

    deployment = api(site, "GET", "/deployments/name/prepare_corpus/corpus")
    config = RUNS["tiny"].corpus.model_dump(mode="json")
    run = api(
        site,
        "POST",
        f"/deployments/{deployment['id']}/create_flow_run",
        {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}},
    )

    def state() -> str:
        return str(api(site, "GET", f"/flow_runs/{run['id']}")["state_type"])

    finals = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
    wait_until(lambda: state() in finals, site.up, site.log, RUN_SECONDS)
    logs = (site.root / ".textmill" / "logs" / "worker.log").read_text()
    assert state() == "COMPLETED", logs[-5000:]
    assert {row["info"]["status"] for row in runs_in_mlflow(site)} == {"FINISHED"}
    with site.database.connect() as connection:
        names = set(connection.scalars(text("SELECT datname FROM pg_database")))
    assert names >= {"mill", "mill_prefect", "mill_mlflow"}
    files = {path.name for path in (site.root / ".textmill").rglob("*.db*")}
    assert files == set()
    status = subprocess.run(
        [sys.executable, "-m", "flows.cli", "doctor"],
        env=site.environment,
        capture_output=True,
        text=True,
    )
    assert status.returncode == 0, status.stdout + status.stderr


def test_without_credentials_nothing(site):
    prefect, mlflow = site.ports
    assert ask(site, prefect, "POST", "/api/flows/filter", {}, known=False)[0] == 401
    assert ask(site, mlflow, "GET", "/", known=False)[0] == 401
    for port in site.ports:
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert ask(site, port, "GET", "/", **headers)[0] == 403


def shows_nothing(method: str, answer: bytes) -> bool:
    """Whether an answer is that of a name inside the folder that nobody has used."""
    try:
        found = json.loads(answer or b"{}")
    except ValueError:
        return False
    if method == "GET":
        return isinstance(found, dict) and not found.get("files") and set(found) <= {"root_uri"}
    return found == {}


def test_no_spelling_leaves_a_folder(site):
    prefect, mlflow = site.ports
    assert len(spellings()) >= 40
    run = ask(site, mlflow, "POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "0"})
    run_id = json.loads(run[1])["run"]["info"]["run_id"]
    places = (
        (mlflow, "GET", "/api/2.0/mlflow-artifacts/artifacts/{}"),
        (mlflow, "GET", "/ajax-api/2.0/mlflow-artifacts/artifacts/{}"),
        (mlflow, "GET", "/api/2.0/mlflow-artifacts/artifacts?path={}"),
        (mlflow, "PUT", "/api/2.0/mlflow-artifacts/artifacts/{}"),
        (mlflow, "DELETE", "/api/2.0/mlflow-artifacts/artifacts/{}"),
        (mlflow, "GET", f"/get-artifact?run_uuid={run_id}&path={{}}"),
        (mlflow, "GET", f"/api/2.0/mlflow/artifacts/list?run_id={run_id}&path={{}}"),
        (mlflow, "GET", "/model-versions/get-artifact?name=m&version=1&path={}"),
        (mlflow, "GET", "/static-files/{}"),
        (prefect, "GET", "/{}"),
        (prefect, "GET", "/assets/{}"),
        (prefect, "GET", "/api/static/{}"),
    )
    home = site.root / ".textmill"
    state = home / "mlflow-artifacts"
    before = set(home.iterdir())
    index = ask(site, prefect, "GET", "/")[1]
    bad = []
    for port, method, place in places:
        for spelling in spellings():
            body = {"planted": True} if method == "PUT" else None
            status, answer = ask(site, port, method, place.format(spelling), body)
            leaked = any(secret in answer for secret in SECRETS)
            # Prefect's pages are drawn in the browser: what is no file is the one page. MLflow
            # redirects double slashes to the name without, and refuses some names by a 500.
            refused = 400 <= status < 500 or status == 308 or b"Invalid artifact path" in answer
            if leaked or not (refused or answer == index or shows_nothing(method, answer)):
                bad.append((status, method, place.format(spelling), answer[:60]))
    assert bad == [], "\n".join(map(str, bad))
    assert set(home.iterdir()) <= before | {state}
    assert (home / "secret").read_text().strip() == site.secret
    assert all(path.resolve().is_relative_to(state) for path in state.rglob("*"))


def test_a_killed_server_comes_back(site):
    killed = [
        process
        for process in psutil.Process(site.up.pid).children()
        if any("mlflow" in part for part in process.cmdline())
    ]
    for process in killed:
        os.killpg(process.pid, signal.SIGKILL)

    def answers() -> bool:
        with suppress(OSError, http.client.HTTPException):
            return ask(site, site.ports[1], "GET", "/version")[0] == 200
        return False

    assert killed and not answers()
    wait_until(answers, site.up, site.log)
