"""LitMLP under Lightning is plain gradient descent on the loss that it reports, whatever Lightning adds to it."""

from collections.abc import Callable

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from nnlab.training import LitMLP
from nnlab.validation import ArgumentError
from tests.tolerances import RELATIVE, TRAJECTORY, assert_close
from tests.training.runs import Batches, digits, epochs, state, trainer

N, BATCH, L2 = 230, 50, 0.03  # a tail of 30


def softmax(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, reduction="sum")


def logistic(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, one_hot(labels, 10).to(logits), reduction="sum")


def squares(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits - one_hot(labels, 10).to(logits)).square().sum() / 2


LOSSES = {"softmax_cross_entropy": softmax, "binary_cross_entropy": logistic, "sum_of_squares": squares}


def make(device: torch.device, lr: float = 0.1, *, reduction: str = "mean", **options: object) -> LitMLP:
    """A network of two hidden layers with momentum; the step of a sum is made as long as that of a mean."""
    torch.manual_seed(5)
    model = LitMLP(hidden=[7, 6], activation="tanh", in_features=64, reduction=reduction, **{"l2": L2} | options)
    lr = lr if reduction == "mean" else lr / BATCH
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return model


class Twin:
    """The same network of torch's own modules under torch's own autograd, trained by a loop of the plainest kind."""

    def __init__(self, model: LitMLP, loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, **device: object):
        self.network = model.network.to_sequential().to(dtype=dtype, **device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), **model.configure_optimizers().defaults)
        self.loss, self.reduction, self.dtype = loss, model.reduction, dtype
        self.reported = self.n = 0.0

    def error(self, x: Tensor, labels: Tensor) -> Tensor:
        error = self.loss(self.network(x.to(self.dtype)), labels)
        return error / len(x) if self.reduction == "mean" else error

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_training_is_a_plain_loop_of_autograd_and_reports_the_loss_it_descends(
    device, tmp_path, loss, reduction, dtype
):
    model = make(device, loss=loss, reduction=reduction)
    twin = Twin(model, LOSSES[loss], dtype, device=device)
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
    model = make(device, reduction=reduction)
    twin = Twin(model, softmax, torch.float64, device=device)
    trainer(device, tmp_path, precision="64-true", gradient_clip_val=0.05).fit(model, digits(N, BATCH))
    for x, labels in epochs(digits(N, BATCH)):
        twin.step((x.to(device), labels.to(device)), clip=0.05)
    twin.assert_matches(model, torch.float64)


@pytest.mark.parametrize("n", [200, 230], ids=["full", "the last step is of one short batch"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_make_one_step_of_the_objective_reported(device, tmp_path, reduction, n):
    model = make(device, reduction=reduction)
    twin = Twin(model, softmax, torch.float64, device=device)
    run = trainer(device, tmp_path, precision="64-true", accumulate_grad_batches=2)
    run.fit(model, digits(n, BATCH))
    batches = [(x.to(device), labels.to(device)) for x, labels in epochs(digits(n, BATCH))]
    for group in _in_pairs(batches):
        twin.step(*group)
    assert run.global_step == len(batches) // 2 + len(batches) % 2
    twin.assert_matches(model, torch.float64)
    expected = torch.tensor(twin.reported / twin.n)
    assert_close(run.callback_metrics["train_loss"].cpu().float(), expected, TRAJECTORY[torch.float32])


def _in_pairs(batches: Batches) -> list[Batches]:
    return [batches[i : i + 2] for i in range(0, len(batches), 2)]


@pytest.mark.parametrize(("reduction", "n"), [("sum", 230), ("mean", 200)])
def test_accumulated_batches_are_the_joined_batch(device, tmp_path, reduction, n):
    runs = []
    for batch_size, batches in ((BATCH, 2), (2 * BATCH, 1)):
        model = make(device, reduction=reduction)
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
        model = make(device, lr=0.02, reduction=reduction)
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


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_loss_falls(device, tmp_path, loss, options):
    model = make(device, lr=0.2, loss=loss, l2=0.0)
    seen: list[float] = []

    class Losses(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(pl_module.metric("train_loss").compute().item())

    trainer(device, tmp_path, max_epochs=4, callbacks=[Losses()], **options).fit(model, digits(N, BATCH))
    assert len(seen) == 4
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("stage", ["val", "test"])
def test_validation_and_test_figures_are_those_of_the_whole_set_at_once(device, tmp_path, loss, stage):
    model, data = make(device, loss=loss), digits(N, BATCH)
    run = trainer(device, tmp_path)
    run.fit(model, data)
    (run.validate if stage == "val" else run.test)(model, data, verbose=False)
    (x, labels), *more = iter(data.val_dataloader() if stage == "val" else data.test_dataloader())
    batches = [(x, labels), *more]
    assert [len(x) for x, _ in batches] == ([1000, 207] if stage == "val" else [360])
    x, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits = model.network.to_sequential()(x)
    assert_close(run.callback_metrics[f"{stage}_loss"].to(device), LOSSES[loss](logits, labels).detach() / len(x))
    accuracy = (logits.argmax(1) == labels).float().mean()
    assert run.callback_metrics[f"{stage}_acc"].item() == pytest.approx(accuracy.item(), abs=1e-7)


def test_a_nan_is_reported_not_left_out(device, tmp_path):
    model = make(device, lr=1e30)
    run = trainer(device, tmp_path, max_epochs=2)
    run.fit(model, digits(N, BATCH))
    assert run.callback_metrics["train_loss"].isnan()


def test_without_a_trainer_a_step_gives_the_plain_loss(device):
    model = make(device, reduction="sum").to(device)
    x, labels = torch.rand(4, 64, device=device), torch.tensor([1, 2, 3, 9], device=device)
    twin = Twin(model, softmax, torch.float32)
    assert_close(model.training_step((x, labels), 0).detach(), (twin.error(x, labels) + twin.penalty()).detach())


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"hidden": [0]}, "hidden"),
        ({"hidden": [4, -1]}, "hidden"),
        ({"activation": "gelu"}, "activation"),
        ({"loss": "hinge"}, "loss"),
        ({"reduction": "none"}, "reduction"),
        ({"l2": -0.1}, "l2"),
        ({"init_std": 0.0}, "init_std"),
    ],
)
def test_a_wrong_argument_is_named(options, argument):
    with pytest.raises(ArgumentError) as caught:
        LitMLP(**options)
    assert caught.value.argument == argument


def test_a_seed_gives_the_same_weights(device):
    for ours, again in zip(make(device).parameters(), make(device).parameters(), strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0)
