"""The linear layer, dropout, the penalty and the step of gradient descent: by hand, and what they refuse."""

import math

import pytest
import torch

from nnlab.ops import (
    dropout_backward,
    dropout_forward,
    gradient_descent,
    l2_penalty_backward,
    l2_penalty_forward,
    linear_backward,
    linear_backward_parameters,
    linear_forward,
)
from nnlab.validation import ArgumentError
from nnlab.verify.optable import Case
from tests.ops.oracles import OPERATIONS, check_precision
from tests.tolerances import assert_close


def test_by_hand(dtype, device):
    # u = 1·3 + 2·(−1) + 0.5 = 1.5 for the first unit, 1·0 + 2·4 − 1 = 7 for the second; likewise for x = (−1, 1):
    # −3 − 1 + 0.5 = −3.5 and 0 + 4 − 1 = 3
    x, weight, bias = [[1.0, 2.0], [-1.0, 1.0]], [[3.0, -1.0], [0.0, 4.0]], [0.5, -1.0]
    x, weight, bias = (torch.tensor(v, dtype=dtype, device=device) for v in (x, weight, bias))
    assert_close(linear_forward(x, weight, bias), x.new_tensor([[1.5, 7.0], [-3.5, 3.0]]))
    # δ = (1, 10) and (2, 20): ∂E/∂x = δ W = (3, −1 + 40) and (6, −2 + 80);
    # ∂E/∂W = δᵀ x = [1·(1, 2) + 2·(−1, 1), 10·(1, 2) + 20·(−1, 1)] = [(−1, 4), (−10, 40)]; ∂E/∂b = (3, 30)
    delta = x.new_tensor([[1.0, 10.0], [2.0, 20.0]])
    grad_x, grad_weight, grad_bias = linear_backward(delta, x, weight)
    assert_close(grad_x, x.new_tensor([[3.0, 39.0], [6.0, 78.0]]))
    assert_close(grad_weight, x.new_tensor([[-1.0, 4.0], [-10.0, 40.0]]))
    assert_close(grad_bias, x.new_tensor([3.0, 30.0]))
    for half, whole in zip(linear_backward_parameters(delta, x), (grad_weight, grad_bias), strict=True):
        assert torch.equal(half, whole)
    # dropout with p = 1/2: a kept unit counts twice, in both directions
    mask = x.new_tensor([[2.0, 0.0], [0.0, 2.0]])
    assert_close(dropout_forward(x, mask), x.new_tensor([[2.0, 0.0], [0.0, 2.0]]))
    assert_close(dropout_backward(delta, mask), x.new_tensor([[2.0, 0.0], [0.0, 40.0]]))
    # λ/2 Σ w² = 0.1/2 · (9 + 1 + 0 + 16) = 1.3, and its gradient λ w under an incoming gradient of 10 is w itself
    assert_close(l2_penalty_forward(weight, 0.1), weight.new_tensor(1.3))
    assert_close(l2_penalty_backward(weight.new_tensor(10.0), weight, 0.1), weight)
    # w − η g: 0.5 − 0.25 · 2 = 0 and −1 − 0.25 · (−4) = 0; b is left as it was
    assert_close(gradient_descent(bias, bias.new_tensor([2.0, -4.0]), 0.25), torch.zeros_like(bias))
    assert bias.tolist() == [0.5, -1.0]


