"""What ``test_ddp`` runs on two processes: the command, once for each case, and a rank that fails."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from nnlab.cli import main
from nnlab.validation import ArgumentError
from tests.training.runs import SMOKE

CASES = {
    "mean, uneven tail": ("mean", 120, 1),  # reduction, val_size, accumulated batches; 1317 images, the tail 19 + 18
    "sum, uneven tail": ("sum", 120, 1),
    "mean, an empty part": ("mean", 156, 1),  # 1281 images, the tail 1 + 0
    "sum, an empty part": ("sum", 156, 1),
    "sum, accumulated": ("sum", 120, 2),
}


class KeepEachRank(L.Callback):
    """Saves what each process ends with, for the test to compare."""

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ended = {"state": pl_module.state_dict(), "steps": trainer.global_step}
        torch.save(ended, Path(trainer.default_root_dir, f"rank{trainer.global_rank}.pt"))


class SaveAtStep25(L.Callback):
    """Writes what a run that goes on from within its second epoch needs."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 25:
            trainer.save_checkpoint(Path(trainer.default_root_dir, "middle.ckpt"), weights_only=False)


def _raise(error: Exception) -> Callable[[L.LightningModule], None]:
    def fail(_: L.LightningModule) -> None:
        raise error

    return fail


def _hang(_: L.LightningModule) -> None:
    os.kill(os.getppid(), signal.SIGINT)  # Ctrl-C
    time.sleep(600)


def _make_nan(module: L.LightningModule) -> None:
    next(module.parameters()).data.fill_(math.nan)


WAYS: dict[str, Callable[[L.LightningModule], object]] = {
    "raises": _raise(RuntimeError("boom")),
    "user error": _raise(ArgumentError("lr", "must be another")),
    "sys.exit": lambda _: sys.exit(3),
    "os._exit": lambda _: os._exit(5),
    "SIGKILL": lambda _: signal.raise_signal(signal.SIGKILL),
    "SIGTERM": lambda _: signal.raise_signal(signal.SIGTERM),
    "SIGINT": lambda _: signal.raise_signal(signal.SIGINT),
    "kills the parent": lambda _: os.kill(os.getppid(), signal.SIGKILL),
    "NaN": _make_nan,
    "hangs": _hang,
}


class Fail(L.Callback):
    """At step 7 something happens to one process."""

    def __init__(self, way: str, rank: int) -> None:
        self.way, self.rank = way, rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, 7):
            Path(trainer.default_root_dir, "failed").touch()
            WAYS[self.way](pl_module)


def arguments(root: Path, case: str, batch_size: int) -> list[str]:
    """Two epochs of a case."""
    reduction, val_size, batches = CASES[case]
    return [
        *("fit", f"--config={SMOKE}", f"--trainer.default_root_dir={root}", "--trainer.max_epochs=2"),
        *("--trainer.accelerator=cpu", "--model.engine=off"),  # as with two processes
        *(f"--data.batch_size={batch_size}", f"--data.val_size={val_size}"),
        *(f"--model.reduction={reduction}", "--model.l2=0.01", "--trainer.callbacks=tests.training.ddp.KeepEachRank"),
        *(f"--optimizer.lr={0.1 if reduction == 'mean' else 0.1 / 64}", f"--trainer.accumulate_grad_batches={batches}"),
    ]


TWO = ("--trainer.strategy=ddp", "--trainer.devices=2")


def run(root: Path) -> None:
    for case in CASES:
        (root / case).mkdir(exist_ok=True)
        main([*arguments(root / case, case, 32), *TWO])


if __name__ == "__main__":
    run(Path(sys.argv[1]))
