"""Lightning as its MNIST tutorial uses it: a ``DataLoader``, automatic optimization, ``cross_entropy``."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from itertools import pairwise
from statistics import median
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.problems import MLPProblem
from benchmarks.process import Contestant, synchronise
from nnlab.data import default_root


class _EpochEnds(L.Callback):
    """Notes when each epoch ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        synchronise(self.device)
        self.times.append(time.perf_counter())


def fit(model: L.LightningModule, data: Any, device: torch.device, epochs: int) -> float:
    """Train without validation, logger, checkpoints and progress bar.

    Returns:
        The median time from the end of one epoch to the end of the next, NaN for a single epoch. The first is not
        timed: Lightning begins to fetch batches before it announces the epoch.
    """
    ends = _EpochEnds(device)
    for name in ("lightning.pytorch", "lightning.fabric"):  # its advice is not meant for a benchmark
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=[ends],
            default_root_dir=root,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(model, data)
    return median([end - start for start, end in pairwise(ends.times)] or [float("nan")])


class _Module(L.LightningModule):
    def __init__(self, problem: MLPProblem) -> None:
        super().__init__()
        self.network = problem.network().to_sequential()
        self.lr = problem.lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels = batch
        return cross_entropy(self.network(x.flatten(1)), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, fused=True)


def lightning(problem: MLPProblem, *, files: bool = False) -> Contestant:
    """Training only, with a fused optimizer, from tensors in memory.

    With ``files``, from torchvision's MNIST as in the tutorial: it makes each image a tensor when its turn comes, and
    does not read files that are there as .gz alone.
    """
    model = _Module(problem)
    samples: Dataset[Any] = TensorDataset(problem.x.cpu(), problem.labels.cpu())
    if files:
        samples = MNIST(default_root(), train=True, transform=ToTensor())

    def run(order: Tensor, epochs: int) -> float:
        return fit(model, DataLoader(samples, problem.batch_size, sampler=order.tolist()), problem.x.device, epochs)

    def parameters() -> list[Tensor]:
        return list(model.network.parameters())

    return Contestant(lambda order: run(order, 1), parameters, lambda order: run(order, 2))
