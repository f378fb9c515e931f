"""Damaged files, a full disk and numbers that are not finite: the good checkpoint always stays."""

import errno
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from modules.model.base import Decoder
from modules.training import loop, state
from modules.training.config import OptimConfig, PretrainConfig
from modules.training.lm import PretrainModule
from modules.training.pretrain import pretrain
from modules.training.state import State
from modules.training.step import Training


def make(step: int) -> State:
    draw = torch.Generator().manual_seed(step)
    weights = {"a": torch.randn(7, 5, generator=draw), "b": torch.randn(3, generator=draw)}
    optimizer = {f"{k}/exp_avg": torch.randn(t.shape, generator=draw) for k, t in weights.items()}
    rng = {"torch": draw.get_state()}
    values = {"step": step, "curve": [{"step": step, "loss": 1 / step}]}
    return State({"weights": weights, "optimizer": optimizer, "rng": rng}, values)


def same(a: State, b: State) -> bool:
    return a.values == b.values and all(
        torch.equal(a.tensors[group][name], b.tensors[group][name])
        for group in a.tensors
        for name in a.tensors[group]
    )


def flip(file: Path, say: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[say.randrange(len(data))] ^= 1 << say.randrange(8)
    file.write_bytes(data)


def cut_short(file: Path, say: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: say.randrange(file.stat().st_size)])


def swap_with_another(file: Path, say: random.Random) -> None:
    """Take another file of the checkpoint, or the same one of an older checkpoint."""
    older = file.parent.with_name("step-00000002")
    others = [path for path in file.parent.iterdir() if path != file]
    file.write_bytes(say.choice([older / file.name, *others]).read_bytes())


def check_damage(folder: Path, caplog, **counts: int) -> None:
    """Damage the newest of three checkpoints: the file is named, the one before is used."""
    for step in (1, 2, 3):
        newest = state.save(folder, step, make(step))
    files, say = sorted(newest.iterdir()), random.Random(0)
    assert len(files) == 5
    whole = {file: file.read_bytes() for file in files}
    before = make(2)
    for damage in (flip, cut_short, swap_with_another):
        for _ in range(counts[damage.__name__]):
            file = say.choice(files)
            damage(file, say)
            caplog.clear()
            assert same(state.load_newest(folder), before)
            assert f"step-00000003: {file.name} " in caplog.text, (damage, file)
            folder.joinpath("step-00000003.corrupt").rename(newest)
            file.write_bytes(whole[file])
    assert same(state.load_newest(folder), make(3))


def test_three_hundred_damaged_files(tmp_path, caplog):
    check_damage(tmp_path, caplog, flip=220, cut_short=40, swap_with_another=40)


@pytest.mark.slow  # 1 to 2 minutes
@pytest.mark.timeout(1800)
def test_ten_thousand_damaged_files(tmp_path, caplog):
    check_damage(tmp_path, caplog, flip=10_000, cut_short=1000, swap_with_another=200)


def test_two_checkpoints_with_their_names_swapped_are_found(tmp_path, caplog):
    old, new = (state.save(tmp_path, step, make(step)) for step in (1, 2))
    aside = new.rename(tmp_path / "aside")
    old.rename(new)
    aside.rename(old)
    assert state.load_newest(tmp_path) is None
    assert "step-00000002: MANIFEST.json is that of step-00000001" in caplog.text


# --- a full disk: strace makes the system calls fail, nothing of ours is patched -----------------

FULL = f"""
import os, sys
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
import torch
from modules.training import state
torch.set_num_threads(1)
at, root, calls = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
null = os.open("/dev/null", os.O_RDWR)
value = state.State({{"weights": {{"a": torch.full((99, 99), 2.0)}}}}, {{"step": 2}})
harmless = {{
    "write": lambda: os.write(null, b"x"),
    "fsync": lambda: os.fsync(null),
    "rename": lambda: os.rename("/nowhere/a", "/nowhere/b"),
    "mkdir": lambda: os.mkdir("/nowhere/a"),
    "openat": lambda: os.open("/nowhere/a", os.O_RDONLY),
}}
def child(call, n):  # strace counts calls per process: this one fails at its n-th from here on
    for _ in range(at - n):
        try:
            harmless[call]()
        except OSError:
            pass
    try:
        state.save(root / call / str(n), 2, value)
    except OSError as error:
        wanted = ["checkpoint of step 2 not finished", "MB free", "Make room", "from step "]
        return 3 if all(words in str(error) for words in wanted) else 4
    except state.DamagedState:
        return 5
    return 0
for call in calls:
    codes = []
    while codes[-2:] != [0, 0]:  # mkdir of a folder that is there may fail without harm
        pid = os.fork()
        if pid == 0:
            os._exit(child(call, len(codes) + 1))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(call, *codes)
"""


