"""What keeps mini-batches from being learnt in blocks: the options that need Lightning between any two of them."""

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from nnlab.data import ResidentLoader
from nnlab.engine import Descent
from nnlab.training.callbacks import BestAndLast, EpochBar, KeepOnInterrupt
from nnlab.validation import ArgumentError

_OF_A_STEP = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    "on_before_optimizer_step",
)
_OF_A_BATCH = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_OF_LEARNING = (
    *("training_step", "backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping"),
    *("logits", "error", "mean_loss", "measure"),
)
"""Hooks and methods that are asked for every mini-batch."""

_FIT_FOR_BLOCKS = {
    *(KeepOnInterrupt.on_train_batch_end, BestAndLast.on_train_batch_end, EpochBar.on_train_batch_end),
    *(ModelCheckpoint.on_train_batch_end, Timer.on_train_batch_end),
    *(TQDMProgressBar.on_train_batch_end, RichProgressBar.on_train_batch_end),
}
"""What callbacks do after every mini-batch and need to do after a block only, which ends where it matters to them."""


def obstacle(trainer: L.Trainer, learner: L.LightningModule, base: type[L.LightningModule]) -> str | None:
    """The option that stands in the way of blocks, as the command's user would name it; None where none does.

    Args:
        trainer: about to train.
        learner: what is trained.
        base: the class that learns in blocks; ``learner`` is of it or of a class derived from it.
    """
    return (
        _of_trainer(trainer, learner)
        or _of_data(trainer, learner)
        or _of_callbacks(trainer)
        or _own(learner, base, (*_OF_LEARNING, *_OF_A_STEP, *_OF_A_BATCH), "--model")
    )


def _of_trainer(trainer: L.Trainer, learner: L.LightningModule) -> str | None:
    return _first(
        {
            "--trainer.devices": trainer.world_size > 1,
            "--trainer.strategy": not isinstance(trainer.strategy, SingleDeviceStrategy),
            "--trainer.accelerator": learner.device.type not in ("cpu", "cuda"),
            "--trainer.precision": trainer.precision not in ("32-true", "64-true"),
            "--trainer.gradient_clip_val": bool(trainer.gradient_clip_val),
            "--trainer.accumulate_grad_batches": trainer.accumulate_grad_batches != 1,
            "--trainer.detect_anomaly": torch.is_anomaly_enabled(),
            "--lr_scheduler, which steps with every mini-batch": any(
                config.interval == "step" for config in trainer.lr_scheduler_configs
            ),
        }
    )


def _first(stands: dict[str, bool]) -> str | None:
    return next((option for option, does in stands.items() if does), None)


def _of_data(trainer: L.Trainer, learner: L.LightningModule) -> str | None:
    loader = trainer.train_dataloader
    if not isinstance(loader, ResidentLoader):
        return f"--data: {type(loader).__name__} in place of ResidentLoader"
    if loader.images.device != learner.device:
        return f"--data: on {loader.images.device}, the model on {learner.device}"
    data = trainer.datamodule  # type: ignore[attr-defined]
    return None if data is None else _own(data, L.LightningDataModule, _OF_A_BATCH, "--data")


def _of_callbacks(trainer: L.Trainer) -> str | None:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which its connector sets
    return next((f"--trainer.callbacks: {type(c).__name__}" for c in callbacks if _needs_each(c, trainer)), None)


def _needs_each(callback: L.Callback, trainer: L.Trainer) -> bool:
    """Whether a callback has to be asked at every mini-batch."""
    own = {f for hook in _OF_A_STEP if (f := _function(callback, hook)) is not getattr(L.Callback, hook)}
    if isinstance(callback, LearningRateMonitor) and (
        callback.logging_interval == "epoch" or (callback.logging_interval is None and trainer.lr_scheduler_configs)
    ):
        own.discard(LearningRateMonitor.on_train_batch_start)  # it does nothing
    return not own <= _FIT_FOR_BLOCKS


def _own(thing: Any, base: type, methods: Iterable[str], flag: str) -> str | None:
    """The method in which a thing differs from a class."""
    for name in methods:
        if hasattr(base, name) and _function(thing, name) is not getattr(base, name):
            return f"{flag}: {type(thing).__name__}.{name}"
    return None


def _function(thing: Any, method: str) -> Any:
    """The function behind a method, also where an instance has one of its own."""
    bound = getattr(thing, method)
    return getattr(bound, "__func__", bound)


def descent_of(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> Descent | str:
    """The engine's form of ``torch.optim.SGD``, as of now, or the option that has none.

    Args:
        optimizer: any.
        parameters: those that the engine trains.
    """
    if type(optimizer) is not torch.optim.SGD:
        return f"--optimizer={type(optimizer).__name__}"
    group, *others = optimizer.param_groups
    found = _first(
        {
            "--optimizer: groups of parameters": bool(others)
            or list(map(id, group["params"])) != list(map(id, parameters)),
            "--optimizer: hooks on its step": bool(
                optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
            ),
            "--model: frozen parameters": not all(p.requires_grad for p in parameters),
            "--model: hooks on gradients": any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters),
            **{f"--optimizer.{name}": group[name] for name in ("nesterov", "dampening", "maximize", "differentiable")},
        }
    )
    if found:
        return found
    descent = Descent(float(group["lr"]), group["momentum"], group["weight_decay"])
    try:
        descent.check()
    except ArgumentError as error:  # as a learning rate of 0, which torch takes
        return f"--optimizer.{error.argument}={group[error.argument]}"
    return descent
