"""What needs Lightning at every mini-batch gets it, and one line of the log names it; nothing else does."""

import re
from datetime import timedelta
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
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

from nnlab.networks import MLP
from nnlab.training import (
    BestAndLast,
    KeepOnInterrupt,
    LearningCurve,
    LitMLP,
    LitPerceptron,
    MNISTDataModule,
    PerceptronRule,
    blocks,
)
from nnlab.training.callbacks import EpochBar
from nnlab.training.obstacles import descent_of, obstacle
from tests.training.runs import digits, falling, trainer


def words(value: object) -> str:
    """A test's name: the same in every process."""
    return re.sub(r" at 0x\w+", "", str(value))


N, BATCH = 60, 20


@pytest.fixture
def said(tmp_path, monkeypatch, caplog) -> Any:
    """Trains, and returns what the log's lines name, having seen whether there were blocks."""
    caplog.set_level("INFO", "nnlab")

    def train(model: L.LightningModule, data: Any = None, device: str = "cpu", **options: Any) -> list[str]:
        lengths: list[int] = []
        count = blocks.count_
        monkeypatch.setattr(blocks, "count_", lambda run, n: lengths.append(n) or count(run, n))
        run = trainer(torch.device(device), tmp_path, **{"max_epochs": 2} | options)
        run.fit(model, digits(N, BATCH) if data is None else data)
        lines = [record.getMessage() for record in caplog.records if record.name == "nnlab"]
        assert lengths == ([] if lines else [3, 3])
        start, end = "mini-batches go one by one through Lightning (", "); in blocks they would be faster"
        assert all(line.startswith(start) and line.endswith(end) for line in lines)
        return [line.removeprefix(start).removesuffix(end) for line in lines]

    return train


def mlp(kind: type[LitMLP] = LitMLP, optimizer: Any = torch.optim.SGD, scheduler: Any = None, **options: Any) -> LitMLP:
    torch.manual_seed(5)
    model = kind(hidden=[6], in_features=64)

    def configure_optimizers() -> Any:
        made = optimizer(model.parameters(), **{"lr": 0.01} | options)
        return made if scheduler is None else {"optimizer": made, "lr_scheduler": scheduler(made)}

    model.configure_optimizers = configure_optimizers
    return model


def falling_by_step(optimizer: torch.optim.Optimizer) -> Any:
    return {"scheduler": falling(optimizer), "interval": "step"}


# Options of the trainer


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gradient_clip_val": 1.0}, "--trainer.gradient_clip_val"),
        ({"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}, "--trainer.gradient_clip_val"),
        ({"accumulate_grad_batches": 2}, "--trainer.accumulate_grad_batches"),
        ({"precision": "bf16-mixed"}, "--trainer.precision"),
        ({"detect_anomaly": True}, "--trainer.detect_anomaly"),
    ],
    ids=words,
)
def test_an_option_of_the_trainer(said, options, named):
    assert said(mlp(), **options) == [named]


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0},
        {"precision": "64-true"},
        {"max_time": timedelta(hours=1)},
        {"profiler": "simple"},
        {"deterministic": "warn"},
        {"val_check_interval": 1.0},
    ],
    ids=words,
)
def test_an_option_that_is_none(said, options, capsys):
    assert said(mlp(), **options) == []


@pytest.mark.parametrize(("nodes", "named"), [(1, "--trainer.strategy"), (2, "--trainer.devices")])
def test_several_processes(nodes, named):
    """Looked at without starting them; what they train is in test_ddp."""
    run = L.Trainer(accelerator="cpu", strategy="ddp", devices=1, num_nodes=nodes, logger=False)
    assert obstacle(run, mlp(), LitMLP) == named


# Optimizers and schedulers


class OwnSGD(torch.optim.SGD):
    pass


def in_two_groups(parameters: Any, lr: float) -> torch.optim.SGD:
    weight, *others = parameters
    return torch.optim.SGD([{"params": [weight]}, {"params": others}], lr)


