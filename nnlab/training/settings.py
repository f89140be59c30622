"""Checks of the settings before anything is built or written; the settings that a checkpoint keeps."""

import math
import pydoc
import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, cast, get_args

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import instantiate_class
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nnlab.config_files import UserError
from nnlab.data import spec_of
from nnlab.training.classifier import Classifier
from nnlab.training.datamodule import MNISTDataModule
from nnlab.training.parser import FROM_DATA, LEARNERS
from nnlab.validation import ArgumentError, check_at_least, check_not_negative, check_positive, resolve_device

_WATCHES = {"checkpoint": "save_on_train_epoch_end", "early_stopping": "check_on_train_epoch_end"}


def check_numbers(config: Any) -> None:
    """Refuse numbers that are too large, NaN or infinite.

    Raises:
        UserError, ArgumentError: naming the flag.
    """
    for key, part in config.items():
        _check_numbers(f"--{key}", part)
    if not 0 <= config.seed_everything < 2**32:
        problem = f"must be a whole number from 0 to {2**32 - 1}, got {config.seed_everything}"
        raise ArgumentError("seed_everything", problem)


def _check_numbers(flag: str, value: Any) -> None:
    """Check a setting, or each of a group or a list."""
    flag = flag.replace(".init_args.", ".")
    if isinstance(value, int) and not -(2**63) <= value < 2**63 and flag != "--seed_everything":
        raise UserError(f"{flag} must be below 2^63, got {str(value)[:40]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{flag} must be a finite number, got {value}")
    if hasattr(value, "items"):
        for key, part in value.items():
            _check_numbers(f"{flag}.{key}", part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _check_numbers(flag, part)


def try_optimizer(parameters: list[torch.Tensor], optimizer: Any, lr_scheduler: Any, precision: str | None) -> None:
    """Try an optimizer and its scheduler: one step on copies of the parameters, with zero gradients."""
    dtype = torch.float64 if precision == "64-true" else torch.float32
    copies = [parameter.detach().clone().to(dtype).requires_grad_() for parameter in parameters]
    for copy in copies:
        copy.grad = torch.zeros_like(copy)
    tried = instantiate_class((copies,), optimizer)
    steered = instantiate_class(tried, lr_scheduler) if lr_scheduler else None
    tried.step(lambda: torch.zeros(()))
    tried.state_dict()
    if steered is not None:
        steered.step(*[0.0] * isinstance(steered, ReduceLROnPlateau))
        steered.state_dict()


CHOSEN = (
    "optimizer",
    "lr_scheduler",
    *(f"trainer.{key}" for key in ("callbacks", "logger", "plugins", "strategy", "profiler")),
)
"""The flags that choose classes."""


def blamed(error: BaseException, config: Any, defaults: Mapping[str, Any]) -> str:
    """The flags behind an error of a chosen class of torch or Lightning, or of Lightning's trainer.

    "" for an error in nnlab or in the user's own class, where the traceback helps more.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]
    classes = {kind.class_path.rpartition(".")[2]: (flag, kind) for flag, kind in _chosen_classes(config)}
    for frame in frames:
        if frame.f_globals.get("__name__", "").startswith("nnlab."):
            break
        for kind in map(type, frame.f_locals.values()):
            if kind.__module__.startswith(("torch.", "lightning.")) and kind.__name__ in classes:
                return _flags(*classes[kind.__name__], str(error))
    if not frames or not frames[0].f_globals.get("__name__", "").startswith("lightning."):
        return ""
    known = signature(L.Trainer).parameters
    names = [name for name in re.findall(r"\w+", str(error)) if name in known]
    changed = [
        k for k, p in known.items() if k in config.trainer and config.trainer[k] not in (p.default, defaults.get(k))
    ]
    return " ".join(f"--trainer.{name}" for name in dict.fromkeys(names or changed))


def _chosen_classes(config: Any) -> Iterator[tuple[str, Any]]:
    """The classes that were chosen, each with its flag."""
    for flag in CHOSEN:
        value = config.get(flag)
        for kind in value if isinstance(value, list) else [value]:
            if getattr(kind, "class_path", None):
                yield flag, kind


def _flags(flag: str, kind: Any, message: str) -> str:
    """A class and its settings as flags: those that a message names, or all that differ from their defaults."""
    usual = signature(cast(type, pydoc.locate(kind.class_path))).parameters
    given = {
        name: value
        for name, value in (kind.get("init_args") or {}).items()
        if type(value) in (int, float, str, bool) and (name not in usual or value != usual[name].default)
    }
    named = {name: value for name, value in given.items() if re.search(rf"\b{name}\b", message)} or given
    name = kind.class_path.rpartition(".")[2]
    return " ".join([f"--{flag}={name}", *(f"--{flag}.{k}={v}" for k, v in named.items())])


def check_settings(command: str, config: Any, learner: type[Classifier]) -> None:
    """Refuse settings that would fail after the data is loaded, or train another model than was asked for.

    Args:
        command: fit, validate, test or predict.
        config: the command's settings; when a monitored metric is looked at is filled in.
        learner: what is to be trained.

    Raises:
        UserError, ArgumentError: naming what to change.
    """
    _check_given("model", learner, config.model.init_args)
    _check_given("data", MNISTDataModule, config.data)
    _check_from_data(config, learner)
    for key in ("optimizer", "lr_scheduler"):
        if kind := config[key]:
            _check_given(key, cast(type, pydoc.locate(kind.class_path)), kind.get("init_args") or {})
            if learner.__name__ == "LitPerceptron":
                raise UserError(f"LitPerceptron learns by its own rule: leave out --{key}, and set --model.lr")
    if config.lr_scheduler and not config.optimizer:
        raise UserError("--lr_scheduler needs the optimizer that it is to steer: add --optimizer and --optimizer.lr")
    _check_names(config)
    if config.trainer.accelerator == "mps":
        raise ArgumentError("accelerator", "must be 'cpu', 'cuda' or 'auto', got 'mps': nnlab runs on no other device")
    device = resolve_device("auto").type if config.trainer.accelerator == "auto" else config.trainer.accelerator
    if config.trainer.precision == "16-mixed" and device == "cpu":
        raise ArgumentError("precision", "must be bf16-mixed on a CPU, where Lightning would take it for 16-mixed")
    if config.trainer.default_root_dir is None:
        raise UserError("--trainer.default_root_dir must name a folder, got null")
    nothing = {"test": ["limit_test_batches"], "fit": ["limit_train_batches", "max_epochs"]}
    for name in nothing.get(command, []):
        if config.trainer[name] == 0:
            raise UserError(f"--trainer.{name}=0 leaves nothing to {command}: leave it out")
    monitor = (config.lr_scheduler or {}).get("init_args", {}).get("monitor")
    if monitor is not None and monitor not in learner.figures:
        raise UserError(f"--lr_scheduler.monitor must be one of {', '.join(learner.figures)}, got {monitor}")
    if config.optimizer and "lr" in config.optimizer.init_args:
        check_positive("lr", config.optimizer.init_args.lr)
    check_at_least("accumulate_grad_batches", config.trainer.accumulate_grad_batches, 1)
    check_not_negative("gradient_clip_val", config.trainer.gradient_clip_val or 0)
    if command == "fit":
        _check_watches(config, learner)
    _check_writable(Path(config.trainer.default_root_dir))


def _check_given(group: str, owner: type, given: Any) -> None:
    """Refuse null where a class takes no None; the parser accepts it for a union of types."""
    for name, parameter in signature(owner).parameters.items():
        takes_none = (
            parameter.default is None
            or isinstance(parameter.annotation, str)
            or type(None) in get_args(parameter.annotation)
        )
        if given.get(name, 0) is None and not takes_none:
            raise UserError(f"--{group}.{name} must have a value, got null: leave it out")


def _check_from_data(config: Any, learner: type[Classifier]) -> None:
    """Refuse sizes that differ from the data's."""
    data = config.data
    spec = spec_of(data.name, data.path, data.label, keep=True)
    source = f"--data.name={data.name or 'mnist'}" if data.path is None else f"--data.path={data.path}"
    for name in sorted(FROM_DATA):
        default, right = signature(learner).parameters[name].default, getattr(spec, name)
        if (given := config.model.init_args[name]) not in (default, right):
            raise UserError(f"--model.{name} is {right} for {source}, got {given}: leave it out")


def _check_names(config: Any) -> None:
    """Refuse two learning rates, and a checkpoint's name that is used or leaves the folder."""
    if config.optimizer and config.model.init_args.get("lr") is not None:
        raise UserError("--model.lr and --optimizer.lr both set the learning rate: leave out --model.lr")
    name = config.checkpoint.filename
    if name is not None and (Path(name).name != name or name in ("last", "interrupted")):
        raise UserError(f"--checkpoint.filename must be a name of its own, without a folder, got {name}")


def _check_watches(config: Any, learner: type[Classifier]) -> None:
    """Check the monitored metrics. One of validation is looked at after validation, others after a training epoch."""
    without_validation = []
    for key, when in _WATCHES.items():
        if config[key] is None:
            continue  # early stopping, switched off
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


# ---- settings in a checkpoint ----------------------------------------------------------------------------------------

SETTINGS = "settings"  # the field
MOST_VALUES = 1000
PATHS = {"data.root", "data.path", "checkpoint.dirpath"}
NOT_KEPT = {"config", "ckpt_path", "weights_only", "verbose", "trainer.default_root_dir"}  # each command has its own
ONE_PROCESS = {"trainer.strategy": "auto", "trainer.devices": 1, "trainer.num_nodes": 1}  # not asked for again
OPTIMIZERS = tuple(name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type))
SCHEDULERS = (
    *("ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LinearLR"),
    *("MultiStepLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "StepLR"),
)
CALLBACKS = (
    *("DeviceStatsMonitor", "EMAWeightAveraging", "GradientAccumulationScheduler", "LearningRateMonitor"),
    *("ModelSummary", "RichModelSummary", "RichProgressBar", "TQDMProgressBar", "Timer", "WeightAveraging"),
)
CLASSES = {  # those that a checkpoint may name, by the setting
    "model": {f"nnlab.training.{name}" for name in LEARNERS},
    "optimizer": {f"torch.optim.{name}" for name in OPTIMIZERS},
    "lr_scheduler": {f"torch.optim.lr_scheduler.{name}" for name in SCHEDULERS}
    | {"lightning.pytorch.cli.ReduceLROnPlateau"},
    "trainer.callbacks": {f"lightning.pytorch.callbacks.{name}" for name in CALLBACKS},
}
OF_TRAINER = (  # a string in any other would name a class, or start processes
    *("accelerator", "precision", "fast_dev_run", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps"),
    *("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "accumulate_grad_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark", "inference_mode"),
    *("use_distributed_sampler", "detect_anomaly", "barebones", "sync_batchnorm", "reload_dataloaders_every_n_epochs"),
    "enable_autolog_hparams",
)
NAMES: dict[str, set[str]] = {
    "trainer": {*OF_TRAINER},
    "data": {*signature(MNISTDataModule).parameters},
    "checkpoint": {*signature(ModelCheckpoint).parameters},
    "early_stopping": {*signature(EarlyStopping).parameters},
}


def split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Split a command's settings into those that a checkpoint keeps, and the flags of the others.

    A checkpoint keeps plain values of known settings and the classes of ``CLASSES``, but no paths.
    """
    kept: dict[str, Any] = {}
    asked = []
    for group, values in settings.items():
        named = group in NAMES and isinstance(values, Mapping)
        for name, value in values.items() if named else [(None, values)]:
            flag = group if name is None else f"{group}.{name}"
            if flag in NOT_KEPT:
                continue
            if _is_kept(flag, group, name, value):
                (kept.setdefault(group, {}) if named else kept)[name or group] = value
            elif value is not None and not (flag in ONE_PROCESS and value == ONE_PROCESS[flag]):
                asked.append(f"--{flag}")
    return kept, asked


def _is_kept(flag: str, group: str, name: str | None, value: Any) -> bool:
    """Whether a checkpoint keeps a setting; ``name`` is None for a group that is one value."""
    if flag in PATHS:
        return False
    if flag in CLASSES:
        return value is None or all(
            _is_class(one, CLASSES[flag]) for one in (value if isinstance(value, list) else [value])
        )
    if name is None:
        return (group, value) == ("early_stopping", None) or (group == "seed_everything" and type(value) is int)
    known = name in NAMES[group] or (flag == "trainer.logger" and isinstance(value, bool | None))
    return known and _size(value) <= MOST_VALUES


def _is_class(value: Any, known: set[str]) -> bool:
    """Whether a value is a known class with plain arguments."""
    if not isinstance(value, Mapping) or not {"class_path"} <= value.keys() <= {"class_path", "init_args"}:
        return False
    arguments = value.get("init_args", {})
    path = value["class_path"]
    return (
        isinstance(path, str) and path in known and isinstance(arguments, Mapping) and _size(arguments) <= MOST_VALUES
    )


def _size(value: Any, depth: int = 0) -> float:
    """How many plain values a value holds; infinite where it is, or holds, something else."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, int) or (isinstance(key, str) and key.isidentifier()) for key in value):
            return math.inf
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return (
            1 + sum(_size(part, depth + 1) for part in value) if depth < 3 and len(value) <= MOST_VALUES else math.inf
        )
    if isinstance(value, str):  # without a dot, so nothing that can be imported
        return 1 if re.fullmatch(r"[\w:{}=-]{0,100}", value) else math.inf
    return 1 if value is None or isinstance(value, (bool, int, float)) else math.inf


def settings_of(checkpoint: Mapping[str, Any], command: str) -> tuple[dict[str, Any], list[str]]:
    """The settings in a checkpoint, and the flags of those that its run had but it does not keep.

    For fit they are all settings, else those of the model and the data.

    Raises:
        ArgumentError: there are none, or one that a checkpoint does not keep.
    """
    record = checkpoint.get(SETTINGS, {"kept": {}, "asked": []})
    kept: Any = record.get("kept") if isinstance(record, Mapping) else None
    asked: Any = record.get("asked") if isinstance(record, Mapping) else None
    usable = isinstance(kept, Mapping) and isinstance(asked, list) and len(asked) <= MOST_VALUES
    if not usable or split(kept) != (kept, []) or not all(re.fullmatch(r"--[a-z_.]+", str(flag)) for flag in asked):
        raise ArgumentError("ckpt_path", "has no usable settings")
    if command == "fit":
        if not kept:
            without = "holds weights only" if "optimizer_states" not in checkpoint else "is not of a run of the command"
            raise ArgumentError("ckpt_path", f"{without}: give the settings by --config")
        return dict(kept), asked
    of_model = {name: value for name, value in checkpoint["hyper_parameters"].items() if name not in FROM_DATA}
    of_data = checkpoint.get("datamodule_hyper_parameters")
    data = {name: of_data[name] for name in ("name", "scaling") if name in of_data} if of_data else {}
    settings = {
        "model": {"class_path": f"nnlab.training.{checkpoint['learner']}", "init_args": of_model},
        "data": data | kept.get("data", {}),
        "trainer": {name: value for name, value in kept.get("trainer", {}).items() if name == "precision"},
    }
    known, wrong = split(settings)
    if wrong:
        raise ArgumentError("ckpt_path", f"does not say what model it is: give {wrong[0]}")
    return known, [flag for flag in asked if flag.startswith("--data.")]
