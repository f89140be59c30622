"""Lightning's trainer with nothing beside the training, and a clock that it calls at the end of each epoch."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import lightning as L
import torch


class _Clock(L.Callback):
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())


def fit(model: L.LightningModule, data: Any, device: torch.device, epochs: int) -> float:
    """Train without validation, logger, checkpoints and progress bar.

    Args:
        model: what is trained.
        data: a loader, or a data module.
        device: where.
        epochs: how many; the first is not timed, for Lightning begins to read ahead before it announces it.

    Returns:
        the seconds of an epoch, from the end of one to the end of the next, the median; NaN for one epoch alone.
    """
    clock = _Clock(device)
    with tempfile.TemporaryDirectory() as root, _quiet():
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=epochs,
            callbacks=[clock],
            default_root_dir=root,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        try:
            trainer.fit(model, data)
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
    laps = [end - start for start, end in pairwise(clock.ends)]
    return median(laps) if laps else float("nan")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's log, and without its advice, which is not for a benchmark."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
