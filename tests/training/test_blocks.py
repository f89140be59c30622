"""Blocks of mini-batches end where Lightning has to look, and leave what mini-batches one by one would leave."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, Timer, TQDMProgressBar

from nnlab.engine import MLPEngine, PerceptronEngine
from nnlab.training import BestAndLast, LitMLP, LitPerceptron, blocks
from nnlab.training.callbacks import EpochBar
from nnlab.training.classifier import MeanLoss
from tests.tolerances import TRAJECTORY, assert_close, assert_same
from tests.training.runs import EachBatch, digits, falling, in_blocks_of, state, trainer

N, BATCH = 230, 20  # twelve mini-batches an epoch, the last of 10


Make = Callable[[], L.LightningModule]


def mlp(*, scheduler: Any = None, momentum: float = 0.9, weight_decay: float = 0.0, **options: Any) -> LitMLP:
    torch.manual_seed(5)
    model = LitMLP(hidden=[7, 6], activation="tanh", in_features=64, **options)
    lr = 0.1 if model.reduction == "mean" else 0.1 / BATCH

    def configure_optimizers() -> Any:
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum, weight_decay=weight_decay)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler(optimizer)}

    model.configure_optimizers = configure_optimizers
    return model


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.9)
    return {"scheduler": scheduler, "monitor": "train_loss"}


RECIPES: dict[str, Make] = {
    "mean": lambda: mlp(momentum=0.0),
    "mean, momentum": mlp,
    "sum, momentum, l2": lambda: mlp(reduction="sum", l2=0.03),
    "mean, l2, logistic": lambda: mlp(l2=0.03, momentum=0.0, loss="binary_cross_entropy"),
    "mean, weight decay, squares": lambda: mlp(weight_decay=0.02, loss="sum_of_squares"),
    "a scheduler": lambda: mlp(scheduler=falling),
    "a scheduler that looks at the loss": lambda: mlp(scheduler=plateau),
    "perceptron": lambda: LitPerceptron(in_features=64),
}


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The mini-batches of each block, in their order."""
    noted: list[int] = []
    count = blocks.count_
    monkeypatch.setattr(blocks, "count_", lambda run, n: noted.append(n) or count(run, n))
    return noted


def fit(
    root: Path, model: L.LightningModule, *, n: int = N, ckpt_path: Any = None, **options: Any
) -> tuple[L.Trainer, L.LightningModule]:
    run = trainer(torch.device("cpu"), root, **{"max_epochs": 2} | options)
    run.fit(model, digits(n, BATCH), ckpt_path=ckpt_path, weights_only=True)
    return run, model


def kept_at_every(n_steps: int, folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=n_steps, save_top_k=-1)


