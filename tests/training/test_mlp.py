"""LitMLP under Lightning is plain gradient descent on the loss that it reports, whatever Lightning adds to it."""

from collections.abc import Callable

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelPruning
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils import parametrize, prune

from nnlab.ops import LOSSES
from nnlab.training import LitMLP
from nnlab.validation import ArgumentError
from tests.pairwise import pairwise
from tests.tolerances import RELATIVE, TRAJECTORY, assert_close, assert_same
from tests.training.runs import Batches, digits, epochs, state, trainer

N, BATCH, L2 = 230, 50, 0.03  # a tail of 30


def make(lr: float = 0.1, *, reduction: str = "mean", **options: object) -> LitMLP:
    """A network of two hidden layers with momentum; the step of a sum is made as long as that of a mean."""
    torch.manual_seed(5)
    model = LitMLP(hidden=[7, 6], in_features=64, reduction=reduction, **{"l2": L2, "activation": "tanh"} | options)
    lr = lr if reduction == "mean" else lr / BATCH
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return model


class Twin:
    """The same network of torch's own modules under torch's own autograd, trained by a loop of the plainest kind."""

    def __init__(
        self,
        model: LitMLP,
        dtype: torch.dtype,
        device: torch.device,
        change: Callable[[nn.Module], object] | None = None,
    ):
        self.network = model.network.to_sequential().to(device, dtype)
        if change is not None:
            change(self.network)
        self.optimizer = torch.optim.SGD(self.network.parameters(), **model.configure_optimizers().defaults)
        self.loss, self.reduction, self.dtype = LOSSES[model.loss], model.reduction, dtype
        self.reported = self.n = 0.0

    def error(self, x: Tensor, labels: Tensor) -> Tensor:
        target = labels if self.loss.target == "labels" else one_hot(labels, 10).to(self.dtype)
        error = self.loss.reference(self.network(x.to(self.dtype)), target)
        return error.mean() if self.reduction == "mean" else error.sum()

    def penalty(self) -> Tensor:
        layers = [layer for layer in self.network if isinstance(layer, nn.Linear)]
        return L2 / 2 * sum(layer.weight.square().sum() for layer in layers)

    def step(self, *batches: tuple[Tensor, Tensor], clip: float | None = None) -> None:
        """One step on several batches together: the sum of their sums, or the mean of their means."""
        self.optimizer.zero_grad()
        error = sum(self.error(*batch) for batch in batches)
        objective = (error / len(batches) if self.reduction == "mean" else error) + self.penalty()
        objective.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        n = sum(len(x) for x, _ in batches)
        self.reported += objective.item() * (n if self.reduction == "mean" else 1)
        self.n += n
        self.optimizer.step()

    def assert_matches(self, model: LitMLP, dtype: torch.dtype) -> None:
        for ours, theirs in zip(model.network.parameters(), self.network.parameters(), strict=True):
            assert_close(ours.detach().cpu(), theirs.detach().cpu(), TRAJECTORY[dtype])


@pairwise(loss=[*LOSSES], activation=["tanh", "gelu"], reduction=["mean", "sum"], dtype=[torch.float32, torch.float64])
def test_training_is_a_plain_loop_of_autograd_and_reports_the_loss_it_descends(
    device, tmp_path, loss, activation, reduction, dtype
):
    model = make(loss=loss, activation=activation, reduction=reduction)
    twin = Twin(model, dtype, device)
    run = trainer(device, tmp_path, max_epochs=2, precision="64-true" if dtype == torch.float64 else "32-true")
    run.fit(model, digits(N, BATCH))
    batches = [(x.to(device), labels.to(device)) for x, labels in epochs(digits(N, BATCH), 2)]
    assert [len(x) for x, _ in batches] == [50, 50, 50, 50, 30] * 2
    before = torch.stack([p.detach().abs().sum() for p in twin.network.parameters()]).sum()
    for step, batch in enumerate(batches):
        if step == len(batches) // 2:
            twin.reported = twin.n = 0.0
        twin.step(batch)
    twin.assert_matches(model, dtype)
    after = torch.stack([p.detach().abs().sum() for p in twin.network.parameters()]).sum()
    assert (after - before).abs() > 0.01 * before  # it did train
    expected = torch.tensor(twin.reported / twin.n)
    assert_close(run.callback_metrics["train_loss"].cpu().float(), expected, TRAJECTORY[torch.float32])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_are_clipped_as_torch_clips_them(device, tmp_path, reduction):
    model = make(reduction=reduction)
    twin = Twin(model, torch.float64, device)
    trainer(device, tmp_path, precision="64-true", gradient_clip_val=0.05).fit(model, digits(N, BATCH))
    for x, labels in epochs(digits(N, BATCH)):
        twin.step((x.to(device), labels.to(device)), clip=0.05)
    twin.assert_matches(model, torch.float64)


