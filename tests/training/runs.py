"""Short training runs, by Lightning's Trainer and by the command, on data that needs no network."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from torch import Tensor

from nnlab.cli import main
from nnlab.data import SPECS
from nnlab.training import MNISTDataModule
from tests.data.conftest import write_data_set

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
SMOKE = CONFIGS / "smoke.yaml"

LOGGERS = ("nnlab", "lightning", "lightning.pytorch", "lightning.fabric")

Batches = list[tuple[Tensor, Tensor]]


class Ended(NamedTuple):
    """How a command ended: its exit status and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def nnlab(*arguments: object) -> Ended:
    """Run the command in this process, and leave nothing behind in it."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err, _clean():
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Ended(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _clean() -> Iterator[None]:
    """Put back what the command changes in its process: loggers, and the environment that Lightning seeds by."""
    environment = dict(os.environ)
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in map(logging.getLogger, LOGGERS)]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def fit(*arguments: object) -> Ended:
    """``nnlab fit`` without a progress bar, which must end well."""
    ended = nnlab("fit", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *arguments)
    assert (ended.status, ended.err) == (0, "")
    return ended


def files_in(folder: Path) -> set[str]:
    """Everything below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def small_data_set(monkeypatch: pytest.MonkeyPatch, name: str, root: Path, n_train: int = 24, n_test: int = 10) -> Path:
    """Make a data set small, its SHA-256 sums known, and write it under root; return the folder of its files."""
    spec = dataclasses.replace(SPECS[name], n_train=n_train, n_test=n_test, sha256={})
    monkeypatch.setitem(SPECS, name, spec)
    folder = write_data_set(name, root)
    sums = {file.name: hashlib.sha256((folder / file.name).read_bytes()).hexdigest() for file in spec.files}
    monkeypatch.setitem(SPECS, name, dataclasses.replace(spec, sha256=sums))
    return folder


def trainer(device: torch.device, root: Path, **options: Any) -> L.Trainer:
    """A trainer that prints nothing, and writes nothing unless asked to."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 1,
    }
    return L.Trainer(accelerator=device.type, devices=1, default_root_dir=root, **quiet | options)


def falling(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """A learning rate that is halved with every epoch."""
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def digits(n_train: int, batch_size: int, *, seed: int = 3, **options: Any) -> MNISTDataModule:
    """The first ``n_train`` digits to train on; the other training images are for validation."""
    return MNISTDataModule("digits", batch_size=batch_size, val_size=1437 - n_train, seed=seed, **options)


def epochs(data: MNISTDataModule, n: int = 1) -> Batches:
    """The mini-batches of the next n epochs of training, in their order, from a data module of the same arguments."""
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    return [(x.clone(), labels.clone()) for _ in range(n) for x, labels in loader]


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the state of a model, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def figures(folder: Path) -> list[dict[str, float]]:
    """The rows of the log in a run's folder."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
