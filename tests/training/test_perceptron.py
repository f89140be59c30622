"""LitPerceptron learns one sample after the other, whatever the batches are, and Lightning counts and keeps it."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from nnlab.networks import PerceptronBank
from nnlab.training import LitPerceptron, PerceptronRule, read_checkpoint
from nnlab.validation import ArgumentError
from tests.tolerances import assert_close, assert_same
from tests.training.runs import CONFIGS, Batches, digits, epochs, figures, fit, state, trainer

N = 150


class Loop:
    """The rule as the chapter states it, one sample and one unit vector at a time, on whole numbers in float64."""

    def __init__(self, lr: float, bipolar: bool) -> None:
        self.weight, self.bias = torch.zeros(10, 64, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
        self.sums = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self.low, self.lr, self.n = (-1.0 if bipolar else 0.0), lr, 0

    def learn(self, batches: Batches) -> int:
        errors = 0
        for x, label in ((x, label) for batch in batches for x, label in zip(*batch, strict=True)):
            y = torch.where(self.weight @ x.double() + self.bias >= 0, 1.0, self.low)
            d = torch.where(torch.arange(10) == label, 1.0, self.low)
            self.weight -= self.lr * (y - d)[:, None] * x.double()
            self.bias -= self.lr * (y - d)
            errors += int((y != d).sum())
            self.sums[0] += self.weight
            self.sums[1] += self.bias
            self.n += 1
        return errors

    def averaged(self) -> list[Tensor]:
        return [sums / self.n for sums in self.sums]


def run(
    device: torch.device, root: Path, batch_size: int = 40, *, n_epochs: int = 2, **options: object
) -> tuple[LitPerceptron, L.Trainer, list[float]]:
    model = LitPerceptron(in_features=64, **options)
    log = CSVLogger(root)
    fitted = trainer(device, root, max_epochs=n_epochs, precision="64-true", logger=log, log_every_n_steps=1)
    fitted.fit(model, digits(N, batch_size, scaling="raw"))
    counts = [row["train_errors"] for row in figures(Path(log.log_dir)) if "train_errors" in row]
    return model, fitted, counts


@pytest.mark.parametrize("bipolar", [False, True], ids=["binary", "bipolar"])
@pytest.mark.parametrize("lr", [1.0, 0.5])
def test_training_is_the_rule_sample_by_sample_in_the_order_of_the_loader(device, tmp_path, bipolar, lr):
    model, fitted, counts = run(device, tmp_path, lr=lr, bipolar=bipolar)
    loop, batches = Loop(lr, bipolar), epochs(digits(N, 40, scaling="raw"), 2)
    expected = [loop.learn(batches[:4]), loop.learn(batches[4:])]
    assert_same({"w": model.bank.weight.cpu(), "b": model.bank.bias.cpu()}, {"w": loop.weight, "b": loop.bias})
    for ours, theirs in zip(model.bank.averaged(), loop.averaged(), strict=True):
        assert_close(ours.cpu(), theirs)
    assert counts == expected
    assert counts[1] < counts[0]
    assert fitted.global_step == 2  # a chunk an epoch


def test_the_batch_size_changes_nothing(device, tmp_path):
    model, _, counts = run(device, tmp_path, 40)
    for batch_size in (1, 7, 1000):
        other, fitted, other_counts = run(device, tmp_path, batch_size)
        assert_same(state(other), state(model))
        assert other_counts == counts
        assert fitted.global_step == 2 * -(-N // (1000 * batch_size))


@pytest.mark.parametrize("average", [False, True], ids=["last", "averaged"])
def test_predictions_are_of_the_last_or_of_the_averaged_weights(device, tmp_path, average):
    model, fitted, _ = run(device, tmp_path, average=average)
    data = digits(N, 40, scaling="raw")
    fitted.test(model, data, verbose=False)
    found = dict(fitted.callback_metrics)
    ((x, labels),) = data.test_dataloader()
    x, labels = x.cpu().double(), labels.cpu()  # Lightning has moved the model there
    last = x @ model.bank.weight.T + model.bank.bias
    weight, bias = model.bank.averaged()
    averaged = x @ weight.T + bias
    assert (last.argmax(1) != averaged.argmax(1)).any()  # it matters
    expected = averaged if average else last
    accuracy = (expected.argmax(1) == labels).double().mean().item()
    assert found["test_acc"].item() == pytest.approx(accuracy, abs=1e-7)
    (predicted,) = fitted.predict(model, data)
    torch.testing.assert_close(predicted.cpu(), expected.argmax(1))
    d = (labels[:, None] == torch.arange(10)).double()
    criterion = (((expected >= 0).double() - d) * expected).sum(1).mean()
    assert_close(found["test_loss"].cpu().double(), criterion, 5e-6)


def test_the_command_keeps_the_best_and_the_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit("--config", CONFIGS / "perceptron.yaml", "--data.name=digits", "--trainer.max_epochs=4")
    rows = figures(Path("runs/LitPerceptron/version_0"))
    kept = {name: read_checkpoint(f"runs/LitPerceptron/version_0/checkpoints/{name}.ckpt") for name in ("best", "last")}
    steps = [row["step"] + 1 for row in rows if "val_acc" in row]
    accuracies = [row["val_acc"] for row in rows if "val_acc" in row]
    assert steps == [1, 2, 3, 4]
    assert kept["last"]["global_step"] == 4
    assert kept["best"]["global_step"] == steps[accuracies.index(max(accuracies))]
    assert sum("train_errors" in row for row in rows) == 4


class Several:
    world_size, precision = 2, "32-true"


class Reduced:
    world_size, precision = 1, "bf16-mixed"


@pytest.mark.parametrize(("with_trainer", "argument"), [(Several(), "devices"), (Reduced(), "precision")])
def test_what_the_sequential_rule_cannot_be_true_to_is_refused(with_trainer, argument):
    with pytest.raises(ArgumentError, match="for the perceptron") as caught:
        LitPerceptron().check_trainer(with_trainer)
    assert caught.value.argument == argument


def test_a_trainer_is_looked_at_before_training(device, tmp_path):
    with pytest.raises(ArgumentError, match="precision must be 32-true or 64-true"):
        trainer(device, tmp_path, precision="bf16-mixed").fit(LitPerceptron(in_features=64), digits(N, 40))


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), "1"])
def test_a_wrong_learning_rate_is_refused(lr):
    for refuse in (lambda: LitPerceptron(lr=lr), lambda: PerceptronRule(PerceptronBank(2, 1), lr=lr)):
        with pytest.raises(ArgumentError, match=r"^lr must be a number greater than 0"):
            refuse()


def test_the_rule_is_an_optimizer(device):
    bank = PerceptronBank(2, 1, device=device)
    rule, called = PerceptronRule(bank, lr=0.5), []
    x, labels = torch.tensor([[1.0, 2.0]], device=device), torch.tensor([0], device=device)
    error = rule.step(lambda: called.append(True), x=x, labels=labels)
    assert called == [True]
    assert error.tolist() == [[1.0]]  # u = 0 counts as the positive class, and the label is the other
    assert bank.weight.tolist() == [[-0.5, -1.0]]
    assert bank.bias.tolist() == [-0.5]
    assert rule.param_groups[0]["lr"] == 0.5
