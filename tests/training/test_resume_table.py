"""For each option, a run that was stopped goes on as the run that was never stopped, to the last bit."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from nnlab.data import Distortion
from nnlab.training import BestAndLast, KeepOnInterrupt, LitMLP, LitPerceptron
from nnlab.training.classifier import Classifier
from nnlab.validation import ArgumentError
from tests.tolerances import assert_same
from tests.training.runs import digits, figures, state, trainer

N, BATCH = 37, 8  # five mini-batches an epoch, the last of 5

SGD, SCHEDULERS = torch.optim.SGD, torch.optim.lr_scheduler


def mlp(
    optimizer: Any = SGD, scheduler: Any = None, monitor: str | None = None, interval: str = "epoch", lr: float = 0.1,
    hidden: Any = 12, given: dict[str, Any] | None = None, **options: Any,
) -> LitMLP:  # fmt: skip
    model = LitMLP(hidden=hidden, in_features=64, **options)

    def configure_optimizers() -> Any:
        made = optimizer(model.parameters(), lr=lr, **({"momentum": 0.9} if optimizer is SGD else {}) | (given or {}))
        if scheduler is None:
            return made
        config = {"scheduler": scheduler(made), "interval": interval}
        return {"optimizer": made, "lr_scheduler": config | ({"monitor": monitor} if monitor else {})}

    model.configure_optimizers = configure_optimizers
    return model


perceptron = partial(LitPerceptron, in_features=64)
plateau = partial(SCHEDULERS.ReduceLROnPlateau, patience=0, threshold=0.5)
Row = tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]  # the model, the trainer's options, the data's
RAW = {"scaling": "raw"}
MILD = Distortion(rotation=5, scale=0.05, shear=0.05, shift=0.5, elastic=0.3)

TABLE: dict[str, Row] = {
    "momentum, ExponentialLR": (lambda: mlp(scheduler=partial(SCHEDULERS.ExponentialLR, gamma=0.8)), {}, {}),
    "two layers, sum, l2": (lambda: mlp(hidden=[9, 7], reduction="sum", l2=0.01, lr=0.01), {}, {}),
    "CosineAnnealingLR": (lambda: mlp(scheduler=partial(SCHEDULERS.CosineAnnealingLR, T_max=3)), {}, {}),
    "warm restarts": (lambda: mlp(scheduler=partial(SCHEDULERS.CosineAnnealingWarmRestarts, T_0=2)), {}, {}),
    "OneCycleLR by epoch": (
        lambda: mlp(scheduler=partial(SCHEDULERS.OneCycleLR, max_lr=0.2, total_steps=4)), {}, {},
    ),
    "OneCycleLR by step": (
        lambda: mlp(scheduler=partial(SCHEDULERS.OneCycleLR, max_lr=0.2, total_steps=15), interval="step"), {}, {},
    ),
    "cosine by step": (
        lambda: mlp(scheduler=partial(SCHEDULERS.CosineAnnealingLR, T_max=15), interval="step"), {}, {},
    ),
    "H3c: ReduceLROnPlateau, val_loss": (lambda: mlp(scheduler=plateau, monitor="val_loss"), {}, {}),
    "H3c: ReduceLROnPlateau, train_loss": (lambda: mlp(scheduler=plateau, monitor="train_loss"), {}, {}),
    "H3c: ReduceLROnPlateau, one by one": (lambda: mlp(scheduler=plateau, monitor="val_loss", engine="off"), {}, {}),
    "AdamW": (lambda: mlp(torch.optim.AdamW, lr=0.01), {}, {}),
    "Adam": (lambda: mlp(torch.optim.Adam, lr=0.01), {}, {}),
    "Adam, amsgrad": (lambda: mlp(torch.optim.Adam, lr=0.01, given={"amsgrad": True}), {}, {}),
    "RMSprop": (lambda: mlp(torch.optim.RMSprop, lr=0.01, given={"momentum": 0.5}), {}, {}),
    "Adagrad": (lambda: mlp(torch.optim.Adagrad, lr=0.01), {}, {}),
    "LBFGS": (lambda: mlp(torch.optim.LBFGS, lr=0.5), {}, {}),
    "nesterov": (lambda: mlp(given={"nesterov": True}), {}, {}),
    "clipping": (mlp, {"gradient_clip_val": 0.5}, {}),
    "clipping by value": (mlp, {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}, {}),
    "accumulation of 2": (mlp, {"accumulate_grad_batches": 2}, {}),
    "accumulation of 3, sum": (lambda: mlp(reduction="sum", lr=0.01), {"accumulate_grad_batches": 3}, {}),
    "bf16-mixed": (mlp, {"precision": "bf16-mixed"}, {}),
    "bf16-mixed, one by one": (lambda: mlp(engine="off"), {"precision": "bf16-mixed"}, {}),
    "H3a: 64-true": (mlp, {"precision": "64-true"}, {}),
    "H3b: limit_train_batches 3": (mlp, {"limit_train_batches": 3}, {}),
    "H3b: limit_train_batches 0.7": (mlp, {"limit_train_batches": 0.7}, {}),
    "H3b: overfit_batches 2": (mlp, {"overfit_batches": 2}, {}),
    "limit_val_batches": (mlp, {"limit_val_batches": 1}, {}),
    "val_check_interval 2": (mlp, {"val_check_interval": 2}, {}),
    "val_check_interval 0.5": (mlp, {"val_check_interval": 0.5}, {}),
    "validation over epochs": (mlp, {"val_check_interval": 7, "check_val_every_n_epoch": None}, {}),
    "check_val_every_n_epoch": (mlp, {"check_val_every_n_epoch": 2, "max_epochs": 4}, {}),
    "H3e: early stopping": (lambda: mlp(lr=3.0), {"patience": 1, "max_epochs": 6}, {}),
    "H3d: reload_dataloaders": (mlp, {"reload_dataloaders_every_n_epochs": 1}, {}),
    "max_steps": (mlp, {"max_steps": 13}, {}),
    "raw pixels": (lambda: mlp(lr=0.001), {}, RAW),
    "the chapter's network": (lambda: mlp(loss="binary_cross_entropy", activation="sigmoid"), {}, {}),
    "the perceptron, averaged": (perceptron, {"precision": "64-true"}, RAW),
    "the perceptron, the last": (lambda: perceptron(average=False), {"precision": "64-true"}, RAW),
    "the perceptron in float32": (lambda: perceptron(bipolar=True), {}, {}),
    "H3a: the perceptron, a limit": (perceptron, {"limit_train_batches": 3, "precision": "64-true"}, RAW),
    "EMA": (mlp, {"callbacks": EMAWeightAveraging}, {}),
    "a falling rate": (lambda: mlp(schedule="cosine"), {}, {}),
    "a falling rate, one by one": (lambda: mlp(schedule="linear", engine="off"), {}, {}),
    "averaged weights": (lambda: mlp(average_epochs=2), {}, {}),
    "averaged weights, one by one": (lambda: mlp(average_epochs=2, engine="off"), {}, {}),
    "distorted": (mlp, {}, {"distort": MILD}),
    "distorted, one by one": (lambda: mlp(engine="off"), {}, {"distort": MILD}),
    "one mini-batch an epoch": (mlp, {"max_epochs": 5}, {"batch_size": 64}),
    "H3f: dropout": (lambda: mlp(dropout=0.3), {}, {}),
    "H3f: dropout, one by one": (lambda: mlp(dropout=0.3, engine="off"), {}, {}),
}  # fmt: skip
DEFAULT = [
    row
    for row in TABLE
    if row.startswith("H3") or row in ("AdamW", "OneCycleLR by step", "a falling rate", "distorted")
]


class Ends(L.Callback):
    """Notes the figures of each epoch, and of each validation."""

    def __init__(self) -> None:
        self.seen: dict[Any, dict[str, float]] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = [name for name in pl_module.training_figures if name in trainer.callback_metrics]
        if names:
            self.seen[trainer.current_epoch] = {name: float(trainer.callback_metrics[name]) for name in names}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        self.seen[trainer.current_epoch, trainer.global_step] = found


def train(
    root: Path, row: Row, *, seed: int, ckpt_path: Path | None = None
) -> tuple[L.Trainer, Any, Ends, BestAndLast]:
    make, options, data = row[0], dict(row[1]), {"batch_size": BATCH, "chunk": 2} | row[2]
    torch.manual_seed(seed)
    model, ends = make(), Ends()
    kept = BestAndLast(root / "kept", filename="best", monitor="val_loss", save_on_train_epoch_end=False)
    stop = EarlyStopping("val_loss", patience=options.pop("patience", 100), check_on_train_epoch_end=False)
    callbacks = [kind() for kind in (options.pop("callbacks", None),) if kind]
    run = trainer(
        torch.device("cpu"), root, enable_checkpointing=True, logger=CSVLogger(root, version=0), log_every_n_steps=1,
        **{"max_epochs": 3, "callbacks": [*callbacks, KeepOnInterrupt(root), ends, stop, kept]} | options,
    )  # fmt: skip
    run.fit(model, digits(N, seed=seed, **data), ckpt_path=ckpt_path, weights_only=True)
    return run, model, ends, kept


@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using 'interval'")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.parametrize(
    "name", [pytest.param(row, marks=[] if row in DEFAULT else [pytest.mark.slow]) for row in TABLE]
)
def test_a_run_that_was_stopped_goes_on_as_the_run_that_was_not(tmp_path, monkeypatch, name):
    saved: dict[str, Path] = {}
    step, best = Classifier.training_step, tmp_path / "whole/kept/best.ckpt"

    def folder(point: str) -> Path:
        saved[point] = tmp_path / point / "of the whole run"
        saved[point].mkdir(parents=True)
        if best.exists():
            shutil.copy(best, saved[point])
        return saved[point]

    def keeps(self: Any, batch: Any, batch_idx: int) -> Any:
        """What a kill at the begin of the second epoch leaves."""
        if batch_idx == 0 and self.current_epoch == 1 and "last" not in saved:
            for kept in ("best", "last"):
                if best.with_stem(kept).exists():
                    shutil.copy(best.with_stem(kept), folder(kept))
        return step(self, batch, batch_idx)

    def interrupt(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """What Ctrl-C leaves, without that it ends the run."""
        point = f"interrupted in epoch {trainer.current_epoch}"
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.current_epoch < 2 and point not in saved:
            trainer.save_checkpoint(folder(point) / "interrupted.ckpt", weights_only=False)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", keeps)
        patch.setattr(KeepOnInterrupt, "on_train_batch_end", interrupt)
        run, whole, ends, kept = train(tmp_path / "whole", TABLE[name], seed=5)
    assert len(saved) == 4 - ("check_val" in name or "over epochs" in name)
    for point, place in saved.items():
        path = next(place / f"{stem}.ckpt" for stem in ("interrupted", "last", "best") if point.startswith(stem))
        again, resumed, seen, best_kept = train(tmp_path / point, TABLE[name], seed=99, ckpt_path=path)
        assert again.global_step == run.global_step, point
        try:
            assert_same(state(resumed), state(whole))
        except AssertionError as error:
            raise AssertionError(f"stopped: {point}") from error
        assert seen.seen == {key: value for key, value in ends.seen.items() if key in seen.seen}, point
        rates = [[group["lr"] for group in r.optimizers[0].param_groups] for r in (again, run)]
        assert rates[0] == rates[1], point
        logs = [figures(tmp_path / run_folder / "lightning_logs/version_0") for run_folder in (point, "whole")]
        assert all(row in logs[1] for row in logs[0]), point
        assert best_kept.best_model_score == kept.best_model_score, point


def test_what_lightning_cannot_go_on_with_is_refused(tmp_path):
    row = (mlp, {"callbacks": lambda: StochasticWeightAveraging(0.05, 1)}, {})
    _, _, _, kept = train(tmp_path / "whole", row, seed=5)
    with pytest.raises(ArgumentError, match="callbacks must not have StochasticWeightAveraging"):
        train(tmp_path / "again", row, seed=5, ckpt_path=Path(kept.last_model_path))
