"""Jobs for ckpt-chaos: each goes on from the newest checkpoint in its folder, and ends by keeping its weights there.

``python -m tests.training.chaos_job FOLDER JOB`` runs one. ``lightning`` is what Lightning itself gives, without nnlab.
"""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nnlab.cli import main
from nnlab.training import read_checkpoint

JOBS = {
    "smoke": ["--config=smoke"],
    "perceptron": ["--config=perceptron", "--data.name=digits", "--data.batch_size=32"],
    "mlp": [
        *("--config=mlp", "--data.name=digits", "--model.hidden=[32]"),
        *("--trainer.precision=64-true", "--trainer.limit_train_batches=10"),
    ],
    "ddp": ["--config=smoke", "--trainer.strategy=ddp", "--trainer.devices=2"],
}
RESULT = "final.pt"


def newest(folder: Path, *names: str) -> Path | None:
    """The newest checkpoint of these names under a folder."""
    return max((path for name in names for path in folder.rglob(name)), key=lambda p: p.stat().st_mtime, default=None)


def fit(folder: Path, job: str) -> dict[str, Any]:
    """Train with ``nnlab fit``, and return the last and the best weights."""
    flags = [f"--trainer.default_root_dir={folder}", "--trainer.max_epochs=3", "--trainer.accelerator=cpu"]
    if path := newest(folder, "last.ckpt", "interrupted.ckpt"):
        print("resumed from step", read_checkpoint(path)["global_step"], flush=True)
        flags.append(f"--ckpt_path={path}")
    main(["fit", *JOBS[job], *flags])
    kept = (
        newest(folder, "last.ckpt", "interrupted.ckpt"),
        newest(folder, "best.ckpt"),
    )  # no last one where all was done
    return {name: read_checkpoint(path)["state_dict"] for name, path in zip(("last", "best"), kept, strict=True)}


class Plain(L.LightningModule):
    """The network of ``configs/smoke.yaml`` as Lightning's tutorial would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def lightning(folder: Path, *, shuffle: bool) -> dict[str, Any]:
    """Train with Lightning alone, ``ModelCheckpoint(save_last=True)`` and ``ckpt_path="last"``; return the weights."""
    from sklearn.datasets import load_digits

    L.seed_everything(1)
    digits = load_digits()
    x, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    train, val = TensorDataset(x[:1318], labels[:1318]), TensorDataset(x[1318:1437], labels[1318:1437])
    kept = ModelCheckpoint(folder / "checkpoints", monitor="val_loss", save_last=True)
    run = L.Trainer(accelerator="cpu", max_epochs=3, default_root_dir=folder, callbacks=[kept], log_every_n_steps=1)
    model = Plain()
    run.fit(model, DataLoader(train, 32, shuffle=shuffle), DataLoader(val, 119), ckpt_path="last", weights_only=False)
    return dict(model.state_dict())


def run(folder: Path, job: str) -> None:
    """Run a job, and keep its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    alone = job.startswith("lightning")
    weights = lightning(folder, shuffle=job == "lightning") if alone else fit(folder, job)
    if os.environ.get("RANK", "0") == "0":
        torch.save(weights, folder / RESULT)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2])
