"""A right gradient is never refused, whatever the function: kinks, domains, large values, both dtypes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnlab import ops
from nnlab.verify import check_gradients
from nnlab.verify.backprop import Steps, backward_of
from nnlab.verify.subjects import KINDS, subject


@pytest.mark.parametrize(
    "seeds", [range(700, 704), pytest.param(range(704, 726), marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_random_operations_and_networks(kind: str, dtype: torch.dtype, seeds: range):
    for seed in seeds:
        case = subject(kind, seed, dtype)
        report = check_gradients(case.forward, backward_of(case, Steps()), case.inputs, dtype=dtype, seed=seed)
        assert report.ok, f"seed {seed}: {report}"
        assert report.diagnosis == ""


@pytest.mark.parametrize("n_in_a_row", [1, 2])
@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_the_packages_activations_from_zeros_and_integers(name: str, n_in_a_row: int):
    row = ops.ACTIVATIONS[name]
    u = torch.tensor([[0.0, -0.0, 1.0, -2.0], [0.0, 3.0, -1.0, 1e-30]])[:n_in_a_row]
    report = check_gradients(row.forward, lambda g, u: row.backward(g, u if row.saves == "u" else row.forward(u)), [u])
    assert report.ok, report


def softmax(g: Tensor, u: Tensor) -> Tensor:
    s = torch.softmax(u, 1)
    return s * (g - (g * s).sum(1, keepdim=True))


def layer_norm(g: Tensor, x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    scale = (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    z = centred / scale
    return (g - g.mean(1, keepdim=True) - z * (g * z).mean(1, keepdim=True)) / scale


def largest(g: Tensor, x: Tensor) -> Tensor:
    return g[:, None] * functional.one_hot(x.argmax(1), x.shape[1])


def cleared(x: Tensor) -> Tensor:
    y = x.clone()
    y[0] = 0
    return y.mul_(2)


def doubled_in_place(x: Tensor) -> Tensor:
    x.mul_(2)
    return x.tanh()


PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Tensor]] = {
    "log": (torch.log, lambda g, x: g / x, torch.rand(5) + 0.5),
    "sqrt": (torch.sqrt, lambda g, x: g / (2 * x.sqrt()), torch.rand(5) + 0.5),
    "abs, +1 at 0": (torch.abs, lambda g, x: g * torch.where(x >= 0, 1.0, -1.0), torch.randn(5)),
    "abs, 0 at 0": (torch.abs, lambda g, x: g * x.sign(), torch.randn(5)),
    "the largest, by values": (lambda x: x.max(1).values, largest, torch.randn(5, 4)),
    "the largest, by amax": (lambda x: x.amax(1), largest, torch.randn(5, 4)),
    "relu by clamp": (lambda x: x.clamp(min=0), lambda g, x: g * (x > 0), torch.randn(5, 4)),
    "relu by maximum": (lambda x: torch.maximum(x, 0 * x), lambda g, x: g * (x > 0), torch.randn(5, 4)),
    "relu by where": (lambda x: torch.where(x >= 0, x, 0), lambda g, x: g * (x > 0), torch.randn(5, 4)),
    "softmax": (lambda u: torch.softmax(u, 1), softmax, torch.randn(5, 4)),
    "layer norm": (lambda x: functional.layer_norm(x, (6,)), layer_norm, torch.randn(5, 6)),
    ".item()": (lambda x: x * x.sum().item(), lambda g, x: g * x.sum() + (g * x).sum(), torch.randn(4)),
    "in place": (cleared, lambda g, x: torch.cat([0 * g[:1], 2 * g[1:]]), torch.randn(4)),
    "its input in place": (doubled_in_place, lambda g, x: 2 * g * (1 - torch.tanh(2 * x) ** 2), torch.randn(4)),
    "NumPy inside": (lambda x: torch.from_numpy(np.sin(x.numpy())), lambda g, x: g * x.cos(), torch.randn(4)),
    "a step": (lambda x: (x > 0).to(x.dtype) + 0 * x, lambda g, x: 0 * g, torch.randn(4)),
    "no entries": (torch.tanh, lambda g, x: g, torch.randn(0, 3)),
    "a scalar": (torch.tanh, lambda g, x: g * (1 - x.tanh() ** 2), torch.tensor(0.3)),
    "a list": (torch.tanh, lambda g, x: [g * (1 - x.tanh() ** 2)], torch.randn(4)),
    "an array": (torch.tanh, lambda g, x: (g * (1 - x.tanh() ** 2)).numpy(), torch.randn(4)),
    "nothing to learn": (lambda x: x * 0, lambda g, x: g * 0, torch.randn(3, 2)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_ones_own(name: str):
    forward, backward, x = PAIRS[name]
    for seed in range(5):
        report = check_gradients(forward, backward, [x], seed=seed)
        assert report.ok, report


def test_numpy_functions_of_arrays():
    def forward(x, w):
        return 1 / (1 + np.exp(-x @ w))

    def backward(g, x, w):
        assert isinstance(g, np.ndarray)
        assert isinstance(x, np.ndarray)
        y = forward(x, w)
        delta = g * y * (1 - y)
        return delta @ w.T, x.T @ delta

    draw = np.random.default_rng(0)
    report = check_gradients(forward, backward, [draw.normal(size=(4, 3)), draw.normal(size=(3, 2))])
    assert report.ok
    assert all(row.autograd is None and row.central < 1e-8 for row in report.rows)
    assert any("central differences judge" in note for note in report.notes)


def test_what_is_not_differentiated_stays_as_it_is():
    labels, seen = torch.tensor([0, 2, 1]), []

    def forward(u, target, reduction, weight):
        return ops.softmax_cross_entropy_forward(u, target, reduction, weight)

    def backward(g, u, target, reduction, weight):
        seen.append((target.tolist(), reduction, weight.tolist()))
        return ops.softmax_cross_entropy_backward(g, u, target, reduction, weight), None, None, None

    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    assert check_gradients(forward, backward, [torch.randn(3, 4), labels, "mean", weight]).ok
    assert set(map(str, seen)) == {str(([0, 2, 1], "mean", [1.0, 2.0, 0.5]))}


def test_a_constant_in_float32_inside_the_forward():
    matrix = torch.randn(4, 3)
    report = check_gradients(lambda x: x @ matrix, lambda g, x: g @ matrix.T, [torch.randn(5, 4)], dtype=torch.float32)
    assert report.ok, report


def test_torchs_own_random_numbers_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x = torch.randn(3)
    kept, state = x.clone(), torch.get_rng_state()
    check_gradients(torch.tanh, lambda g, x: g, [x])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(before, state)
    assert torch.equal(x, kept)


def test_the_same_seed_gives_the_same_report():
    x = torch.randn(4, 3)
    first, again = (check_gradients(torch.tanh, lambda g, x: g * x, [x], seed=3) for _ in range(2))
    assert first.to_dict() == again.to_dict()


@pytest.mark.cuda
def test_on_a_gpu():
    for kind in KINDS:
        case = subject(kind, 3)
        inputs = [v.cuda() if isinstance(v, Tensor) else v for v in case.inputs]
        report = check_gradients(case.forward, backward_of(case, Steps()), inputs)
        assert report.ok, report