@pytest.mark.parametrize("n", [200, 230], ids=["full", "the last step is of one short batch"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_make_one_step_of_the_objective_reported(device, tmp_path, reduction, n):
    model = make(reduction=reduction)
    twin = Twin(model, torch.float64, device)
    run = trainer(device, tmp_path, precision="64-true", accumulate_grad_batches=2)
    run.fit(model, digits(n, BATCH))
    batches = [(x.to(device), labels.to(device)) for x, labels in epochs(digits(n, BATCH))]
    for group in _in_pairs(batches):
        twin.step(*group)
    assert run.global_step == len(batches) // 2 + len(batches) % 2
    twin.assert_matches(model, torch.float64)
    expected = torch.tensor(twin.reported / twin.n)
    assert_close(run.callback_metrics["train_loss"].cpu().float(), expected, TRAJECTORY[torch.float32])


class Twice(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def pruned(network: nn.Module) -> None:
    prune.l1_unstructured(network[2], "weight", 0.5)


def parametrised(network: nn.Module) -> None:
    parametrize.register_parametrization(network[2], "weight", Twice())


def pruned_for_good(network: nn.Module) -> None:
    pruned(network)
    prune.remove(network[2], "weight")


@pytest.mark.parametrize("change", [pruned, parametrised, pruned_for_good])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_weights_that_a_layer_makes_are_those_trained_and_penalised(device, tmp_path, reduction, change):
    model = make(reduction=reduction)
    twin = Twin(model, torch.float64, device, change)
    change(model.network)
    run = trainer(device, tmp_path, precision="64-true")
    run.fit(model, digits(N, BATCH))
    for x, labels in epochs(digits(N, BATCH)):
        twin.step((x.to(device), labels.to(device)))
    twin.assert_matches(model, torch.float64)
    reported = torch.tensor(twin.reported / twin.n)
    assert_close(run.callback_metrics["train_loss"].cpu().float(), reported, TRAJECTORY[torch.float32])


def test_what_lightning_prunes_stays_zero(device, tmp_path):
    model, zeros = make(), []

    class Zeros(L.Callback):
        def on_validation_start(self, trainer, pl_module):
            pl_module.network(torch.rand(1, 64, device=device))  # a layer makes its weight when it is called
            zeros.append([layer.weight.detach().eq(0).cpu() for layer in list(pl_module.network)[::2]])

    weights = [(layer, "weight") for layer in list(model.network)[::2]]
    pruning = ModelPruning("l1_unstructured", weights, amount=0.5, apply_pruning=lambda epoch: epoch == 0)
    run = trainer(device, tmp_path, max_epochs=4, callbacks=[Zeros(), pruning], val_check_interval=2)
    run.fit(model, digits(N, BATCH))
    before, *after = [z for z in zeros if any(w.any() for w in z)]
    assert torch.cat([w.flatten() for w in before]).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert len(after) >= 5
    final = [layer.weight.detach().cpu() for layer in list(model.network)[::2]]
    for now in (*after, [w.eq(0) for w in final]):
        for w, first in zip(now, before, strict=True):
            assert torch.equal(w, first)
    x = torch.rand(5, 64, device="cpu")
    assert_close(model.network(x).detach(), model.network.to_sequential()(x).detach())


def _in_pairs(batches: Batches) -> list[Batches]:
    return [batches[i : i + 2] for i in range(0, len(batches), 2)]


@pytest.mark.parametrize(("reduction", "n"), [("sum", 230), ("mean", 200)])
def test_accumulated_batches_are_the_joined_batch(device, tmp_path, reduction, n):
    runs = []
    for batch_size, batches in ((BATCH, 2), (2 * BATCH, 1)):
        model = make(reduction=reduction, engine="off")
        run = trainer(device, tmp_path, precision="64-true", accumulate_grad_batches=batches, max_epochs=2)
        run.fit(model, digits(n, batch_size))
        runs.append((model, run))
    (model, run), (joined, joined_run) = runs
    assert run.global_step == joined_run.global_step == 2 * -(-n // (2 * BATCH))
    for name, expected in state(joined.network).items():
        assert_close(state(model.network)[name], expected, TRAJECTORY[torch.float64])
    for name in ("val_loss", "val_acc"):
        assert_close(run.callback_metrics[name], joined_run.callback_metrics[name], RELATIVE[torch.float32])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_bf16_mixed_trains_float32_parameters_close_to_full_precision(device, tmp_path, reduction):
    losses, models = [], []
    for precision in ("bf16-mixed", "32-true"):
        model = make(lr=0.02, reduction=reduction)
        models.append(model)
        run = trainer(device, tmp_path, precision=precision, max_epochs=3)
        run.fit(model, digits(N, BATCH))
        losses.append(run.callback_metrics["train_loss"])
    for name, mixed in state(models[0].network).items():
        assert mixed.dtype == torch.float32
        assert_close(mixed, state(models[1].network)[name], 2 * RELATIVE[torch.bfloat16])
        assert not torch.equal(mixed, state(models[1].network)[name])  # bf16 was used
    assert_close(losses[0], losses[1], RELATIVE[torch.bfloat16])


OPTIONS = {
    "as it is": {},
    "clipped": {"gradient_clip_val": 1.0},
    "accumulated": {"accumulate_grad_batches": 2},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "64-true": {"precision": "64-true"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_loss_falls(device, tmp_path, options):
    model = make(lr=0.2, l2=0.0)
    seen: list[float] = []

    class Losses(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(pl_module.metric("train_loss").compute().item())

    trainer(device, tmp_path, max_epochs=4, callbacks=[Losses()], **options).fit(model, digits(N, BATCH))
    assert len(seen) == 4
    assert seen[-1] < 0.9 * seen[0]


@pairwise(loss=[*LOSSES], stage=["val", "test"])
def test_validation_and_test_figures_are_those_of_the_whole_set_at_once(device, tmp_path, loss, stage):
    model, data = make(loss=loss), digits(N, BATCH)
    run = trainer(device, tmp_path)
    run.fit(model, data)
    (run.validate if stage == "val" else run.test)(model, data, verbose=False)
    (x, labels), *more = iter(data.val_dataloader() if stage == "val" else data.test_dataloader())
    batches = [(x, labels), *more]
    assert [len(x) for x, _ in batches] == ([1000, 207] if stage == "val" else [360])
    x, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits = model.network.to_sequential().to(x.device)(x)  # Lightning has moved the model to the CPU
    target = labels if LOSSES[loss].target == "labels" else one_hot(labels, 10).to(logits)
    expected = LOSSES[loss].reference(logits, target).mean().detach()
    assert_close(run.callback_metrics[f"{stage}_loss"].to(device), expected)
    accuracy = (logits.argmax(1) == labels).float().mean()
    assert run.callback_metrics[f"{stage}_acc"].item() == pytest.approx(accuracy.item(), abs=1e-7)


def test_a_parameter_that_is_not_finite_ends_the_training(device, tmp_path):
    model = make(lr=1e30)
    run = trainer(device, tmp_path, max_epochs=2)
    with pytest.raises(FloatingPointError, match="weight of layer 1 became NaN or infinite in epoch 1, mini-batch 2"):
        run.fit(model, digits(N, BATCH))


def test_without_a_trainer_a_step_gives_the_plain_loss(device):
    model = make(reduction="sum").to(device)
    x, labels = torch.rand(4, 64, device=device), torch.tensor([1, 2, 3, 9], device=device)
    twin = Twin(model, torch.float32, device)
    assert_close(model.training_step((x, labels), 0).detach(), (twin.error(x, labels) + twin.penalty()).detach())


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"hidden": [0]}, "hidden"),
        ({"hidden": [4, -1]}, "hidden"),
        ({"activation": "step"}, "activation"),
        ({"loss": "hinge"}, "loss"),
        ({"reduction": "none"}, "reduction"),
        ({"l2": -0.1}, "l2"),
        ({"schedule": "step"}, "schedule"),
        ({"init_std": 0.0}, "init_std"),
    ],
)
def test_a_wrong_argument_is_named(options, argument):
    with pytest.raises(ArgumentError) as caught:
        LitMLP(**options)
    assert caught.value.argument == argument


def test_a_seed_gives_the_same_weights(device):
    for ours, again in zip(make().parameters(), make().parameters(), strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0)


class Ends(L.Callback):
    """Notes the weights after each epoch, and the validation loss."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: LitMLP) -> None:
        self.weights.append(state(pl_module.network))
        self.losses.append(trainer.callback_metrics["val_loss"].item())


@pytest.mark.parametrize("engine", ["on", "off"])
def test_the_weights_of_the_last_epochs_are_averaged(device, tmp_path, engine):
    plain, model, ends = make(engine=engine), make(engine=engine, average_epochs=2), Ends()
    trainer(device, tmp_path, max_epochs=4).fit(plain, digits(N, BATCH))
    run = trainer(device, tmp_path, max_epochs=4, callbacks=ends)
    run.fit(model, digits(N, BATCH))
    assert_same(ends.weights[-1], state(plain.network))  # training goes on with its own weights
    mean = {name: (ends.weights[2][name] + ends.weights[3][name]) / 2 for name in ends.weights[3]}
    for name, value in state(model.network).items():
        assert_close(value, mean[name], RELATIVE[torch.float32])
        assert not torch.equal(value, ends.weights[3][name])
    run.save_checkpoint(tmp_path / "last.ckpt")
    loss = run.validate(model, digits(N, BATCH), verbose=False)[0]["val_loss"]
    assert ends.losses[-1] == pytest.approx(loss, rel=1e-5)  # validation within training used the mean
    loaded = LitMLP.load_from_checkpoint(tmp_path / "last.ckpt")
    assert_same(state(loaded.network), state(model.network))


def test_more_epochs_are_not_averaged_than_there_are(tmp_path):
    with pytest.raises(ArgumentError, match="average_epochs must be at most max_epochs, which is 3, got 4"):
        trainer(torch.device("cpu"), tmp_path, max_epochs=3).fit(make(average_epochs=4), digits(N, BATCH))


def test_a_checkpoint_of_averaged_weights_fits_a_model_that_does_not_average_but_not_to_train(tmp_path):
    cpu, model, plain = torch.device("cpu"), make(average_epochs=2), make()
    run = trainer(cpu, tmp_path, max_epochs=3)
    run.fit(model, digits(N, BATCH))
    run.save_checkpoint(tmp_path / "mean.ckpt")
    mean = run.validate(model, digits(N, BATCH), verbose=False)
    for other in (make(), make(average_epochs=1)):
        assert trainer(cpu, tmp_path).validate(other, digits(N, BATCH), tmp_path / "mean.ckpt", False) == mean
    with pytest.raises(ArgumentError, match="average_epochs must not be 0, as in the checkpoint, got 0"):
        trainer(cpu, tmp_path, max_epochs=5).fit(plain, digits(N, BATCH), ckpt_path=tmp_path / "mean.ckpt")
    run = trainer(cpu, tmp_path)
    run.fit(plain, digits(N, BATCH))
    run.save_checkpoint(tmp_path / "plain.ckpt")
    found = run.validate(plain, digits(N, BATCH), verbose=False)
    assert trainer(cpu, tmp_path).validate(model, digits(N, BATCH), tmp_path / "plain.ckpt", False) == found
    with pytest.raises(ArgumentError, match="average_epochs must be 0, as in the checkpoint, got 2"):
        trainer(cpu, tmp_path, max_epochs=5).fit(model, digits(N, BATCH), ckpt_path=tmp_path / "plain.ckpt")


def test_weights_are_averaged_by_one_only(tmp_path):
    run = trainer(torch.device("cpu"), tmp_path, max_epochs=2, callbacks=EMAWeightAveraging())
    with pytest.raises(ArgumentError, match="average_epochs must be 0 beside EMAWeightAveraging"):
        run.fit(make(average_epochs=2), digits(N, BATCH))
