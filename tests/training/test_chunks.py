"""The engine under Lightning: the same training as one mini-batch at a time, in chunks; and where it is refused."""

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.data import DataLoader, TensorDataset

from nnlab.data import ResidentLoader
from nnlab.engine import MLPEngine, PerceptronEngine
from nnlab.training import BestAndLast, KeepOnInterrupt, LearningCurve, LitMLP, LitPerceptron, MNISTDataModule
from nnlab.training.callbacks import EpochBar
from nnlab.training.chunks import obstacle
from nnlab.training.classifier import MeanLoss
from nnlab.training.perceptron import PerceptronRule
from nnlab.validation import ArgumentError
from tests.tolerances import TRAJECTORY, assert_close, assert_same
from tests.training.runs import digits, epochs, falling, state, trainer

N, BATCH = 230, 20  # twelve mini-batches an epoch, the last of 10

Make = Callable[..., L.LightningModule]


def mlp(
    *, kind: type[LitMLP] = LitMLP, optimizer: Any = torch.optim.SGD, scheduler: Any = None, engine: str = "auto",
    given: dict[str, Any] | None = None, **options: Any,
) -> LitMLP:  # fmt: skip
    torch.manual_seed(5)
    model = kind(hidden=[7, 6], in_features=64, engine=engine, **{"activation": "tanh"} | options)
    lr = 0.1 if model.reduction == "mean" else 0.1 / BATCH
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}

    def configure_optimizers() -> Any:
        made = optimizer(model.parameters(), **{"lr": lr} | momentum | (given or {}))
        return made if scheduler is None else {"optimizer": made, "lr_scheduler": scheduler(made)}

    model.configure_optimizers = configure_optimizers
    return model


def perceptron(engine: str = "auto") -> LitPerceptron:
    return LitPerceptron(in_features=64, engine=engine)


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.9)
    return {"scheduler": scheduler, "monitor": "train_loss"}


def with_a_pause(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: float(epoch != 1))


def falling_by_step(optimizer: torch.optim.Optimizer) -> Any:
    return {"scheduler": falling(optimizer), "interval": "step"}


RECIPES: dict[str, dict[str, Any]] = {
    "mean": {"given": {"momentum": 0.0}},
    "mean, momentum": {},
    "sum, momentum, l2": {"reduction": "sum", "l2": 0.03},
    "mean, l2, logistic": {"l2": 0.03, "given": {"momentum": 0.0}, "loss": "binary_cross_entropy"},
    "mean, weight decay, squares": {"given": {"weight_decay": 0.02}, "loss": "sum_of_squares"},
    "Adam": {"optimizer": torch.optim.Adam, "given": {"lr": 0.01}},
    "a scheduler": {"scheduler": falling},
    "a scheduler that looks at the loss": {"scheduler": plateau},
    "a learning rate of 0 in between": {"scheduler": with_a_pause},
}


def fit(
    root: Any, model: L.LightningModule, *, n: int = N, chunk: int = 5, ckpt_path: Any = None, **options: Any
) -> L.Trainer:
    run = trainer(torch.device("cpu"), root, **{"max_epochs": 3} | options)
    run.fit(model, digits(n, BATCH, chunk=chunk), ckpt_path=ckpt_path, weights_only=True)
    return run


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module says to the user."""
    said: list[str] = []
    monkeypatch.setattr("nnlab.training.classifier.rank_zero_info", said.append)
    return said


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each call of an engine had."""
    noted: list[int] = []
    for kind in (MLPEngine, PerceptronEngine):
        run_ = kind.run_

        def noting(self: Any, order: Any, *rest: Any, run_: Any = run_) -> Any:
            noted.append(len(order))
            return run_(self, order, *rest)

        monkeypatch.setattr(kind, "run_", noting)
    return noted


