"""Fork the ranks of training runs on request, as torch.distributed.run would start them.

A rank may note the rows that it reads, or meet a loss that is not finite (see test_ranks.py).
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np
import torch
from torch import Tensor

from modules.model.base import Decoder
from modules.training import finetune, fit, loop, pretrain  # noqa: F401  imported for the children
from modules.training import state as states


def record(folder: Path, rank: int) -> None:
    """Append (number of a micro-batch, its rows) to a file per rank as they are trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    loss, count = pretrain.PretrainModule.micro_loss, [0, -1]

    def noting(self: pretrain.PretrainModule, batch: Tensor) -> Tensor:
        count[0] = count[0] + 1 if count[1] == self.done else 0
        count[1] = self.done
        number = self.done * self.config.accumulate + count[0]
        with (folder / f"rank-{rank}.jsonl").open("a") as file:
            file.write(json.dumps([number, batch.tolist()]) + "\n")
        return loss(self, batch)

    pretrain.PretrainModule.micro_loss = noting


def stop(steps: int) -> None:
    """Ask to stop after so many steps, in this rank only."""
    count = [0]

    def asked(self: fit.StopFlag) -> bool:
        count[0] += 1
        return count[0] >= steps

    fit.StopFlag.__call__ = asked


def spoil(calls: list[int]) -> None:
    """Make the training losses of these calls infinite in this rank."""
    real, count = Decoder.lm_loss, [0]

    def sometimes(self: Decoder, *arguments: Tensor, **more: float) -> Tensor:
        loss = real(self, *arguments, **more)
        count[0] += self.training
        return loss * (np.inf if self.training and count[0] in calls else 1.0)

    Decoder.lm_loss = sometimes


def die(at: str) -> None:
    """Be killed where the finished run is to be sealed, or when nothing of it is written yet."""
    module, name = (loop, "finish") if at == "seal" else (pretrain, "write_checkpoint")
    setattr(module, name, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))


def blind(yes: bool) -> None:
    """See no checkpoint, as on a machine that does not share the folder."""
    states.load_newest = lambda folder: None


def child(request: dict, rank: int, port: int) -> None:
    """Be one rank of the job."""
    path, n = Path(request["path"]), request["ranks"]
    log = os.open(path.with_suffix(f".{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if n > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    if "record" in request:
        record(Path(request["record"]), rank)
    for patch in (spoil, stop, die, blind):
        if str(rank) in request.get(patch.__name__, {}):
            patch(request[patch.__name__][str(rank)])
    try:
        os._exit(fit.main(path))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def serve(request: dict) -> list[int]:
    """Fork the ranks, wait for them; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(request["ranks"]):
        pids.append(os.fork())
        if pids[-1] == 0:
            child(request, rank, port)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)  # noqa: T201  its protocol