def in_another_order(parameters: Any, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(list(parameters)[::-1], lr)


def hooked(parameters: Any, lr: float) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(parameters, lr)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"optimizer": torch.optim.AdamW}, "--optimizer=AdamW"),
        ({"optimizer": OwnSGD}, "--optimizer=OwnSGD"),
        ({"optimizer": in_two_groups}, "--optimizer: groups of parameters"),
        ({"optimizer": in_another_order}, "--optimizer: groups of parameters"),
        ({"optimizer": hooked}, "--optimizer: hooks on its step"),
        ({"momentum": 0.9, "nesterov": True}, "--optimizer.nesterov"),
        ({"momentum": 0.9, "dampening": 0.1}, "--optimizer.dampening"),
        ({"maximize": True}, "--optimizer.maximize"),
        ({"lr": 0.0}, "--optimizer.lr=0.0"),
        ({"momentum": 1.0}, "--optimizer.momentum=1.0"),
        ({"scheduler": falling_by_step}, "--lr_scheduler, which steps with every mini-batch"),
    ],
    ids=words,
)
def test_an_optimizer_or_a_scheduler(said, options, named):
    assert said(mlp(**options)) == [named]


def test_an_optimizer_that_autograd_is_to_look_through():
    model = mlp(differentiable=True)
    assert descent_of(model.configure_optimizers(), list(model.parameters())) == "--optimizer.differentiable"


@pytest.mark.parametrize(
    "options",
    [{"momentum": 0.9}, {"weight_decay": 0.1}, {"scheduler": falling}, {"foreach": True}, {"lr": torch.tensor(0.1)}],
    ids=words,
)
def test_an_optimizer_or_a_scheduler_that_the_engine_serves(said, options):
    assert said(mlp(**options)) == []


def test_a_frozen_parameter_stays_what_it_is(said):
    model = mlp()
    weight = next(model.network.parameters()).requires_grad_(False)
    before = weight.clone()
    assert said(model) == ["--model: frozen parameters"]
    torch.testing.assert_close(weight, before, rtol=0, atol=0)


def test_a_hook_on_a_gradient_is_called(said):
    model, called = mlp(), []
    next(model.network.parameters()).register_hook(called.append)
    assert said(model) == ["--model: hooks on gradients"]
    assert len(called) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: register_parametrization(layer, "weight", torch.nn.Identity()),
    ],
    ids=["a hook", "a hook on the gradient", "pruning", "a parametrisation"],
)
def test_a_layer_that_does_more(said, change):
    model = mlp()
    change(model.network[2])
    assert said(model) == ["--model: a layer with a hook, a parametrisation or pruning"]


def test_a_network_with_a_forward_of_its_own(said):
    class Other(MLP):
        def forward(self, x, *functions):
            return 2 * super().forward(x, *functions)

    model = mlp()
    model.network = Other([64, 5, 10])
    assert said(model) == ["--model: Other.forward"]


def test_another_optimizer_than_the_rule(said):
    class OwnRule(PerceptronRule):
        pass

    model = LitPerceptron(in_features=64)
    model.configure_optimizers = lambda: OwnRule(model.bank)
    assert said(model) == ["--optimizer=OwnRule"]


# Callbacks


def batch_hook(name: str) -> type[Callback]:
    return type("Mine", (Callback,), {name: lambda self, *_: None})


@pytest.mark.parametrize(
    "hook",
    [
        *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
        *("on_after_backward", "on_before_optimizer_step"),
    ],
)
def test_a_callback_of_every_mini_batch(said, hook):
    assert said(mlp(), callbacks=[batch_hook(hook)()]) == ["--trainer.callbacks: Mine"]


def test_a_callback_made_of_functions(said):
    callback = LambdaCallback(on_train_batch_end=lambda *_: None)
    assert said(mlp(), callbacks=[callback]) == ["--trainer.callbacks: LambdaCallback"]