def check_full_disk(folder: Path, *calls: str, at: int, stays: str, told: bool = True) -> None:
    """Fail a save at its first, second, ... such call (and from there on, with stays = "+").

    `told`: whether the error must always name checkpoint, disk and mend.
    """
    first = state.save(folder / "first", 1, make(1))
    for call in calls:
        for n in range(1, 50):
            shutil.copytree(first, folder / call / str(n) / first.name)
    inject = [f"inject={call}:error=ENOSPC:when={at}{stays}" for call in calls]
    options = [word for rule in inject for word in ("-e", rule)]
    command = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", *options]
    command += [sys.executable, "-c", FULL, str(at), str(folder), *calls]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # noqa: T201  pytest -s shows it
    for line in done.stdout.splitlines():
        call, *codes = line.split()
        assert {"3", "5"} & set(codes) and not (told and "4" in codes), line
        for n in range(1, len(codes) + 1):
            assert same(state.load(folder / call / str(n) / first.name), make(1))
            assert state.load_newest(folder / call / str(n)).values["step"] in (1, 2)


needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")


@needs_strace
@pytest.mark.parametrize("stays", ["", "+"])
def test_a_full_disk_at_every_call_that_writes(stays, tmp_path):
    check_full_disk(tmp_path, "write", "fsync", "rename", "mkdir", at=300, stays=stays)


@needs_strace
@pytest.mark.slow  # half a minute
def test_a_disk_that_fails_at_every_open(tmp_path):
    """Also those that only read, which no full disk does: the older checkpoint stays."""
    check_full_disk(tmp_path, "openat", at=12_000, stays="", told=False)


# --- whole runs ----------------------------------------------------------------------------------


def run(corpus, tiny, out: Path, **changes) -> dict[str, int] | None:
    """Train 12 steps, saved every second one, behind the steps; the state stays."""
    config = PretrainConfig(
        model=tiny,
        optim=OptimConfig(lr=1e-2, warmup_steps=2),
        batch_size=4,
        max_steps=12,
        val_every=4,
        val_windows=4,
        checkpoint_every=2,
        log_every=1,
        threads=1,
        precision="32-true",
        accelerator="cpu",
        **changes,
    )
    return pretrain(Path(corpus["tokens"]), Path(corpus["tokenizer"]), out, config)


