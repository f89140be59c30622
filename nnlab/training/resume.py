"""Resuming from a checkpoint: the results are those of a run that never stopped, but for settings that changed.

Lightning restores weights, optimizers, schedulers, loops and callbacks. This module does the rest: the random state, a
step of a scheduler on a metric that Lightning misses, early stopping that had ended the run, and changed settings.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info

from nnlab.data import ResidentLoader
from nnlab.training.checkpoints import (
    DIGEST,
    RANDOM,
    check_optimizer,
    check_resumable,
    check_scheduler,
    random_state,
    set_random_state,
)
from nnlab.validation import ArgumentError

FIELD = "training"  # of a checkpoint


class Continuity:
    """Records the settings of a run in its checkpoints, and resumes from the checkpoint of another run."""

    def __init__(self) -> None:
        self._fresh: dict[str, Any] = {}  # classes and settings of this run's optimizers and schedulers
        self._old: dict[str, Any] | None = None  # the checkpoint that this run resumes
        self._changes: list[tuple[Any, str, Any, Any]] = []  # optimizer or scheduler, setting, before, now
        self._figures: dict[str, float] | None = None  # metrics with which a scheduler is still to be stepped
        self._within_epoch = False  # another run began the first epoch of this run
        self._of_tuners: set[str] = set()  # digests of checkpoints that were written before this run began

    # ---- when a run goes on ------------------------------------------------------------------------------------------

    def load(self, checkpoint: dict[str, Any], trainer: L.Trainer) -> None:
        """Check a checkpoint before training; the optimizers do not exist yet."""
        if checkpoint[DIGEST]["sha256"] in self._of_tuners:
            return  # a learning-rate or batch-size finder restores its own
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # which its connector sets
            if isinstance(callback, StochasticWeightAveraging):
                raise ArgumentError(
                    "callbacks", "must not have StochasticWeightAveraging where a run goes on: it cannot"
                )
        check_resumable(checkpoint, trainer)
        _check_loader(checkpoint, trainer)
        states = checkpoint.get(RANDOM)
        if isinstance(states, list) and len(states) != trainer.world_size:
            raise ArgumentError("devices", f"must make {len(states)} processes as before, got {trainer.world_size}")
        if not isinstance(checkpoint.get(FIELD), Mapping):
            raise ArgumentError("ckpt_path", "has no usable record of its training")
        for stop in trainer.early_stopping_callbacks:
            if stop is not None and isinstance(state := checkpoint["callbacks"].get(stop.state_key), dict):
                state["patience"] = stop.patience  # the new run's, which Lightning would overrule
        self._old = checkpoint

    def begin(self, trainer: L.Trainer) -> None:
        """Record this run's settings, and check the saved states against them before Lightning loads the states."""
        self._fresh = {
            "seed": torch.initial_seed(),
            "optimizers": [[type(o).__name__, _plain(o.param_groups[0])] for o in trainer.optimizers],
            "schedulers": [
                [type(c.scheduler).__name__, _plain(c.scheduler.state_dict())] for c in trainer.lr_scheduler_configs
            ],
        }
        self._changes = []
        if self._old is None:
            return
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        check: Any
        for argument, record, field, check, things in (
            ("lr_scheduler", "schedulers", "lr_schedulers", check_scheduler, schedulers),
            ("optimizer", "optimizers", "optimizer_states", check_optimizer, trainer.optimizers),
        ):
            states, old = self._old[field], self._old[FIELD].get(record)
            old = old if _is_record(old) else []
            if not len(states) == len(old) == len(things):
                had = ", ".join(str(kind) for kind, _ in old) or "none"
                raise ArgumentError(argument, f"must be as in the checkpoint, which has {had}")
            changes = []
            for thing, state, (kind, before), (_, now) in zip(things, states, old, self._fresh[record], strict=True):
                check(state, thing, kind)
                for change in _changed(before, now):
                    _check_change(thing, *change, schedulers)
                    changes.append((thing, *change))
            self._changes = changes + self._changes  # the optimizers' first

    @property
    def within_mini_batches(self) -> bool:
        """Whether the run resumes within an epoch that was trained one mini-batch at a time."""
        states = loader_states(self._old) if self._old else []
        state = states[0] if states else {}
        return state.get("chunk", 0) is None and 0 < state["position"] < state["n_samples"]

    def start(self, trainer: L.Trainer) -> None:
        """Restore what Lightning does not, and apply the settings that changed."""
        self._figures, self._within_epoch = None, False
        if self._old is None or not self._fresh:  # a finder's own training comes before this run's
            return
        old, self._old = self._old, None
        set_random_state(own_of(trainer, old.get(RANDOM)))
        loader, states = trainer.train_dataloader, loader_states(old)
        if isinstance(loader, ResidentLoader) and states:  # Lightning leaves it out where an epoch had ended
            loader.load_state_dict(states[0])
        progress = old["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if progress["is_last_batch"]:
            figures = old[FIELD].get("figures")
            self._figures = dict(figures) if isinstance(figures, Mapping) else None
        else:
            self._within_epoch = progress["current"]["ready"] > 0
        for stop in trainer.early_stopping_callbacks:
            if stop is not None and stop.wait_count >= stop.patience:
                trainer.should_stop = True
            elif stop is not None:
                stop.stopped_epoch, stop.stopping_reason = 0, EarlyStoppingReason.NOT_STOPPED
        self.take_over(trainer)

    def take_over(self, trainer: L.Trainer) -> None:
        """Apply the settings that changed to the optimizers and schedulers, which hold the old ones."""
        changes, self._changes = self._changes, []
        for thing, name, before, now in changes:
            is_optimizer = isinstance(thing, torch.optim.Optimizer)
            if name not in thing.defaults if is_optimizer else _is_derived(name):
                continue
            rank_zero_info(f"going on with {name} {now} in place of {before}")
            if not is_optimizer:
                setattr(thing, name, now)
                continue
            scaled = name == "lr" and bool(before)
            for group in thing.param_groups:
                group[name] = group[name] * now / before if scaled else now
                if name == "lr" and "initial_lr" in group:
                    group["initial_lr"] = now
            for config in trainer.lr_scheduler_configs if scaled else ():
                if hasattr(config.scheduler, "base_lrs"):
                    config.scheduler.base_lrs = [lr * now / before for lr in config.scheduler.base_lrs]

    # ---- epochs ------------------------------------------------------------------------------------------------------

    def epoch_ended(self, trainer: L.Trainer) -> None:
        """Keep the metrics: Lightning steps no scheduler on a metric after an epoch that another run began."""
        if self._within_epoch:
            self._within_epoch = False
            self._figures = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def epoch_starts(self, module: L.LightningModule) -> None:
        """Step those schedulers."""
        figures, self._figures = self._figures, None
        for config in module.trainer.lr_scheduler_configs if figures else ():
            due = config.reduce_on_plateau and module.current_epoch % config.frequency == 0
            if due and figures and config.monitor in figures:
                module.lr_scheduler_step(config.scheduler, figures[config.monitor])

    # ---- when a checkpoint is written --------------------------------------------------------------------------------

    def note(self, checkpoint: Mapping[str, Any]) -> None:
        """Remember a checkpoint that is written before the run starts."""
        if not self._fresh:
            self._of_tuners.add(checkpoint[DIGEST]["sha256"])

    def save(self, checkpoint: dict[str, Any], trainer: L.Trainer, figures: Mapping[str, float]) -> None:
        """Add to a checkpoint what ``start`` needs."""
        checkpoint[RANDOM] = of_all_ranks(trainer, random_state())
        known = {name: float(value) for name, value in trainer.callback_metrics.items()} | dict(figures)
        checkpoint[FIELD] = {**self._fresh, "figures": self._figures or known}


def of_all_ranks(trainer: L.Trainer, value: Any) -> list[Any]:
    """The values of all processes, by rank; each process must call this."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def own_of(trainer: L.Trainer, values: Any) -> Any:
    """This process's value; None where there is not one value per process."""
    return values[trainer.global_rank] if isinstance(values, list) and len(values) == trainer.world_size else None


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are numbers, text, switches, or lists of these."""
    return {name: value for name, value in settings.items() if name != "params" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, Mapping)):
        return all(map(_is_plain, value.values() if isinstance(value, Mapping) else value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_record(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], Mapping) for entry in value
    )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The settings that differ: name, before, now."""
    same = before.keys() & now.keys()
    return [(name, before[name], value) for name, value in now.items() if name in same and before[name] != value]


CHANGEABLE = (  # schedulers whose settings are looked up at each step, so that others take effect
    *("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "PolynomialLR"),
    "ReduceLROnPlateau",
)


def _check_change(thing: Any, setting: str, before: Any, now: Any, schedulers: Sequence[Any]) -> None:
    """Refuse a changed setting that could not take effect in a run that resumes.

    Raises:
        ArgumentError: naming the optimizer or the scheduler.
    """
    words = f"must stay as it was where a run goes on: {setting} was {before}, got {now}"
    if isinstance(thing, torch.optim.Optimizer):
        cycles = any(type(scheduler).__name__ in ("OneCycleLR", "CyclicLR") for scheduler in schedulers)
        if setting != "initial_lr" and (cycles or setting not in thing.defaults):
            raise ArgumentError("lr_scheduler", words)
        if isinstance(now, bool) and setting != "nesterov":
            raise ArgumentError("optimizer", words)
    elif type(thing).__name__ not in CHANGEABLE and not _is_derived(setting):
        raise ArgumentError("lr_scheduler", f"{type(thing).__name__} {words}")


def _is_derived(setting: str) -> bool:
    """Whether an entry of a scheduler's state is computed, not set by the user."""
    return setting.startswith("_") or setting in ("base_lrs", "last_epoch")


def loader_states(checkpoint: Mapping[str, Any]) -> Any:
    """What a checkpoint says of the loaders of training: a list, empty at the end of an epoch; unchecked."""
    state = checkpoint["loops"]["fit_loop"]["state_dict"]
    return state.get("combined_loader", []) if isinstance(state, Mapping) else None


def _check_loader(checkpoint: Mapping[str, Any], trainer: Any) -> None:
    """Check that the loader's state exists, and that its position agrees with Lightning's counts."""
    states, progress = loader_states(checkpoint), checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    if not isinstance(states, list) or not all(isinstance(state, Mapping) for state in states):
        raise ArgumentError("ckpt_path", "has no usable state of the loader")
    if hasattr(trainer.datamodule, "chunk") and not states:
        raise ArgumentError("ckpt_path", "has no state of the loader")
    for state in states:
        if "n_samples" not in state:
            continue  # another loader's
        numbers = [state.get(name) for name in ("position", "n_samples", "world_size", "batch_size")]
        numbers += [] if state.get("chunk") is None else [state["chunk"]]
        if any(type(number) is not int for number in numbers):
            raise ArgumentError("ckpt_path", "has no usable state of the loader")
        if numbers[0] != position_of_done(state, progress):
            raise ArgumentError("ckpt_path", "has a loader at another place than its counts of batches")


def position_of_done(state: Mapping[str, Any], progress: Mapping[str, Any]) -> int:
    """How many samples of an epoch were trained on; the loader may have given one more batch.

    At the end of an epoch, which limit_train_batches may have set, it is all samples.
    """
    n, done = int(state["n_samples"]), int(progress["current"]["processed"])
    if has_ended(progress):
        return n
    return min(done * int(state["world_size"]) * int(state["batch_size"]) * int(state["chunk"] or 1), n)


def has_ended(progress: Mapping[str, Any]) -> bool:
    """Whether all batches of an epoch were trained on."""
    return bool(progress["is_last_batch"] and progress["current"]["processed"] == progress["current"]["ready"])
