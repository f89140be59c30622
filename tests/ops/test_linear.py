import pytest
import torch

from nnlab.ops import linear_backward, linear_backward_input, linear_backward_parameters, linear_forward
from nnlab.validation import ArgumentError
from tests.ops.oracles import (
    CASES,
    OPS,
    Case,
    check_autograd,
    check_central_differences,
    check_precision,
    contiguous,
    normal,
)
from tests.tolerances import assert_close

each_case = pytest.mark.parametrize("case", CASES["linear"], ids=str)


def test_by_hand(dtype, device):
    # u = 1·3 + 2·(−1) + 0.5 = 1.5 for the first unit, 1·0 + 2·4 − 1 = 7 for the second; likewise for x = (−1, 1):
    # −3 − 1 + 0.5 = −3.5 and 0 + 4 − 1 = 3
    x, weight, bias = [[1.0, 2.0], [-1.0, 1.0]], [[3.0, -1.0], [0.0, 4.0]], [0.5, -1.0]
    x, weight, bias = (torch.tensor(v, dtype=dtype, device=device) for v in (x, weight, bias))
    assert_close(linear_forward(x, weight, bias), x.new_tensor([[1.5, 7.0], [-3.5, 3.0]]))
    # δ = (1, 10) and (2, 20): ∂E/∂x = δ W = (3, −1 + 40) and (6, −2 + 80);
    # ∂E/∂W = δᵀ x = [1·(1, 2) + 2·(−1, 1), 10·(1, 2) + 20·(−1, 1)] = [(−1, 4), (−10, 40)]; ∂E/∂b = (3, 30)
    grad_x, grad_weight, grad_bias = linear_backward(x.new_tensor([[1.0, 10.0], [2.0, 20.0]]), x, weight)
    assert_close(grad_x, x.new_tensor([[3.0, 39.0], [6.0, 78.0]]))
    assert_close(grad_weight, x.new_tensor([[-1.0, 4.0], [-10.0, 40.0]]))
    assert_close(grad_bias, x.new_tensor([3.0, 30.0]))


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
    _, grad_weight, grad_bias = linear_backward(t([-0.22, 0.438]), t([2.0]), t([0.3], [0.4]))
    assert_close(grad_bias, t(-0.22, 0.438))
    assert_close(grad_weight, t([-0.44], [0.876]))
    assert_close(linear_backward_input(t([-0.347]), t([1.0, -3.0])), t([-0.347, 1.041]))


@each_case
def test_agrees_with_autograd(case: Case, dtype, device):
    check_autograd(OPS["linear"], case, dtype, device)


@each_case
def test_agrees_with_central_differences(case: Case, device):
    check_central_differences(OPS["linear"], case, device)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", [*CASES["linear"], Case("large", (normal(101, 784), normal(97, 784), normal(97)))])
def test_as_precise_as_torch(case: Case, low, device):
    check_precision(OPS["linear"], case, low, device)


@each_case
def test_the_halves_are_the_whole(case: Case, dtype, device):
    x, weight, bias = case.on(dtype, device)
    grad = torch.randn_like(linear_forward(x, weight, bias))
    whole = linear_backward(grad, x, weight)
    halves = linear_backward_input(grad, weight), *linear_backward_parameters(grad, x)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_an_empty_batch_has_zero_gradients(dtype, device):
    x, weight, bias = Case("N=0", (normal(0, 5), normal(3, 5), normal(3)), contiguous).on(dtype, device)
    u = linear_forward(x, weight, bias)
    assert u.shape == (0, 3)
    grad_x, grad_weight, grad_bias = linear_backward(u, x, weight)
    assert grad_x.shape == (0, 5)
    assert torch.equal(grad_weight, torch.zeros_like(weight))
    assert torch.equal(grad_bias, torch.zeros_like(bias))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((5, 3), (2, 4), (2,)), r"^weight must have shape \(O, I\) with I = 3 as in x, got \(2, 4\)$"),
        (((5, 3), (2, 3), (3,)), r"^bias must have shape \(O,\) with O = 2 as in weight, got \(3,\)$"),
        (((5, 3), (2, 3), (1, 2)), r"^bias must have shape \(O,\) .* got \(1, 2\)$"),
        (((3,), (2, 3), (2,)), r"^x must have shape \(N, I\), got \(3,\)$"),
    ],
)
def test_a_forward_shape_that_does_not_fit_is_named(shapes, message, dtype, device):
    with pytest.raises(ArgumentError, match=message):
        linear_forward(*(torch.zeros(s, dtype=dtype, device=device) for s in shapes))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((5, 2), (4, 3), (2, 3)), r"^x must have shape \(N, I\) with N = 5 as in grad_output, got \(4, 3\)$"),
        (((5, 2), (5, 3), (3, 2)), r"^weight must have .* O = 2 as in grad_output and I = 3 as in x, got \(3, 2\)$"),
        (((5,), (5, 3), (2, 3)), r"^grad_output must have shape \(N, O\), got \(5,\)$"),
    ],
)
def test_a_backward_shape_that_does_not_fit_is_named(shapes, message, dtype, device):
    with pytest.raises(ArgumentError, match=message):
        linear_backward(*(torch.zeros(s, dtype=dtype, device=device) for s in shapes))
