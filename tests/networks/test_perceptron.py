"""The perceptron bank: the sequential rule, its averages, and the same updates on every device."""

import pytest
import torch

from nnlab.networks import PerceptronBank
from nnlab.ops import bipolar_step, perceptron_rule, step
from nnlab.validation import ArgumentError


def problem(n: int, n_features: int, n_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (n, n_features), generator=generator).double()
    return x, torch.randint(0, n_classes, (n,), generator=generator)


@pytest.mark.parametrize("bipolar", [False, True])
@pytest.mark.parametrize(("n_classes", "n_units"), [(2, 1), (5, 5)])
def test_learns_as_the_rule_says_and_averages_every_weight(
    device: torch.device, bipolar: bool, n_classes: int, n_units: int
) -> None:
    x, labels = (t.to(device) for t in problem(150, 7, n_classes, seed=3))
    bank = PerceptronBank(7, n_units, bipolar=bipolar, dtype=torch.float64, device=device)
    errors = torch.cat([bank.learn_(x[:70], labels[:70], lr=0.5), bank.learn_(x[70:], labels[70:], lr=0.5)])
    # the definition: one sample at a time, and the plain mean of all weights
    weight, bias = torch.zeros(n_units, 7, dtype=torch.float64), torch.zeros(n_units, dtype=torch.float64)
    weights, biases, expected = [], [], []
    for x_n, label in zip(x.cpu(), labels.cpu(), strict=True):
        high = (torch.arange(n_units) == label) if n_units > 1 else label[None] == 1
        d = high.double() * 2 - 1 if bipolar else high.double()
        error, weight, bias = perceptron_rule(x_n[None], d[None], weight, bias, 0.5, bipolar_step if bipolar else step)
        weights.append(weight)
        biases.append(bias)
        expected.append(error)
    assert torch.equal(errors.cpu(), torch.cat(expected))
    assert torch.equal(bank.weight.cpu(), weight)
    assert torch.equal(bank.bias.cpu(), bias)
    mean_weight, mean_bias = bank.averaged()
    torch.testing.assert_close(mean_weight.cpu(), torch.stack(weights).mean(0), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(mean_bias.cpu(), torch.stack(biases).mean(0), rtol=1e-12, atol=1e-9)


@pytest.mark.cuda
def test_on_integers_cuda_equals_the_cpu_update_for_update() -> None:
    x, labels = problem(2000, 31, 10, seed=0)
    banks = [PerceptronBank(31, 10, dtype=torch.float64, device=d) for d in ("cpu", "cuda")]
    errors = [b.learn_(x.to(b.weight.device), labels.to(b.weight.device), lr=1.0).cpu() for b in banks]
    assert torch.equal(*errors)
    for name, value in banks[0].state_dict().items():
        assert torch.equal(banks[1].state_dict()[name].cpu(), value), name


def test_prediction_of_one_unit_and_of_a_bank(device: torch.device) -> None:
    one = PerceptronBank(2, 1, device=device)
    one.load_state_dict(one.state_dict() | {"weight": torch.tensor([[1.0, -1.0]])})
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=device)  # u = 1, −1, 0
    assert one.predict(x).tolist() == [1, 0, 1]
    bank = PerceptronBank(2, 3, device=device)
    bank.load_state_dict(bank.state_dict() | {"weight": torch.tensor([[-9.0, 0.0], [1.0, 2.0], [2.0, 1.0]])})
    # the surest "no" of unit 0 must not win, and a tie goes to the first
    assert bank.predict(x).tolist() == [2, 1, 1]


def test_the_average_before_any_sample_is_the_start() -> None:
    weight, bias = PerceptronBank(3, 2).averaged()
    assert not weight.any()
    assert not bias.any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "labels must hold labels from 0 to 2, got 3"),
        (torch.tensor([0.0, 1.0]), "labels must hold class labels as int64, got float32"),
        (torch.tensor([0]), r"labels must have shape \(N,\) with N = 2, got \(1,\)"),
    ],
)
def test_bad_labels_change_nothing(device: torch.device, labels: torch.Tensor, message: str) -> None:
    bank = PerceptronBank(2, 3, device=device)
    with pytest.raises(ArgumentError, match=message):
        bank.learn_(torch.ones(2, 2, device=device), labels.to(device), lr=1.0)
    assert not bank.weight.any()
    assert bank.n_samples == 0
