"""Step functions, prediction and the learning rule, by hand, in plain Python, and on the chapter's data."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from nnlab.ops import (
    bipolar_step,
    gradient_descent,
    linear_backward_parameters,
    linear_forward,
    perceptron_loss_backward,
    perceptron_predict,
    perceptron_rule,
    step,
)
from nnlab.validation import ArgumentError
from tests.ops.oracles import check_rule, float_problem, integer_problem
from tests.tolerances import assert_close


def test_the_step_functions_by_hand(dtype, device):
    u = torch.tensor([-1e4, -1e-30, -0.0, 0.0, 1e-30, 1e4], dtype=dtype, device=device)
    assert_close(step(u), u.new_tensor([0, 0, 1, 1, 1, 1]))
    assert_close(bipolar_step(u), u.new_tensor([-1, -1, 1, 1, 1, 1]))


def test_the_perceptron_of_the_chapter_fires_when_two_of_its_three_inputs_do(dtype, device):
    # weights 0.3, θ = 0.4: u = 0.3 · (number of ones) − 0.4 = −0.4, −0.1, 0.2, 0.5
    x = torch.tensor(list(product([0.0, 1.0], repeat=3)), dtype=dtype, device=device)
    u = linear_forward(x, x.new_full((1, 3), 0.3), x.new_tensor([-0.4]))
    ones = x.sum(1, keepdim=True)
    assert_close(u, 0.3 * ones - 0.4)
    assert torch.equal(step(u), (ones >= 2).to(dtype))
    assert torch.equal(bipolar_step(u), 2 * (ones >= 2).to(dtype) - 1)
    assert perceptron_predict(u).tolist() == [0, 0, 0, 1, 0, 1, 1, 1]  # 000, 001, 010, 011, 100, 101, 110, 111


def test_the_rule_by_hand(dtype, device):
    # start w = (0, 0), b = −θ = 0, η = 0.5, g the step
    # x = (1, 2), d = 1: u = 0, y = 1, right. x = (3, 1), d = 0: u = 0, y = 1, w = −0.5 · 1 · (3, 1), b = −0.5.
    # x = (1, 2), d = 1: u = −1.5 − 1 − 0.5 = −3, y = 0, w = (−1.5, −0.5) + 0.5 · (1, 2) = (−1, 0.5), b = 0.
    # x = (3, 1), d = 0: u = −3 + 0.5 = −2.5, y = 0, right.
    x = torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=dtype, device=device).repeat(2, 1)
    d = x.new_tensor([[1.0], [0.0]]).repeat(2, 1)
    error, weight, bias = perceptron_rule(x, d, x.new_zeros(1, 2), x.new_zeros(1), 0.5)
    assert error.flatten().tolist() == [0.0, 1.0, -1.0, 0.0]
    assert weight.tolist() == [[-1.0, 0.5]]
    assert bias.tolist() == [0.0]
    # with the bipolar step the error is ±2, so that the same η changes twice as much
    error, weight, bias = perceptron_rule(x, 2 * d - 1, x.new_zeros(1, 2), x.new_zeros(1), 0.5, bipolar_step)
    assert error.flatten().tolist() == [0.0, 2.0, -2.0, 0.0]
    assert weight.tolist() == [[-2.0, 1.0]]
    assert bias.tolist() == [0.0]


def test_the_rule_is_the_one_in_plain_python(dtype, device):
    for seed in range(60):
        check_rule(perceptron_rule, seed, dtype, device)


@pytest.mark.parametrize("eta", [0.1, 0.01])
def test_the_classs_figures_on_iris(eta, device):
    data = load_iris()
    x = torch.tensor(data.data[:100, [0, 2]], dtype=torch.float64, device=device)
    target = torch.tensor(np.where(data.target[:100] == 0, -1.0, 1.0), device=device)[:, None]
    start = torch.tensor(np.random.RandomState(1).normal(0.0, 0.01, 3), device=device)
    weight, bias, updates = start[None, 1:], start[:1], []
    for _ in range(10):
        # the chapter's class updates by η (d − y) with d, y = ±1, as here
        error, weight, bias = perceptron_rule(x, target, weight, bias, eta, bipolar_step)
        updates.append(int((error != 0).sum()))
    assert updates == [1, 3, 3, 2, 1, 0, 0, 0, 0, 0]
    if eta == 0.1:
        expected = x.new_tensor([[-0.38375655, -0.70611756, 1.83471828]])
        assert_close(torch.cat([bias[None], weight], 1), expected, relative=1e-8)  # printed to 8 decimals


@pytest.mark.parametrize("g", [step, bipolar_step])
def test_one_sample_is_one_step_down_the_gradient(g, dtype, device):
    for seed in range(20):
        x, _, weight, bias, lr, _ = integer_problem(seed, dtype, device)
        d = g(torch.randn(len(x), len(weight), dtype=dtype, device=device))
        w, b = (p.clone().requires_grad_() for p in (weight, bias))
        u = torch.nn.functional.linear(x[:1], w, b)
        y = g(u).detach()
        ((y - d[:1]) * u).sum().backward()
        error, new_weight, new_bias = perceptron_rule(x[:1], d[:1], weight, bias, lr, g)
        assert torch.equal(error, y - d[:1])
        assert torch.equal(new_weight, weight - lr * w.grad)
        assert torch.equal(new_bias, bias - lr * b.grad)
        # and the same from the package's own criterion, layer and update
        delta = perceptron_loss_backward(u.new_tensor(1.0), u.detach(), d[:1], g=g)
        grad_weight, grad_bias = linear_backward_parameters(delta, x[:1])
        assert torch.equal(new_weight, gradient_descent(weight, grad_weight, lr))
        assert torch.equal(new_bias, gradient_descent(bias, grad_bias, lr))


@pytest.mark.parametrize("g", [step, bipolar_step])
def test_the_units_learn_apart_from_each_other(g, dtype, device):
    x, _, weight, bias, lr, _ = float_problem(5, dtype, device)
    target = g(torch.randn(len(x), 10, dtype=dtype, device=device))
    weight, bias = torch.randn(10, x.shape[1], dtype=dtype, device=device), torch.randn(10, dtype=dtype, device=device)
    together = perceptron_rule(x, target, weight, bias, lr, g)
    for k in range(10):
        alone = perceptron_rule(x, target[:, k : k + 1], weight[k : k + 1], bias[k : k + 1], lr, g)
        assert torch.equal(together[0][:, k : k + 1], alone[0])
        assert_close(together[1][k : k + 1], alone[1])


def left_to_right(x, target, weight, bias, lr, backwards=False):
    """The rule in Python's own floats, which are float64; updates in the dtype of the weights."""
    errors = []
    for x_n, d in zip(x, target, strict=True):
        y = []
        for w, b in zip(weight.tolist(), bias.tolist(), strict=True):
            u = b
            for w_i, x_i in list(zip(w, x_n.tolist(), strict=True))[:: -1 if backwards else 1]:
                u = u + w_i * x_i
            y.append(float(u >= 0))
        errors.append(torch.tensor(y, dtype=d.dtype) - d)
        weight, bias = weight - lr * errors[-1][:, None] * x_n, bias - lr * errors[-1]
    return torch.stack(errors), weight, bias


