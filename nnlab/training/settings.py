"""Checks of the settings before anything is built or written."""

import tempfile
from inspect import signature
from pathlib import Path
from typing import Any

from nnlab.config_files import UserError
from nnlab.data import SPECS
from nnlab.training.classifier import Classifier
from nnlab.training.parser import FROM_DATA
from nnlab.validation import ArgumentError, check_at_least, check_not_negative, check_positive

_WATCHES = {"checkpoint": "save_on_train_epoch_end", "early_stopping": "check_on_train_epoch_end"}


def check_settings(command: str, config: Any, learner: type[Classifier]) -> None:
    """Refuse settings that would fail only after the data is loaded, or train something else than was meant.

    Args:
        command: fit, validate, test or predict.
        config: the command's settings; those that say when a figure is looked at are filled in.
        learner: what is to be trained.

    Raises:
        UserError, ArgumentError: naming what to change.
    """
    for name in sorted(FROM_DATA):
        default, right = signature(learner).parameters[name].default, getattr(SPECS[config.data.name], name)
        if (given := config.model.init_args[name]) not in (default, right):
            raise UserError(f"--model.{name} is {right} for --data.name={config.data.name}, got {given}: leave it out")
    if learner.__name__ == "LitPerceptron":
        for name in ("optimizer", "lr_scheduler"):
            if config[name]:
                raise UserError(f"LitPerceptron learns by its own rule: leave out --{name}, and set --model.lr")
    if config.lr_scheduler and not config.optimizer:
        raise UserError("--lr_scheduler needs the optimizer that it is to steer: add --optimizer and --optimizer.lr")
    _check_names(config)
    if config.trainer.accelerator == "mps":
        raise ArgumentError("accelerator", "must be 'cpu', 'cuda' or 'auto', got 'mps': nnlab runs on no other device")
    if config.trainer.default_root_dir is None:
        raise UserError("--trainer.default_root_dir must name a folder, got null")
    if command == "test" and config.trainer.limit_test_batches == 0:
        raise UserError("--trainer.limit_test_batches=0 leaves nothing to test: leave it out")
    if config.optimizer and "lr" in config.optimizer.init_args:
        check_positive("lr", config.optimizer.init_args.lr)
    check_at_least("accumulate_grad_batches", config.trainer.accumulate_grad_batches, 1)
    check_not_negative("gradient_clip_val", config.trainer.gradient_clip_val or 0)
    if command == "fit":
        _check_watches(config, learner)
    _check_writable(Path(config.trainer.default_root_dir))


def _check_names(config: Any) -> None:
    """Refuse a learning rate that is given twice, and checkpoints that would overwrite one another."""
    if config.optimizer and config.model.init_args.get("lr") is not None:
        raise UserError("--model.lr and --optimizer.lr both set the learning rate: leave out --model.lr")
    name = config.checkpoint.filename
    if name is not None and (Path(name).name != name or name in ("last", "interrupted")):
        raise UserError(f"--checkpoint.filename must be a name of its own, without a folder, got {name}")


def _check_watches(config: Any, learner: type[Classifier]) -> None:
    """Let a figure of validation be looked at after validation: not where ``max_steps`` ends an epoch before it."""
    without_validation = []
    for key, when in _WATCHES.items():
        monitor = config[key].monitor
        if monitor is not None and monitor not in learner.figures:
            raise UserError(f"--{key}.monitor must be one of {', '.join(learner.figures)}, got {monitor}")
        of_validation = monitor is not None and monitor.startswith("val")
        if of_validation and config.data.val_size == 0:
            without_validation.append(f"--{key}.monitor")
        if config[key][when] is None:
            config[key][when] = not of_validation
    if without_validation:
        flags = " and ".join(without_validation)
        raise UserError(f"--data.val_size=0 leaves nothing to validate: set {flags} to {learner.figures[0]}")


def _check_writable(root: Path) -> None:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        reason = f"{root} ({error.strerror})"
        raise ArgumentError("default_root_dir", f"must be a folder that can be written to, got {reason}") from error
