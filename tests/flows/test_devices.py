"""Named limits: their size is Prefect's, their slots come back however a holder dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modules.run import FinetuneConfig

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
CPU = FinetuneConfig(accelerator="cpu", threads=1)


class Full(Exception):
    """Raised instead of waiting."""


def held(workspace, config=CPU):
    """Take slots, or raise Full at once."""
    from flows.devices import device

    def give_up(limits: str) -> None:
        raise Full(limits)

    return device(workspace, config, waiting=give_up)


@pytest.fixture
def workspace(tmp_path):
    from registry.workspace import Workspace

    return Workspace(root=tmp_path, database_url="", tracking_uri="")


@pytest.fixture
def limit(prefect_server):
    """Set how many slots textmill-cpu has, as Prefect's UI does; half a minute passes."""
    from prefect.client.orchestration import get_client

    from flows import devices

    def set_to(size: int) -> None:
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name("textmill-cpu", size)
        devices._sizes.clear()

    yield set_to
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name("textmill-cpu")


def test_a_missing_limit_is_made_with_a_slot_a_core(prefect_server, workspace):
    from prefect.client.orchestration import get_client

    from flows.devices import cores

    with held(workspace) as environment:
        assert environment == {}
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("textmill-cpu").limit == cores()
        client.delete_global_concurrency_limit_by_name("textmill-cpu")


def test_slots_are_counted_by_threads_and_changed_in_prefect(limit, workspace):
    limit(3)
    two = CPU.but(threads=2)
    with held(workspace, two), held(workspace):
        with pytest.raises(Full, match="textmill-cpu"), held(workspace):
            pass
        limit(4)
        with held(workspace):
            pass
    limit(1)
    with held(workspace, two):  # more threads than the limit has: alone
        pass
    limit(0)  # paused
    with pytest.raises(Full), held(workspace):
        pass


def test_a_killed_holder_gives_its_slot_back(limit, workspace):
    limit(1)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from flows import devices\n"
        "from registry.workspace import Workspace\n"
        "need = devices.Need({'textmill-cpu': 1}, {})\n"
        "w = Workspace(Path(sys.argv[1]), '', '')\n"
        "held = devices.take(w, need, {'textmill-cpu': 1})\n"
        "print('held' if held else 'full', flush=True); time.sleep(600)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(workspace.root)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert other.stdout.readline().strip() == "held"
    with pytest.raises(Full), held(workspace):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with held(workspace):
        pass


def test_each_gpu_is_a_device_of_its_own(monkeypatch, workspace):
    from flows import devices

    monkeypatch.setattr(FinetuneConfig, "device_kind", "cuda")
    monkeypatch.setattr(FinetuneConfig, "visible_gpus", ["2", "5"])
    monkeypatch.setattr(devices, "size_of", lambda name: 1)
    one, both = FinetuneConfig(), FinetuneConfig(devices=2)
    with held(workspace, one) as first, held(workspace, one) as second:
        assert [first, second] == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
        with pytest.raises(Full, match="textmill-cuda-2, textmill-cuda-5"), held(workspace, both):
            pass
    with held(workspace, both) as environment:
        assert environment == {}