def assert_alike(found: Any, expected: Any, dtype: torch.dtype = torch.float32) -> None:
    """The same keys, whole numbers and tensors of whole numbers; other tensors and numbers but for rounding."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_alike(found[key], expected[key], dtype)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_alike(*pair, dtype)
    elif isinstance(expected, torch.Tensor) and expected.is_floating_point():
        assert_close(found, expected, TRAJECTORY[dtype])
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected


# The same as one by one


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_weights_figures_and_checkpoints_are_those_of_mini_batches_one_by_one(tmp_path, lengths, make):
    runs = []
    for name, callbacks in (("blocks", []), ("one by one", [EachBatch()])):
        folder = tmp_path / name
        kept = [kept_at_every(5, folder), BestAndLast(folder, filename="best", save_on_train_epoch_end=False)]
        run, _ = fit(tmp_path, make(), enable_checkpointing=True, callbacks=[*kept, *callbacks], val_check_interval=4)
        runs.append((folder, run.callback_metrics))
    assert sum(lengths) == 24
    assert len(lengths) < 24
    (ours, our_figures), (theirs, their_figures) = runs
    assert_alike(dict(our_figures), dict(their_figures))
    names = {path.name for path in theirs.iterdir()}
    assert names == {path.name for path in ours.iterdir()} >= {"step=5.ckpt", "step=20.ckpt", "best.ckpt", "last.ckpt"}
    for name in sorted(names):
        found, expected = (torch.load(folder / name, weights_only=True) for folder in (ours, theirs))
        for checkpoint in (found, expected):
            del checkpoint["callbacks"]  # which name the folder
        assert_alike(found, expected)  # Lightning's counters among all else


@pytest.mark.parametrize(("reduction", "precision"), [("mean", "32-true"), ("sum", "64-true")])
def test_it_does_not_matter_to_the_last_bit_how_an_epoch_is_cut(tmp_path, monkeypatch, lengths, reduction, precision):
    found = []
    for most in (1, 2, 5, 12):
        model = mlp(reduction=reduction, l2=0.03)
        in_blocks_of(most, model, BATCH, monkeypatch)
        run, _ = fit(tmp_path, model, precision=precision)
        assert lengths == 2 * ([most] * (12 // most) + [12 % most] * (12 % most > 0))
        lengths.clear()
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


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize("first", ["blocks", "one by one"])
@pytest.mark.parametrize("make", [RECIPES["sum, momentum, l2"], RECIPES["perceptron"]], ids=["mlp", "perceptron"])
def test_a_run_goes_on_in_the_other_way_from_a_checkpoint(tmp_path, first, make):
    ways = {"blocks": list, "one by one": lambda: [EachBatch()]}
    (second,) = ways.keys() - {first}
    run, whole = fit(
        tmp_path, make(), enable_checkpointing=True, callbacks=[kept_at_every(3, tmp_path), *ways[first]()]
    )
    for k in (9, 12):  # in an epoch, and at its end
        again, resumed = fit(tmp_path, make(), ckpt_path=tmp_path / f"step={k}.ckpt", callbacks=ways[second]())
        assert again.global_step == 24
        assert_alike(state(resumed), state(whole))
        assert_alike(dict(again.callback_metrics), dict(run.callback_metrics))


# Where blocks end


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize("make", [mlp, RECIPES["perceptron"]], ids=["mlp", "perceptron"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [12, 12]),
        ({"max_steps": 17}, [12, 5]),
        ({"max_steps": 12}, [12]),
        ({"limit_train_batches": 5}, [5, 5]),
        ({"limit_train_batches": 0.5}, [6, 6]),
        ({"overfit_batches": 3}, [3, 3]),
        ({"fast_dev_run": 2}, [2]),
        ({"val_check_interval": 5}, [5, 5, 2, 5, 5, 2]),
        ({"val_check_interval": 0.25}, [3] * 8),
        ({"val_check_interval": 5, "check_val_every_n_epoch": None}, [5, 5, 2, 3, 5, 4]),
        ({"val_check_interval": 30, "check_val_every_n_epoch": None, "max_epochs": 3}, [12, 12, 6, 6]),
        ({"every_n_train_steps": 7}, [7, 5, 2, 7, 3]),
        ({"every_n_train_steps": 7, "max_steps": 13, "val_check_interval": 10}, [7, 3, 2, 1]),
        ({"min_steps": 15, "max_epochs": 2}, [12, 3, 9]),
        ({"most": 5}, [5, 5, 2, 5, 5, 2]),
        ({"most": 0.1}, [1] * 24),
        ({"reload_dataloaders_every_n_epochs": 1}, [12, 12]),
    ],
    ids=str,
)
def test_blocks_end_where_lightning_has_to_look(tmp_path, monkeypatch, lengths, make, options, expected):
    options, callbacks, model = dict(options), [], make()
    if every := options.pop("every_n_train_steps", None):
        callbacks.append(kept_at_every(every, tmp_path))
    in_blocks_of(options.pop("most", 100), model, BATCH, monkeypatch)
    run, _ = fit(tmp_path, model, callbacks=callbacks, enable_checkpointing=bool(callbacks), **options)
    assert lengths == expected
    assert run.global_step == sum(expected)
    assert run.fit_loop.epoch_loop.total_batch_idx + 1 == sum(expected)
    if every:
        saved = {int(path.stem.removeprefix("step=")) for path in tmp_path.glob("step=*.ckpt")}
        assert saved == set(range(every, sum(expected) + 1, every))


@pytest.mark.parametrize("each", [[], [EachBatch()]], ids=["blocks", "one by one"])
def test_validation_runs_at_the_same_steps(tmp_path, each):
    seen = []

    class Steps(L.Callback):
        def on_validation_start(self, trainer, pl_module):
            seen.append((trainer.global_step, trainer.current_epoch, trainer.is_last_batch))

    fit(tmp_path, mlp(), val_check_interval=5, callbacks=[Steps(), *each])
    assert seen == [(5, 0, False), (10, 0, False), (17, 1, False), (22, 1, False)]


@pytest.mark.parametrize("each", [[], [EachBatch()]], ids=["blocks", "one by one"])
def test_early_stopping_ends_at_the_same_step_and_waits_for_min_steps(tmp_path, each):
    for min_steps, expected in ((None, 24), (29, 29)):
        stop = EarlyStopping("train_loss", patience=1, min_delta=100.0)  # nothing is good enough
        run, _ = fit(tmp_path, mlp(), max_epochs=9, min_steps=min_steps, callbacks=[stop, *each])
        assert run.global_step == expected


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_max_time_ends_after_a_block_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    in_blocks_of(4, mlp(), BATCH, monkeypatch)
    _, whole = fit(tmp_path, mlp())
    kept = BestAndLast(tmp_path, monitor="val_loss", save_on_train_epoch_end=False)
    timer = Timer("00:00:01:00")
    run = trainer(torch.device("cpu"), tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[timer, kept])
    monkeypatch.setattr(timer, "time_elapsed", lambda *_: 100.0 if run.global_step > 13 else 0.0)
    run.fit(mlp(), digits(N, BATCH))
    assert run.global_step == 16
    _, resumed = fit(tmp_path, mlp(), ckpt_path=kept.last_model_path)
    assert_same(state(resumed), state(whole))


# An interrupt within


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize(("make", "engine"), [(mlp, MLPEngine), (RECIPES["perceptron"], PerceptronEngine)])
def test_a_block_that_is_broken_off_leaves_all_as_it_was_before(tmp_path, monkeypatch, make, engine, error):
    in_blocks_of(4, make(), BATCH, monkeypatch)
    _, whole = fit(tmp_path, make())
    run_, runs = engine.run_, []

    def breaks_off(self: Any, *arguments: Any) -> Any:
        runs.append(run_(self, *arguments))
        if len(runs) == 5:
            raise error
        return runs[-1]

    class Keep(L.Callback):
        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / "broken.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run_", breaks_off)
        with pytest.raises((SystemExit, ZeroDivisionError)):
            fit(tmp_path, make(), callbacks=[Keep()])
    assert torch.load(tmp_path / "broken.ckpt", weights_only=True)["global_step"] == 16
    run, resumed = fit(tmp_path, make(), ckpt_path=tmp_path / "broken.ckpt")
    assert run.global_step == 24
    assert_same(state(resumed), state(whole))


# What changes on the way


def test_a_setting_that_changes_between_epochs_is_heeded(tmp_path, lengths, caplog):
    caplog.set_level("INFO", "nnlab")
    accumulate = L.pytorch.callbacks.GradientAccumulationScheduler({1: 3, 2: 1})
    run, _ = fit(tmp_path, mlp(), max_epochs=3, callbacks=[accumulate])
    assert lengths == [12, 12]
    assert run.global_step == 12 + 4 + 12
    (line,) = (record.getMessage() for record in caplog.records if record.name == "nnlab")
    assert "(--trainer.accumulate_grad_batches)" in line


def test_a_learning_rate_of_0_is_torchs_to_handle(tmp_path, lengths):
    def zero_in_between(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: float(epoch != 1))

    fit(tmp_path, mlp(scheduler=zero_in_between), max_epochs=3)
    assert lengths == [12, 12]


def test_a_callback_that_reads_the_training_data_is_given_mini_batches(tmp_path, lengths):
    sizes = []

    class Reads(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            sizes.append([len(labels) for _, labels in trainer.train_dataloader])

    fit(tmp_path, mlp(), callbacks=[Reads()])
    assert sizes == [[20] * 11 + [10]] * 2
    assert lengths == [12, 12]


# The engine


def test_one_engine_serves_a_fit_and_is_let_go_after_it(tmp_path, monkeypatch):
    made, make_engine = [], LitMLP.make_engine

    def noted(*arguments: Any) -> MLPEngine:
        engine = make_engine(*arguments)
        made.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(LitMLP, "make_engine", noted)
    copies = []

    class Copies(L.Callback):
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
    fit(tmp_path, mlp(), max_epochs=3)
    assert len(made) == 2


def test_the_samples_are_cast_as_lightning_casts_mini_batches(tmp_path, lengths):
    models = []
    for callbacks in ([], [EachBatch()]):
        _, model = fit(tmp_path, mlp(), precision="64-true", callbacks=callbacks)
        models.append(model)
    assert lengths == [12, 12]
    for ours, theirs in zip(*(model.network.parameters() for model in models), strict=True):
        assert ours.dtype == torch.float64
        assert_close(ours.detach(), theirs.detach(), TRAJECTORY[torch.float64])


# The progress bar


@pytest.mark.parametrize("bar", [EpochBar, TQDMProgressBar, RichProgressBar])
def test_the_bar_counts_mini_batches(tmp_path, monkeypatch, lengths, bar, capsys):
    in_blocks_of(5, mlp(), BATCH, monkeypatch)
    counts, bar = [], bar()

    class Counts(L.Callback):
        def _note(self) -> None:
            shown = bar.train_progress_bar
            counts.append((int(shown.completed if isinstance(bar, RichProgressBar) else shown.n), int(shown.total)))

        def on_train_epoch_end(self, trainer, pl_module):
            self._note()

        def on_validation_start(self, trainer, pl_module):
            self._note()

    fit(tmp_path, mlp(), enable_progress_bar=True, callbacks=[bar, Counts()], val_check_interval=8)
    assert lengths == [5, 3, 4] * 2
    at_validation = 0 if isinstance(bar, EpochBar) else 8  # ours is drawn every 20 steps and at the end
    assert counts == [(at_validation, 12), (12, 12)] * 2


def test_our_bar_is_drawn_after_20_steps_or_more(tmp_path, monkeypatch):
    drawn = []
    for each, most in (([EachBatch()], 1), ([], 1), ([], 15), ([], 50)):
        in_blocks_of(most, mlp(), 5, monkeypatch)
        bar = EpochBar()
        run = trainer(torch.device("cpu"), tmp_path, enable_progress_bar=True, callbacks=[bar, *each])
        monkeypatch.setattr(bar, "get_metrics", lambda *_, b=bar: drawn[-1].append(b.train_progress_bar.n) or {})
        drawn.append([])
        run.fit(mlp(), digits(N, 5))
        del drawn[-1][-2:]  # the validation's and the end's
    assert drawn == [[20, 40, 46], [20, 40, 46], [30, 46], [46]]
