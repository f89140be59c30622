"""What ``test_ddp`` runs on two processes: the command, once for each case. Lightning starts the second process."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from nnlab.cli import main
from tests.training.runs import CONFIGS, SMOKE

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


class InterruptOne(L.Callback):
    """Ctrl-C reaches the second process alone."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.global_rank, trainer.global_step) == (1, 7):
            signal.raise_signal(signal.SIGINT)


def arguments(root: Path, case: str, batch_size: int) -> list[str]:
    """Two epochs of a case."""
    reduction, val_size, batches = CASES[case]
    return [
        *("fit", f"--config={SMOKE}", f"--trainer.default_root_dir={root}", "--trainer.max_epochs=2"),
        *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        *(f"--data.batch_size={batch_size}", f"--data.val_size={val_size}"),
        *(f"--model.reduction={reduction}", "--model.l2=0.01", "--trainer.callbacks=tests.training.ddp.KeepEachRank"),
        *(f"--optimizer.lr={0.1 if reduction == 'mean' else 0.1 / 64}", f"--trainer.accumulate_grad_batches={batches}"),
    ]


def run(root: Path) -> None:
    two = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    for case in CASES:
        (root / case).mkdir(exist_ok=True)
        main([*arguments(root / case, case, 32), *two])
    try:
        main(["fit", f"--config={CONFIGS / 'perceptron.yaml'}", "--data.name=digits", *two])
    except SystemExit as end:
        print("perceptron: status", end.code, "rank", os.environ.get("LOCAL_RANK", "0"), flush=True)
    interrupted = [*arguments(root / "interrupted", "sum, uneven tail", 32), *two]
    main([*interrupted, "--trainer.callbacks+=tests.training.ddp.InterruptOne"])


if __name__ == "__main__":
    run(Path(sys.argv[1]))