class OwnCheckpoint(ModelCheckpoint):
    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)


class OwnBar(TQDMProgressBar):
    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)


@pytest.mark.parametrize(("kind", "option"), [(OwnCheckpoint, "enable_checkpointing"), (OwnBar, "enable_progress_bar")])
def test_a_known_callback_made_another(said, kind, option, capsys):
    assert said(mlp(), callbacks=[kind()], **{option: True}) == [f"--trainer.callbacks: {kind.__name__}"]


class OfEpochs(Callback):
    def on_train_epoch_start(self, *_: Any) -> None:
        pass

    def on_train_epoch_end(self, *_: Any) -> None:
        pass

    def on_validation_batch_end(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    "make",
    [
        OfEpochs,
        KeepOnInterrupt,
        LearningCurve,
        lambda: EarlyStopping("train_loss"),
        lambda: Timer("00:01:00:00"),
        lambda: BestAndLast(monitor="val_loss"),
        lambda: ModelCheckpoint(monitor="val_loss", save_last=True),
        EpochBar,
        TQDMProgressBar,
        RichProgressBar,
    ],
    ids=words,
)
def test_a_callback_to_which_a_block_is_as_good(said, make, capsys):
    callback = make()
    of_kind = {"enable_checkpointing": ModelCheckpoint, "enable_progress_bar": ProgressBar}
    options = {option: isinstance(callback, kind) for option, kind in of_kind.items()}
    assert said(mlp(), callbacks=[callback], **options) == []


@pytest.mark.parametrize(
    ("interval", "scheduler", "named"),
    [
        ("epoch", None, []),
        (None, falling, []),
        (None, None, ["--trainer.callbacks: LearningRateMonitor"]),
        ("step", falling, ["--trainer.callbacks: LearningRateMonitor"]),
    ],
)
def test_a_monitor_of_the_learning_rate(said, tmp_path, interval, scheduler, named):
    log = CSVLogger(tmp_path)
    monitor = LearningRateMonitor(interval)
    assert said(mlp(scheduler=scheduler), callbacks=[monitor], logger=log, log_every_n_steps=1) == named


# Learners and data


class OwnStep(LitMLP):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)


class OwnHook(LitMLP):
    def on_after_backward(self) -> None:
        pass


class OwnLogits(LitMLP):
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().logits(x)


class OwnEpoch(LitMLP):
    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (OwnStep, ["--model: OwnStep.training_step"]),
        (OwnHook, ["--model: OwnHook.on_after_backward"]),
        (OwnLogits, ["--model: OwnLogits.logits"]),
        (OwnEpoch, []),
    ],
)
def test_a_learner_derived_from_ours(said, kind, named):
    assert said(mlp(kind)) == named


def test_a_step_given_to_one_learner_alone(said):
    model = mlp()
    step = model.training_step
    model.training_step = lambda batch, batch_idx: 1.0 * step(batch, batch_idx)
    assert said(model) == ["--model: LitMLP.training_step"]


class Augmented(MNISTDataModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, labels = batch
        return 0.5 * x, labels


def test_data_changed_on_their_way(said):
    data = Augmented("digits", batch_size=BATCH, val_size=1437 - N, seed=3)
    assert said(mlp(), data) == ["--data: Augmented.on_after_batch_transfer"]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("make", [mlp, lambda: LitPerceptron(in_features=64)], ids=["mlp", "perceptron"])
def test_another_loader(said, make):
    loader = DataLoader(TensorDataset(torch.rand(N, 64), torch.arange(N) % 10), BATCH)
    assert said(make(), loader) == ["--data: DataLoader in place of ResidentLoader"]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_resident_loader_without_a_data_module(said):
    data = digits(N, BATCH)
    data.prepare_data()
    data.setup("fit")
    assert said(mlp(), data.train_dataloader()) == []