LAYOUTS = {"rows": lambda t: t, "columns": lambda t: t.T.contiguous().T, "strided": lambda t: t.repeat(1, 2)[:, ::2]}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_units", [1, 3, 10])
def test_net_inputs_are_summed_from_left_to_right_in_float64(n_units, layout, dtype):
    others = 0
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(20, 12, generator=draw).to(dtype) * 2.0 ** torch.randint(-20, 20, (20, 12), generator=draw)
        x[:, 6:] = 4 * x[:, :6]
        half = torch.randn(n_units, 6, generator=draw).to(dtype)
        weight = torch.cat([half, -half / 4], 1)  # w·x is 0 but for rounding
        target = torch.randint(0, 2, (20, n_units), generator=draw).to(dtype)
        problem = LAYOUTS[layout](x), target, LAYOUTS[layout](weight), weight.new_zeros(n_units), 1e-30
        for ours, expected in zip(perceptron_rule(*problem), left_to_right(*problem), strict=True):
            assert torch.equal(ours, expected)
        others += int((left_to_right(*problem, backwards=True)[0] != left_to_right(*problem)[0]).sum())
    assert others > 0  # so the order does show in these problems


def test_no_samples_change_nothing(dtype, device):
    x, weight, bias = (torch.ones(s, dtype=dtype, device=device) for s in ((0, 3), (2, 3), (2,)))
    error, new_weight, new_bias = perceptron_rule(x, x[:, :2], weight, bias, 1.0)
    assert error.shape == (0, 2)
    assert torch.equal(new_weight, weight)
    assert torch.equal(new_bias, bias)