@pytest.fixture(scope="module")
def undisturbed(corpus, tiny, digests, tmp_path_factory) -> str:
    """The SHA-256 of the weights of a run that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed")
    run(corpus, tiny, out)
    return digests(out)["model.safetensors"]


def fail_at(monkeypatch, number: int) -> None:
    """Let one call of the saves find the disk full."""
    left = [number]

    def failing(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    for owner, name in [(state, "_fsync"), (state, "fsync_directory"), (state, "sha256")]:
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    for owner, name in [(Path, "mkdir"), (Path, "rename"), (safetensors.torch, "save_file")]:
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))


def check_run_on_a_full_disk(corpus, tiny, folder: Path, wanted: str, numbers, digests) -> int:
    """A run ends with an error that names disk and mend, and goes on when there is room."""
    failed = 0
    for number in numbers:
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, number)
            try:
                run(corpus, tiny, folder / str(number))
            except OSError as error:
                failed += 1
                assert "No space left on device" in str(error)
                assert "Make room (or mend the disk)" in str(error), number
                before = state.load_newest(folder / str(number) / "state")
                assert before is not None or "goes on from the start" in str(error), number
        run(corpus, tiny, folder / str(number))
        assert digests(folder / str(number))["model.safetensors"] == wanted
        shutil.rmtree(folder / str(number))
    return failed


def test_a_run_on_a_full_disk_says_so_and_goes_on(corpus, tiny, tmp_path, undisturbed, digests):
    numbers = range(10, 60, 12)
    assert check_run_on_a_full_disk(corpus, tiny, tmp_path, undisturbed, numbers, digests) == 5


@pytest.mark.slow  # 2 minutes
@pytest.mark.timeout(1800)
def test_a_run_on_a_disk_full_at_every_call(corpus, tiny, tmp_path, undisturbed, digests):
    failed = check_run_on_a_full_disk(corpus, tiny, tmp_path, undisturbed, range(4, 120), digests)
    assert failed > 100


class Poisoned(torch.autograd.Function):
    """A loss that is as it was, with a gradient that is not."""

    @staticmethod
    def forward(ctx, loss, bad):
        ctx.bad = bad
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.bad, None


def poison(monkeypatch, where: str, step: int, bad: float) -> None:
    """Put a bad number into the loss, the gradient or the optimizer's state of one step."""
    real_loss, real_step = Decoder.lm_loss, Training.training_step

    def loss_of(self, *args, **kwargs):
        loss = real_loss(self, *args, **kwargs)
        if not (self.training and self.now == step) or where == "optimizer":
            return loss
        return loss * bad if where == "loss" else Poisoned.apply(loss, bad)

    def training_step(self, batches, index):
        self.model.now = self.done
        if where == "optimizer" and self.done == step:
            moments = self.raw_optimizers[0].state[self.model.wte.weight]
            moments["exp_avg"].view(-1)[step] = bad
        return real_step(self, batches, index)

    monkeypatch.setattr(Decoder, "lm_loss", loss_of)
    monkeypatch.setattr(Training, "training_step", training_step)
    if where != "optimizer":  # kernels take no scaled loss
        monkeypatch.setattr(PretrainModule, "plain_loss", False)


def assert_finite(folder: Path) -> None:
    """No file anywhere holds a NaN or an infinity."""
    for path in folder.rglob("*.safetensors"):
        for name, tensor in safetensors.torch.load_file(path).items():
            assert tensor.isfinite().all(), (path, name)
    for path in folder.rglob("*.json*"):
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text(), path


def check_bad_numbers(corpus, tiny, folder: Path, wanted: str, digests, *, trials: int) -> None:
    """Poison random steps: skipped, or an end with an error that a second start mends."""
    say, kept = random.Random(1), loop._remove
    for trial in range(trials):
        out, where = folder / str(trial), ("loss", "gradient", "optimizer")[trial % 3]
        step, bad = say.randrange(1, 12), say.choice([float("nan"), float("inf"), -float("inf")])
        with pytest.MonkeyPatch.context() as patch:
            poison(patch, where, step, bad)
            patch.setattr(loop, "_remove", lambda folder: None)
            if where == "optimizer":
                with pytest.raises(FloatingPointError, match=r"is not finite|nan|inf"):
                    run(corpus, tiny, out, snapshots=(3, 7))
            else:
                run(corpus, tiny, out, snapshots=(3, 7))
        assert_finite(out)
        if where == "optimizer":  # the good checkpoints go on to the good end
            run(corpus, tiny, out, snapshots=(3, 7))
            assert digests(out)["model.safetensors"] == wanted
        else:
            facts = json.loads((out / "training.json").read_text())
            assert facts["skipped_steps"] == [step + 1]
        kept(out)


@pytest.mark.timeout(300)
def test_bad_numbers_never_reach_the_disk(corpus, tiny, tmp_path, undisturbed, digests):
    check_bad_numbers(corpus, tiny, tmp_path, undisturbed, digests, trials=6)


@pytest.mark.slow  # 1 to 4 minutes
@pytest.mark.timeout(1800)
def test_hundred_bad_numbers_never_reach_the_disk(corpus, tiny, tmp_path, undisturbed, digests):
    check_bad_numbers(corpus, tiny, tmp_path, undisturbed, digests, trials=100)