def test_the_worked_example_of_the_chapter(dtype, device):
    # x = 2: u1 = (0.1 + 0.3·2, 0.2 + 0.4·2) = (0.7, 1); in torch's order a row is a unit
    def t(*values):
        return torch.tensor(values, dtype=dtype, device=device)

    u1 = linear_forward(t([2.0]), t([0.3], [0.4]), t(0.1, 0.2))
    assert_close(u1, t([0.7, 1.0]))
    # u2 = 0.2 + 1·0.6044 − 3·0.7616 = −1.480
    assert_close(linear_forward(t([0.6044, 0.7616]), t([1.0, -3.0]), t(0.2)), t([-1.4804]))
    # δ1 = (−0.220, 0.438) gives ∂E/∂W1 = x0 δ1ᵀ = [[−0.22, 0.438], [−0.44, 0.876]], first row the bias's;
    # δ2 = −0.347 sends δ2 · (1, −3) = (−0.347, 1.041) to the layer below, before h'
    grad_weight, grad_bias = linear_backward_parameters(t([-0.22, 0.438]), t([2.0]))
    assert_close(grad_bias, t(-0.22, 0.438))
    assert_close(grad_weight, t([-0.44], [0.876]))
    assert_close(linear_backward(t([-0.347]), t([0.6, 0.76]), t([1.0, -3.0]))[0], t([-0.347, 1.041]))


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_long_sums_are_as_precise_as_torchs(low, device):
    x, weight, bias = (torch.randn(shape, dtype=torch.float64) for shape in ((101, 784), (97, 784), (97,)))
    check_precision(OPERATIONS["linear"]._replace(cases=(Case("large", (x, weight, bias)),)), low, device)


def test_an_empty_batch_has_zero_gradients(dtype, device):
    x, weight, bias = (torch.ones(shape, dtype=dtype, device=device) for shape in ((0, 5), (3, 5), (3,)))
    u = linear_forward(x, weight, bias)
    assert u.shape == (0, 3)
    grad_x, grad_weight, grad_bias = linear_backward(u, x, weight)
    assert grad_x.shape == (0, 5)
    assert torch.equal(grad_weight, torch.zeros_like(weight))
    assert torch.equal(grad_bias, torch.zeros_like(bias))


@pytest.mark.parametrize(
    ("function", "shapes", "message"),
    [
        (linear_forward, ((5, 3), (2, 4), (2,)), r"^weight must have shape \(O, I\) with I = 3 as in x, got \(2, 4\)$"),
        (linear_forward, ((5, 3), (2, 3), (1, 2)), r"^bias must have shape \(O,\) .* got \(1, 2\)$"),
        (linear_forward, ((3,), (2, 3), (2,)), r"^x must have shape \(N, I\), got \(3,\)$"),
        (linear_backward, ((5, 2), (4, 3), (2, 3)), r"^x must have .* with N = 5 as in delta, got \(4, 3\)$"),
        (
            linear_backward,
            ((5, 2), (5, 3), (3, 2)),
            r"^weight must have shape \(O, I\) with O = 2 as in delta and I = 3 as in x, got \(3, 2\)$",
        ),
        (dropout_forward, ((5, 2), (2,)), r"^mask must have the shape of z, \(5, 2\), got \(2,\)$"),
        (gradient_descent, ((3, 2), (2,)), r"^gradient must have the shape of parameter, \(3, 2\), got \(2,\)$"),
        (l2_penalty_forward, ((3,),), r"^weight must have shape \(O, I\), got \(3,\)$"),  # biases are not penalised
    ],
)
def test_a_shape_that_does_not_fit_is_named(function, shapes, message, device):
    rest = (0.1,) if function in (gradient_descent, l2_penalty_forward) else ()
    with pytest.raises(ArgumentError, match=message):
        function(*(torch.zeros(s, device=device) for s in shapes), *rest)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_penalty_or_a_learning_rate_below_zero_is_refused(value):
    weight = torch.zeros(2, 3)
    with pytest.raises(ArgumentError, match=r"^l2 must be a number of at least 0, got"):
        l2_penalty_forward(weight, value)
    with pytest.raises(ArgumentError, match=r"^l2 must be a number of at least 0, got"):
        l2_penalty_backward(weight.new_tensor(1.0), weight, value)
    with pytest.raises(ArgumentError, match=r"^lr must be a number of at least 0, got"):
        gradient_descent(weight, weight, value)