# ---- the same training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_engine_trains_as_mini_batches_one_by_one_do(tmp_path, orders, recipe):
    found = []
    for engine in ("on", "off"):
        model = mlp(engine=engine, **recipe)
        run = fit(tmp_path, model)
        found.append((state(model), dict(run.callback_metrics), run.optimizers[0].state_dict(), run.global_step))
    assert orders == [100, 100, 30] * 3
    (ours, our_figures, our_optimizer, chunks), (theirs, their_figures, their_optimizer, steps) = found
    assert (chunks, steps) == (9, 36)
    for name, value in theirs.items():
        assert_close(ours[name], value, TRAJECTORY[torch.float32])
    assert {name: float(value) for name, value in our_figures.items()} == pytest.approx(
        {name: float(value) for name, value in their_figures.items()}, rel=1e-5
    )
    assert our_optimizer["param_groups"] == their_optimizer["param_groups"]
    for key, kept in their_optimizer["state"].items():
        for name, value in kept.items():
            if value is not None:
                assert_close(our_optimizer["state"][key][name], value, TRAJECTORY[torch.float32])


@pytest.mark.parametrize(
    ("schedule", "falls"), [("linear", lambda d: 1 - d), ("cosine", lambda d: math.cos(d * math.pi / 2) ** 2)]
)
def test_the_rate_falls_by_the_samples_seen(tmp_path, schedule, falls):
    """Three epochs of 240 mini-batches, at rates that change every 100, against a loop of torch's own."""
    found = []
    for engine, chunk in (("on", 7), ("on", 1000), ("off", 1)):
        model = mlp(engine=engine, schedule=schedule, given={"lr": 0.01})
        trainer(torch.device("cpu"), tmp_path, max_epochs=3).fit(model, digits(1198, 5, chunk=chunk))
        found.append(state(model.network))
    network = mlp().network.to_sequential()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for k, (x, labels) in enumerate(epochs(digits(1198, 5), 3)):
        epoch, mini_batch = divmod(k, 240)
        optimizer.param_groups[0]["lr"] = 0.01 * falls((epoch + mini_batch // 100 * 100 / 240) / 3)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()
    assert_same(found[0], found[1])
    for ours, one_by_one, theirs in zip(found[0].values(), found[2].values(), network.parameters(), strict=True):
        assert_close(ours, theirs.detach(), TRAJECTORY[torch.float32])
        assert_close(one_by_one, theirs.detach(), TRAJECTORY[torch.float32])


@pytest.mark.parametrize(
    ("options", "limits"),
    [({"scheduler": falling}, {}), ({}, {"max_epochs": -1, "max_steps": 5})],
    ids=["twice", "no end"],
)
def test_a_falling_rate_needs_an_end_and_no_scheduler(tmp_path, options, limits):
    with pytest.raises(ArgumentError, match="schedule"):
        fit(tmp_path, mlp(schedule="cosine", **options), **limits)


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_the_perceptron_learns_the_same_to_the_bit(tmp_path, orders):
    found = []
    for engine in ("on", "off"):
        model = perceptron(engine)
        run = fit(tmp_path, model)
        found.append(state(model) | dict(run.callback_metrics))
    assert orders == [100, 100, 30] * 3
    assert_same(*found)


def test_bf16_trains_close_to_full_precision(tmp_path):
    models = [mlp(engine="on") for _ in range(2)]
    for model, precision in zip(models, ("bf16-mixed", "32-true"), strict=True):
        fit(tmp_path, model, precision=precision)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize(("reduction", "precision"), [("mean", "32-true"), ("sum", "64-true")])
def test_the_length_of_chunks_does_not_change_a_bit(tmp_path, reduction, precision):
    found = []
    for chunk in (1, 5, 12, 100):
        model = mlp(reduction=reduction, l2=0.03, engine="on")
        run = fit(tmp_path, model, precision=precision, chunk=chunk)
        assert run.global_step == 3 * -(-12 // chunk)
        found.append(state(model) | {name: run.callback_metrics[name] for name in ("train_loss", "train_acc")})
    for other in found[1:]:
        # a call's errors are computed together: torch's vectors may round those of its last few samples otherwise
        assert_close(other.pop("train_loss"), found[0]["train_loss"])
        assert_same(other, {name: value for name, value in found[0].items() if name != "train_loss"})


def test_losses_are_added_one_after_the_other_however_they_come(device):
    losses = torch.rand(1000, device=device)
    one_by_one = MeanLoss().to(device)
    for loss in losses:
        one_by_one.update(loss, 10)
    for cut in ([1000], [1, 999], [300, 1, 0, 699]):
        together = MeanLoss().to(device)
        for part in losses.split(cut):
            together.update(part, 10 * len(part))
        torch.testing.assert_close(together.compute(), one_by_one.compute(), rtol=0, atol=0)
    assert losses.sum() / 10_000 != one_by_one.compute()  # rounding shows
    together.update(torch.tensor([1.0, float("inf"), -float("inf")], device=device), 30)
    assert together.compute().isnan()


@pytest.mark.parametrize("engine", ["on", "off"])
@pytest.mark.parametrize("make", [mlp, perceptron])
def test_the_figures_of_an_epoch_are_there_when_callbacks_see_its_end(tmp_path, make, engine):
    seen = []

    class AtTheEnd(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append({name: float(trainer.callback_metrics[name]) for name in pl_module.training_figures})

    class Logged(CSVLogger):
        def log_metrics(self, metrics, step=None):
            names = {"train_loss", "train_acc", "train_errors"} & metrics.keys()
            if names:
                logged.append({name: metrics[name] for name in names})

    logged: list[dict[str, float]] = []
    fit(tmp_path, make(engine=engine), callbacks=[AtTheEnd()], logger=Logged(tmp_path), log_every_n_steps=1)
    assert len(seen) == 3
    assert seen == logged


class EndsAfterFourSteps(Callback):
    """Ends the second epoch early, as a timer or early stopping do."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = (trainer.current_epoch, batch_idx) == (1, 3)


@pytest.mark.parametrize(
    ("engine", "options", "ends"),
    [
        ("off", {"callbacks": EndsAfterFourSteps}, 16),
        (
            "auto",
            {"callbacks": lambda: EarlyStopping("val_loss", divergence_threshold=0.0), "val_check_interval": 4},
            4,
        ),
    ],
    ids=["by a callback", "by early stopping"],
)
def test_an_epoch_that_ends_early_has_figures_of_its_own(tmp_path, engine, options, ends):
    seen = []

    class AtTheEnd(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append({name: float(trainer.callback_metrics[name]) for name in pl_module.training_figures})

    callbacks = [options["callbacks"](), AtTheEnd()]
    run = fit(tmp_path, mlp(engine=engine), **options | {"callbacks": callbacks})
    assert run.global_step == ends
    assert len(seen) == 1 + ends // 12
    assert len({row["train_loss"] for row in seen}) == len(seen)


# ---- checkpoints and interrupts --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize("first", ["on", "off"])
@pytest.mark.parametrize("make", [mlp, perceptron])
def test_a_run_goes_on_with_the_other_setting_at_the_end_of_an_epoch(tmp_path, first, make):
    whole = make(engine="on")
    fit(tmp_path, whole)
    kept = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(tmp_path, make(engine=first), enable_checkpointing=True, callbacks=[kept], max_epochs=2)
    resumed = make(engine="off" if first == "on" else "on")
    fit(tmp_path, resumed, ckpt_path=tmp_path / "epoch=1.ckpt")
    for name, value in state(whole).items():
        assert_close(state(resumed)[name], value, TRAJECTORY[torch.float32])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.parametrize("make", [mlp, perceptron])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_chunk_that_is_broken_off_leaves_all_as_it_was_before(tmp_path, monkeypatch, make, error):
    whole = make(engine="on")
    fit(tmp_path, whole)
    kind = MLPEngine if make is mlp else PerceptronEngine
    run_, runs = kind.run_, []

    def breaks_off(self: Any, *arguments: Any) -> Any:
        runs.append(1)
        if len(runs) == 5:
            raise error
        return run_(self, *arguments)

    class Keep(Callback):
        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / "broken.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "run_", breaks_off)
        with pytest.raises((SystemExit, ZeroDivisionError)):
            fit(tmp_path, make(engine="on"), callbacks=[Keep()])
    with pytest.raises(ArgumentError, match="must have chunk = None within an epoch, got 5"):
        fit(tmp_path, make(engine="off"), ckpt_path=tmp_path / "broken.ckpt")
    with pytest.raises(ArgumentError, match="must have chunk = 6 within an epoch, got 5"):
        fit(tmp_path, make(engine="on"), chunk=6, ckpt_path=tmp_path / "broken.ckpt")
    resumed = make(engine="on")
    fit(tmp_path, resumed, ckpt_path=tmp_path / "broken.ckpt")
    assert_same(state(resumed), state(whole))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_max_time_ends_after_a_chunk_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    whole = mlp(engine="on")
    fit(tmp_path, whole)
    kept = BestAndLast(tmp_path, monitor="val_loss", save_on_train_epoch_end=False)
    timer = Timer("00:00:01:00")
    run = trainer(torch.device("cpu"), tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=[timer, kept])
    monkeypatch.setattr(timer, "time_elapsed", lambda *_: 100.0 if run.global_step > 3 else 0.0)
    run.fit(mlp(engine="on"), digits(N, BATCH, chunk=5))
    assert run.global_step == 4
    resumed = mlp(engine="on")
    fit(tmp_path, resumed, ckpt_path=kept.last_model_path)
    assert_same(state(resumed), state(whole))


# ---- NaN and infinity ------------------------------------------------------------------------------------------------

RELU = {"activation": "relu"}
OVERFLOWS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "SGD": ({"given": {"lr": 1e30}}, {}, "weight of layer 1"),
    "one by one": ({"given": {"lr": 1e30}, "engine": "off"}, {}, "layer"),
    "Adam": ({"optimizer": torch.optim.Adam, "given": {"lr": 1e36}}, {}, ""),
    "AdamW": ({"optimizer": torch.optim.AdamW, "given": {"lr": 1e36}}, {}, ""),
    "l2": ({"l2": 1e30}, {}, ""),
    "init_std": ({"init_std": 1e30, "loss": "sum_of_squares"}, {}, ""),
    "bf16": ({"given": {"lr": 1e30}}, {"precision": "bf16-mixed"}, ""),
    "float64": ({"given": {"lr": 1e300}}, {"precision": "64-true"}, ""),
    "clipping": ({"given": {"lr": 1e38}}, {"gradient_clip_val": 1e38}, ""),
}


@pytest.mark.parametrize(("model", "options", "named"), OVERFLOWS.values(), ids=OVERFLOWS)
def test_a_run_that_overflows_says_where_and_keeps_no_such_checkpoint(tmp_path, model, options, named):
    kept = BestAndLast(tmp_path / "kept", monitor="val_loss", save_on_train_epoch_end=False)
    message = rf"the .*{named}.* became NaN or infinite in epoch \d+(, mini-batch \d+)?: lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        fit(tmp_path, mlp(**RELU | model), enable_checkpointing=True, callbacks=[kept], max_epochs=9, **options)
    for path in (tmp_path / "kept").glob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)


# ---- what does not let the engine train ------------------------------------------------------------------------------


class OwnSGD(torch.optim.SGD):
    pass


class OwnStep(LitMLP):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)


class OwnHook(LitMLP):
    def on_after_backward(self) -> None:
        pass


class OwnForward(LitMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class OwnCheckpoint(ModelCheckpoint):
    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)


def batch_hook(name: str) -> Callback:
    return type("Mine", (Callback,), {name: lambda self, *_: None})()


def in_two_groups(parameters: Any, **options: Any) -> torch.optim.SGD:
    weight, *others = parameters
    return torch.optim.SGD([{"params": [weight]}, {"params": others}], **options)


def hooked(parameters: Any, **options: Any) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(parameters, **options)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def with_gradient_hook() -> LitMLP:
    model = mlp()
    next(model.network.parameters()).register_hook(lambda grad: None)
    return model


def frozen() -> LitMLP:
    model = mlp()
    next(model.network.parameters()).requires_grad_(False)
    return model


def changed(change: Callable[[Any], Any]) -> LitMLP:
    model = mlp()
    change(model.network[2])
    return model


def of_one_instance() -> LitMLP:
    model = mlp()
    step = model.training_step
    model.training_step = lambda batch, batch_idx: 1.0 * step(batch, batch_idx)
    return model


def other_rule() -> LitPerceptron:
    model = perceptron()
    model.configure_optimizers = lambda: type("OwnRule", (PerceptronRule,), {})(model.bank)
    return model


STEPS = {"every_n_train_steps": 2}
OBSTACLES: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "clipping": (mlp, {"gradient_clip_val": 1.0}, "--trainer.gradient_clip_val"),
    "accumulation": (mlp, {"accumulate_grad_batches": 2}, "--trainer.accumulate_grad_batches"),
    "max_steps": (mlp, {"max_steps": 3}, "--trainer.max_steps"),
    "min_steps": (mlp, {"min_steps": 3}, "--trainer.min_steps"),
    "a number of batches": (mlp, {"limit_train_batches": 2}, "--trainer.limit_train_batches"),
    "one batch": (mlp, {"limit_train_batches": 1}, "--trainer.limit_train_batches"),
    "a share of batches": (perceptron, {"limit_train_batches": 0.5}, "--trainer.limit_train_batches"),
    "overfit_batches": (mlp, {"overfit_batches": 2}, "_batches needs mini-batches one by one"),
    "fast_dev_run": (perceptron, {"fast_dev_run": True}, "needs mini-batches one by one"),
    "val_check_interval": (mlp, {"val_check_interval": 2}, "--trainer.val_check_interval"),
    "detect_anomaly": (mlp, {"detect_anomaly": True}, "--trainer.detect_anomaly"),
    "every_n_train_steps": (mlp, {"callbacks": lambda: ModelCheckpoint(**STEPS)}, "--checkpoint.every_n_train_steps"),
    "a scheduler of accumulation": (
        mlp, {"callbacks": lambda: GradientAccumulationScheduler({1: 3})}, "--trainer.callbacks: GradientAccumulation",
    ),
    "AdamW": (lambda: mlp(optimizer=torch.optim.AdamW), {}, "optimizer must be torch.optim.SGD or Adam"),
    "a subclass of SGD": (lambda: mlp(optimizer=OwnSGD), {}, "got OwnSGD"),
    "groups": (lambda: mlp(optimizer=in_two_groups), {}, "must have one group"),
    "a hook on steps": (lambda: mlp(optimizer=hooked), {}, "hooks on its step"),
    "nesterov": (lambda: mlp(given={"nesterov": True}), {}, "nesterov of SGD must be off"),
    "a momentum of 1": (lambda: mlp(given={"momentum": 1.0}), {}, "momentum must be less than 1"),
    "a scheduler of steps": (lambda: mlp(scheduler=falling_by_step), {}, "ExponentialLR steps with every mini-batch"),
    "a frozen parameter": (frozen, {}, "a parameter is frozen"),
    "a hook on a gradient": (with_gradient_hook, {}, "a parameter has hooks on its gradient"),
    "a hook": (lambda: changed(lambda layer: layer.register_forward_hook(lambda *_: None)), {}, "a layer has a hook"),
    "pruning": (lambda: changed(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)), {}, "pruning"),
    "a parametrisation": (
        lambda: changed(lambda layer: register_parametrization(layer, "weight", torch.nn.Identity())), {}, "parametri",
    ),
    "another rule": (other_rule, {}, "must be PerceptronRule of the model's bank, not OwnRule"),
    "functions": (mlp, {"callbacks": lambda: LambdaCallback(on_train_batch_end=lambda *_: 0)}, "LambdaCallback looks"),
    "a known callback changed": (mlp, {"callbacks": OwnCheckpoint}, "OwnCheckpoint looks at every mini-batch"),
    "a step of its own": (lambda: mlp(kind=OwnStep), {}, "OwnStep has training_step of its own"),
    "a hook of its own": (lambda: mlp(kind=OwnHook), {}, "OwnHook has on_after_backward of its own"),
    "a forward of its own": (lambda: mlp(kind=OwnForward), {}, "OwnForward has forward of its own"),
    "a step of one instance": (of_one_instance, {}, "LitMLP has training_step of its own"),
    **{
        hook: (mlp, {"callbacks": lambda hook=hook: batch_hook(hook)}, "Mine looks at every mini-batch")
        for hook in (
            *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
            *("on_after_backward", "on_before_optimizer_step"),
        )
    },
}  # fmt: skip


def trained(root: Any, make: Callable[[], Any], options: dict[str, Any], data: Any = None) -> L.LightningModule:
    options = dict(options)
    callback = options.pop("callbacks", list)()
    kinds = {"enable_checkpointing": ModelCheckpoint, "enable_progress_bar": ProgressBar}
    options |= {option: isinstance(callback, kind) for option, kind in kinds.items()}
    root = root / str(len([*root.iterdir()]))  # a folder that is empty
    root.mkdir()
    run = trainer(torch.device("cpu"), root, callbacks=callback, **options)
    model = make()
    run.fit(model, digits(60, BATCH, chunk=2) if data is None else data)
    return model


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize(("make", "options", "named"), OBSTACLES.values(), ids=OBSTACLES)
def test_a_setting_that_needs_mini_batches_gets_them_and_is_named(tmp_path, lines, orders, make, options, named):
    trained(tmp_path, make, options)
    assert orders == []
    (line,) = lines
    assert line.startswith("engine off, mini-batches go one by one: ")
    assert named in line

    def on() -> Any:
        model = make()
        model.engine = "on"
        return model

    with pytest.raises(ArgumentError, match="engine must be auto or off: ") as error:
        trained(tmp_path, on, options)
    assert named in str(error.value)


class OfEpochs(Callback):
    def on_train_epoch_start(self, *_: Any) -> None:
        pass

    def on_train_epoch_end(self, *_: Any) -> None:
        pass

    def on_validation_batch_end(self, *_: Any) -> None:
        pass


class OwnEpoch(LitMLP):
    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()


NONE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "float64": (mlp, {"precision": "64-true"}),
    "max_time": (mlp, {"max_time": timedelta(hours=1)}),
    "clipping switched off": (mlp, {"gradient_clip_val": 0}),
    "a tensor as learning rate": (lambda: mlp(given={"lr": torch.tensor(0.1)}), {}),
    "a hook of epochs": (lambda: mlp(kind=OwnEpoch), {}),
    "accumulation of one": (mlp, {"callbacks": lambda: GradientAccumulationScheduler({1: 1})}),
    "early stopping": (mlp, {"callbacks": lambda: EarlyStopping("train_loss")}),
    "best and last": (mlp, {"callbacks": lambda: BestAndLast(monitor="val_loss")}),
    "the best three": (mlp, {"callbacks": lambda: ModelCheckpoint(monitor="val_loss", save_top_k=3)}),
    **{
        kind.__name__: (mlp, {"callbacks": kind})
        for kind in (OfEpochs, KeepOnInterrupt, LearningCurve, EpochBar, TQDMProgressBar, RichProgressBar)
    },
}


@pytest.mark.parametrize(("make", "options"), NONE.values(), ids=NONE)
def test_a_setting_to_which_a_chunk_is_as_good(tmp_path, lines, orders, make, options, capsys):
    trained(tmp_path, make, options)
    assert orders == [40, 20]
    assert lines == ["engine on"]


def test_a_monitor_of_the_learning_rate_looks_at_chunks(tmp_path, lines, orders):
    options = {"callbacks": lambda: LearningRateMonitor("step"), "logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    trained(tmp_path, mlp, options)
    assert orders == [40, 20]


def test_the_engine_can_be_switched_off(tmp_path, lines, orders):
    trained(tmp_path, lambda: mlp(engine="off"), {})
    assert (orders, lines) == ([], [])


@pytest.mark.parametrize("nodes", [1, 2])
def test_several_processes(nodes):
    """Looked at without starting them; what they train is in test_ddp."""
    run = L.Trainer(accelerator="cpu", strategy="ddp", devices=1, num_nodes=nodes, logger=False)
    assert "must be of one process" in obstacle(run, mlp(), LitMLP)


class Augmented(MNISTDataModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, labels = batch
        return 0.5 * x, labels


def test_data_changed_on_their_way(tmp_path, lines, orders):
    trained(tmp_path, mlp, {}, Augmented("digits", batch_size=BATCH, val_size=1377, seed=3))
    assert orders == []
    assert "--data: Augmented has on_after_batch_transfer of its own" in lines[0]


# ---- loaders ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("make", [mlp, perceptron])
def test_another_loader_gives_mini_batches(tmp_path, orders, make):
    loader = DataLoader(TensorDataset(torch.rand(60, 64), torch.arange(60) % 10), BATCH)
    trained(tmp_path, make, {}, loader)
    assert orders == []
    with pytest.raises(ArgumentError, match=r"engine is on, so .* use MNISTDataModule, or ResidentLoader with chunk"):
        trained(tmp_path, lambda: make(engine="on"), {}, loader)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_resident_loader_of_ones_own_says_whether_it_gives_chunks(tmp_path, orders):
    x, labels = torch.rand(60, 1, 8, 8), torch.arange(60) % 10
    trained(tmp_path, mlp, {}, ResidentLoader(x, labels, BATCH, shuffle=True))
    assert orders == []
    trained(tmp_path, mlp, {}, ResidentLoader(x, labels, BATCH, shuffle=True, chunk=2))
    assert orders == [40, 20]
    with pytest.raises(ArgumentError, match=r"chunk of the loader must be None: --trainer\.gradient_clip_val"):
        trained(tmp_path, mlp, {"gradient_clip_val": 1.0}, ResidentLoader(x, labels, BATCH, shuffle=True, chunk=2))


# ---- one engine a fit ------------------------------------------------------------------------------------------------


def test_one_engine_serves_a_fit_and_is_let_go_after_it(tmp_path, monkeypatch):
    made, make_engine = [], LitMLP.make_engine

    def noted(*arguments: Any) -> MLPEngine:
        engine = make_engine(*arguments)
        made.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(LitMLP, "make_engine", noted)
    copies = []

    class Copies(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            assert made[-1]() is not None
            assert not any("engine" in key for key in pl_module.state_dict())
            del pl_module.configure_optimizers  # a function of this test's, which cannot be pickled
            copies.extend([copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))])

    model = mlp()
    fit(tmp_path, model, callbacks=[Copies()], max_epochs=1)
    gc.collect()
    assert [engine() for engine in made] == [None]
    for other in copies:
        assert_same(state(other), state(model))
    fit(tmp_path, mlp(optimizer=torch.optim.Adam), max_epochs=3)
    assert len(made) == 2


@pytest.mark.parametrize("bar", [EpochBar, TQDMProgressBar, RichProgressBar])
def test_the_bar_counts_chunks(tmp_path, bar, capsys):
    counts, bar = [], bar()

    class Counts(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            shown = bar.train_progress_bar
            counts.append((int(shown.completed if isinstance(bar, RichProgressBar) else shown.n), int(shown.total)))

    fit(tmp_path, mlp(), enable_progress_bar=True, callbacks=[bar, Counts()])
    assert counts == [(3, 3)] * 3