@pytest.mark.parametrize("g", [step, bipolar_step])
def test_it_converges_within_the_bound_of_novikoff(g, device):
    """From zero, on data that a unit vector separates with margin γ, at most (R / γ)² samples are ever misjudged."""
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        separator = torch.tensor([3.0, -2.0, 1.0, 2.0])  # the last is the bias; the constant input is 1
        x = torch.randint(-6, 7, (80, 3), generator=draw).float()
        score = torch.cat([x, torch.ones(len(x), 1)], 1) @ separator
        x, score = x[score.abs() >= 3], score[score.abs() >= 3]
        margin = score.abs().min() / separator.norm()
        radius = torch.cat([x, torch.ones(len(x), 1)], 1).norm(dim=1).max()
        x, target = x.to(device), g(score)[:, None].to(device)
        weight, bias, mistakes = x.new_zeros(1, 3), x.new_zeros(1), 0
        for _ in range(1000):
            error, weight, bias = perceptron_rule(x, target, weight, bias, 1.0, g)
            if not error.any():
                break
            mistakes += int((error != 0).sum())
        assert not error.any()
        assert torch.equal(g(linear_forward(x, weight, bias)), target)
        assert 0 < mistakes <= (radius / margin) ** 2


@pytest.mark.parametrize(
    ("u", "labels"),
    [
        ([[-1.0], [-0.0], [0.0], [1e-30], [-1e-30]], [0, 1, 1, 1, 0]),  # one unit: a score of exactly 0 is positive
        ([[-5.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -3.0, -1.0]], [1, 0, 0]),  # of equals the lowest
        ([[-9.0, -1.0], [-9.0, 1.0], [2.0, -9.0]], [1, 1, 0]),  # the largest, not the largest absolute
    ],
)
def test_prediction_by_hand(u, labels, dtype, device):
    predicted = perceptron_predict(torch.tensor(u, dtype=dtype, device=device))
    assert predicted.dtype == torch.int64
    assert predicted.tolist() == labels


def test_prediction_breaks_every_tie_downwards(dtype, device):
    u = torch.randint(-1, 2, (500, 10), device=device).to(dtype)
    assert perceptron_predict(u).tolist() == [row.index(max(row)) for row in u.tolist()]


# ---- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_that_learns_nothing_is_refused(lr):
    x, target, weight, bias, _, g = integer_problem(0, torch.float32, torch.device("cpu"))
    with pytest.raises(ArgumentError, match=f"^lr must be a number greater than 0, got {lr}$"):
        perceptron_rule(x, target, weight, bias, lr, g)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda t: t[0], r"^x must have shape \(N, I\), got "),
        ("target", lambda t: t[:-1], r"^target must have shape \(N, K\) with N = \d+ as in x, got "),
        ("target", lambda t: t[:, 0].long(), "^target must have the dtype of x, .*, got int64$"),
        ("target", lambda t: t + 0.5, "^target must hold 0 and 1 alone, got "),
        ("weight", lambda t: t[:, :-1], r"^weight must have shape \(K, I\) with K = \d+ as in target and I = \d+ as"),
        ("bias", lambda t: t[None], r"^bias must have shape \(K,\) with K = \d+ as in target, got "),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, change, message, device):
    if "0 and 1 alone" in message and device.type == "cuda":
        pytest.skip("values are read on a CPU only")
    arguments = integer_problem(0, torch.float64, device)._asdict()
    with pytest.raises(ArgumentError, match=message):
        perceptron_rule(**{**arguments, name: change(arguments[name])})


def test_scores_of_another_shape_or_of_no_unit_are_refused(device):
    with pytest.raises(ArgumentError, match=r"^u must have shape \(N, K\), got \(3,\)$"):
        perceptron_predict(torch.zeros(3, device=device))
    with pytest.raises(ArgumentError, match=r"^u must have at least 1 unit, got 0$"):
        perceptron_predict(torch.zeros(3, 0, device=device))
