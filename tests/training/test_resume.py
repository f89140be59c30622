"""A run that was stopped at any step, in any of the ways there are, goes on to the same weights, bit for bit."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from nnlab.training import BestAndLast, KeepOnInterrupt, LitMLP, LitPerceptron, read_checkpoint
from tests.tolerances import assert_same
from tests.training.runs import digits, falling, state, trainer

N, BATCH, EPOCHS = 37, 8, 3  # five mini-batches an epoch, the last of 5; or three chunks of two


def mlp(engine: str = "off", optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> LitMLP:
    """With all that an optimizer and a scheduler have to remember."""
    torch.manual_seed(5)
    model = LitMLP(hidden=[6], in_features=64, engine=engine)

    def configure_optimizers() -> Any:
        options = {"lr": 0.1, "momentum": 0.9} if optimizer is torch.optim.SGD else {"lr": 0.01}
        made = optimizer(model.parameters(), **options)
        return [made], [falling(made)]

    model.configure_optimizers = configure_optimizers
    return model


class Figures(L.Callback):
    """Notes what each whole epoch tells of its training."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[float, ...]] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_last_batch:
            return
        names = [name for name in pl_module.training_figures if name in trainer.callback_metrics]
        if names:
            self.seen[trainer.current_epoch] = tuple(float(trainer.callback_metrics[name]) for name in names)


class CtrlC(L.Callback):
    """Sends SIGINT once, where the k-th step is next, or in the validation after it."""

    def __init__(self, k: int, *, in_validation: bool = False) -> None:
        self.k, self.in_validation, self.sent = k, in_validation, False

    def send(self, trainer: L.Trainer, *, in_validation: bool = False) -> None:
        due = trainer.global_step >= self.k - (not in_validation)
        if due and in_validation == self.in_validation and not self.sent:
            self.sent = True
            signal.raise_signal(signal.SIGINT)

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.send(trainer, in_validation=True)


Stop = Callable[[int, Path, Callable[..., Any]], Path]


def at_max_steps(k: int, folder: Path, fit: Callable[..., Any]) -> Path:
    kept = BestAndLast(folder, monitor="val_loss", save_on_train_epoch_end=False)
    fit(max_steps=k, enable_checkpointing=True, callbacks=[kept])
    return Path(kept.last_model_path)


def killed_after_the_best_epoch(k: int, folder: Path, fit: Callable[..., Any]) -> Path:
    kept = BestAndLast(folder, filename="best", monitor="val_loss", save_on_train_epoch_end=False)
    fit(max_steps=k, enable_checkpointing=True, callbacks=[kept])
    return Path(kept.best_model_path or kept.last_model_path)


def by_ctrl_c(k: int, folder: Path, fit: Callable[..., Any], *, in_validation: bool = False) -> Path:
    keeper, ctrl_c = KeepOnInterrupt(folder), CtrlC(k, in_validation=in_validation)
    kept = BestAndLast(folder, monitor="val_loss", save_on_train_epoch_end=False)
    with pytest.MonkeyPatch.context() as patch:
        for learner in (LitMLP, LitPerceptron):  # where a callback would be one of every mini-batch
            patch.setattr(learner, "training_step", _sends(ctrl_c, learner.training_step))
        try:
            fit(callbacks=[ctrl_c, keeper, kept], enable_checkpointing=True)
        except SystemExit:
            return folder / "interrupted.ckpt"
    assert in_validation  # of the last epoch, after which there is nothing to interrupt
    return Path(kept.last_model_path)


def _sends(ctrl_c: CtrlC, step: Callable[..., Any]) -> Callable[..., Any]:
    def training_step(self: L.LightningModule, batch: Any, batch_idx: int) -> Any:
        ctrl_c.send(self.trainer)
        return step(self, batch, batch_idx)

    return training_step


