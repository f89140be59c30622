"""Whether the engine may train, one chunk of mini-batches per batch of Lightning's, and if not, why.

Callbacks and methods that work with chunks are listed; with any other, training goes one mini-batch at a time.
"""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.strategies import SingleDeviceStrategy

from nnlab.training.callbacks import BestAndLast, EpochBar, KeepOnInterrupt

BATCH_HOOKS = {
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    "on_before_optimizer_step",
}
TRANSFERS = {"on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"}
PER_CHUNK = {
    *(KeepOnInterrupt, BestAndLast, EpochBar),
    *(ModelCheckpoint, Timer, LearningRateMonitor, TQDMProgressBar, RichProgressBar),
}
"""The callbacks with batch hooks that work when a hook is called once per chunk."""

NOT_OF_A_STEP = {
    *("configure_optimizers", "configure_callbacks", "setup", "teardown", "predict_step"),
    *("on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end"),
    *("on_validation_epoch_end", "on_test_epoch_end", "on_save_checkpoint", "on_load_checkpoint"),
}
"""The methods that a subclass may override: none is part of a training step."""


def obstacle(trainer: L.Trainer, module: L.LightningModule, base: type) -> str | None:
    """The first setting that rules out the engine, in words; None where there is none.

    Args:
        trainer: the trainer that is about to train.
        module: the module to train.
        base: the module's class in nnlab, itself or a base class.
    """
    return next(_obstacles(trainer, module, base), None)


def _obstacles(trainer: Any, module: L.LightningModule, base: type) -> Iterator[str]:
    if not isinstance(trainer.strategy, SingleDeviceStrategy) or trainer.world_size > 1:
        yield "--trainer.strategy and --trainer.devices must be of one process"
    one_by_one = {  # these look at gradients, or count batches or steps
        "gradient_clip_val": bool(trainer.gradient_clip_val),
        "accumulate_grad_batches": trainer.accumulate_grad_batches != 1,
        "max_steps": trainer.max_steps != -1,
        "min_steps": bool(trainer.min_steps),
        "limit_train_batches": trainer.limit_train_batches != 1 or isinstance(trainer.limit_train_batches, int),
        "overfit_batches": trainer.overfit_batches != 0,
        "fast_dev_run": bool(trainer.fast_dev_run),
        "val_check_interval": trainer.val_check_interval != 1 or isinstance(trainer.val_check_interval, int),
        "detect_anomaly": torch.is_anomaly_enabled(),
    }
    for name, is_set in one_by_one.items():
        if is_set:
            yield f"--trainer.{name} needs mini-batches one by one"
    for config in trainer.lr_scheduler_configs:
        if config.interval == "step":
            yield f"--lr_scheduler: {type(config.scheduler).__name__} steps with every mini-batch"
    for callback in trainer.callbacks:
        yield from _of_callback(callback)
    if changed := _replaced(module, base) - NOT_OF_A_STEP:
        yield f"--model: {type(module).__name__} has {min(changed)} of its own"
    if changed := TRANSFERS & _replaced(trainer.datamodule, L.LightningDataModule):
        yield f"--data: {type(trainer.datamodule).__name__} has {min(changed)} of its own"


def _of_callback(callback: L.Callback) -> Iterator[str]:
    kind = type(callback)
    if kind not in PER_CHUNK and BATCH_HOOKS & _replaced(callback, L.Callback):
        yield f"--trainer.callbacks: {kind.__name__} looks at every mini-batch"
    if isinstance(callback, ModelCheckpoint) and "'every_n_train_steps': 0" not in callback.state_key:
        yield f"--checkpoint.every_n_train_steps of {kind.__name__} counts mini-batches"
    if isinstance(callback, (ModelPruning, BaseFinetuning)):
        yield f"--trainer.callbacks: {kind.__name__} changes what is trained"
    if isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches():
        yield f"--trainer.callbacks: {kind.__name__} accumulates mini-batches"


def _replaced(thing: Any, base: type) -> set[str]:
    """The methods of a class that an object's own class, or the object itself, overrides."""
    if not isinstance(thing, base):
        return set()
    derived = type(thing).__mro__[: type(thing).__mro__.index(base)]
    own = {name for kind in derived for name in vars(kind)} | {n for n, value in vars(thing).items() if callable(value)}
    return {name for name in own if callable(getattr(base, name, None)) and name not in vars(object)}