def at_the_end_of_an_epoch(k: int, folder: Path, fit: Callable[..., Any]) -> Path:
    kept = BestAndLast(folder, monitor="val_loss", save_on_train_epoch_end=False)
    fit(max_epochs=-(-k // 3), enable_checkpointing=True, callbacks=[kept])
    return Path(kept.last_model_path)


STOPS = {
    "max_steps": at_max_steps,
    "kill": killed_after_the_best_epoch,
    "ctrl-c": by_ctrl_c,
    "ctrl-c in validation": partial(by_ctrl_c, in_validation=True),
    "max_epochs": at_the_end_of_an_epoch,
}
CHUNKS = ["ctrl-c", "ctrl-c in validation", "max_epochs"]
STEPS = ["max_steps", "kill", "ctrl-c", "ctrl-c in validation"]
perceptron = partial(LitPerceptron, in_features=64)

RECIPES = {
    "mlp, chunks": (partial(mlp, "on"), {}, CHUNKS),
    "mlp with Adam, chunks": (partial(mlp, "on", torch.optim.Adam), {}, CHUNKS[:1]),
    "mlp": (mlp, {}, STEPS),
    "mlp, accumulated": (mlp, {"accumulate_grad_batches": 2}, STEPS),
    "perceptron, chunks": (partial(perceptron, engine="on"), {}, CHUNKS),
    "perceptron": (partial(perceptron, engine="off"), {}, STEPS[:2]),
}
CASES = [
    pytest.param(recipe, stop, every, marks=[pytest.mark.slow] if every else [], id=f"{recipe}-{stop}-{which}")
    for every, which in ((False, "some steps"), (True, "every step"))
    for recipe, (_, _, stops) in RECIPES.items()
    for stop in stops
]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.parametrize(("recipe", "stop", "every"), CASES)
def test_a_stopped_run_goes_on_bit_for_bit(device, tmp_path, recipe, stop, every):
    """From every step, or from the end of an epoch and from the midst of the next."""
    make, options, _ = RECIPES[recipe]

    def fit(model: L.LightningModule, *, seed: int = 3, ckpt_path: Path | None = None, **more: Any) -> L.Trainer:
        run = trainer(device, tmp_path, **{"max_epochs": EPOCHS} | options | more)
        run.fit(model, digits(N, BATCH, seed=seed, chunk=2), ckpt_path=ckpt_path, weights_only=True)
        return run

    whole, told = make(), Figures()
    n_steps = fit(whole, callbacks=[told]).global_step
    per_epoch = 3 if "accumulated" in recipe or "chunks" in recipe else 5
    assert n_steps == EPOCHS * per_epoch
    for k in range(1, n_steps + 1) if every else (per_epoch, per_epoch + 2):
        path = STOPS[stop](k, tmp_path / str(k), lambda **more: fit(make(), **more))
        resumed, again = make(), Figures()
        run = fit(resumed, seed=77, ckpt_path=path, callbacks=[again])  # the order is the checkpoint's, not a seed's
        assert run.global_step == n_steps, f"step {k}"
        try:
            assert_same(state(resumed), state(whole))
        except AssertionError as error:
            raise AssertionError(f"stopped at step {k}") from error
        assert again.seen.items() <= told.seen.items(), f"step {k}"
        assert len(again.seen) >= EPOCHS - read_checkpoint(path)["epoch"] - 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_a_run_that_trained_on_more_steps_goes_on_as_one_of_more_steps(device, tmp_path):
    whole = mlp()
    trainer(device, tmp_path, max_epochs=-1, max_steps=13).fit(whole, digits(N, BATCH))
    kept = BestAndLast(tmp_path, monitor="val_loss", save_on_train_epoch_end=False)
    run = trainer(device, tmp_path, max_epochs=-1, max_steps=5, enable_checkpointing=True, callbacks=[kept])
    run.fit(mlp(), digits(N, BATCH))
    resumed = mlp()
    run = trainer(device, tmp_path, max_epochs=-1, max_steps=13)
    run.fit(resumed, digits(N, BATCH), ckpt_path=kept.last_model_path, weights_only=True)
    assert run.global_step == 13
    assert_same(state(resumed), state(whole))


def test_last_is_of_the_last_epoch_and_best_of_the_best(device, tmp_path):
    model, best = mlp(), {}
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=1.5)  # so long that it gets worse

    class Best(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            best[float(trainer.callback_metrics["val_loss"])] = trainer.global_step

    kept = BestAndLast(tmp_path, filename="best", monitor="val_loss", save_on_train_epoch_end=False)
    run = trainer(device, tmp_path, max_epochs=5, enable_checkpointing=True, callbacks=[Best(), kept])
    run.fit(model, digits(N, BATCH))
    steps = {name: torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["global_step"] for name in ("best", "last")}
    assert steps == {"best": best[min(best)], "last": 25}
    assert steps["best"] < 25
