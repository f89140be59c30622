import math

import pytest
import torch

from nnlab.ops import ACTIVATIONS, relu_backward, relu_forward, sigmoid_forward, tanh_backward, tanh_forward
from nnlab.validation import ArgumentError
from tests.ops.oracles import OPS, Case, check_autograd, check_central_differences, check_precision, pairs
from tests.tolerances import assert_close

NAMES = ["identity", "sigmoid", "tanh", "relu"]


@pytest.mark.parametrize(
    ("name", "u", "z", "slope"),
    [
        # σ(ln 3) = 1 / (1 + 1/3) = 3/4, σ' = 3/4 · 1/4 = 3/16
        ("sigmoid", [0.0, math.log(3), -math.log(3)], [0.5, 0.75, 0.25], [0.25, 0.1875, 0.1875]),
        # tanh(ln 2) = (2 − 1/2) / (2 + 1/2) = 3/5, tanh' = 1 − 9/25 = 16/25
        ("tanh", [0.0, math.log(2), -math.log(2)], [0.0, 0.6, -0.6], [1.0, 0.64, 0.64]),
        ("relu", [-2.0, 0.0, -0.0, 3.0], [0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]),
        ("identity", [-2.0, 0.0, 3.0], [-2.0, 0.0, 3.0], [1.0, 1.0, 1.0]),
    ],
)
def test_by_hand(name, u, z, slope, dtype, device):
    u, z, slope = (torch.tensor(v, dtype=dtype, device=device) for v in (u, z, slope))
    assert_close(ACTIVATIONS[name].forward(u), z)
    assert_close(ACTIVATIONS[name].backward(3 * torch.ones_like(z), z), 3 * slope)


def test_the_worked_example_of_the_chapter(dtype, device):
    # two decimals as printed: tanh(0.7, 1, −1.48) = (0.60, 0.76, −0.90); tanh(−0.803) = −0.666
    u = torch.tensor([0.7, 1.0, -1.48, -0.803], dtype=dtype, device=device)
    assert_close(tanh_forward(u), u.new_tensor([0.604, 0.762, -0.901, -0.666]), relative=1e-3)
    # δ3 = (y − t)(1 − y²) = (−0.666 − 1)(1 − 0.666²) = −0.927; δ2 = 2 · (−0.927) · (1 − 0.9015²) = −0.347 (the rounded
    # z = 0.9 of the chapter's line would give −0.352); δ1 = −0.347 · (1, −3) · (1 − 0.604², 1 − 0.762²)
    grad = u.new_tensor([-0.347, 1.041, -1.854, -1.666])
    z = u.new_tensor([0.6044, 0.7616, -0.9015, -0.666])
    assert_close(tanh_backward(grad, z), u.new_tensor([-0.220, 0.438, -0.347, -0.927]), relative=2e-3)


@pytest.mark.parametrize(("name", "case"), pairs(*NAMES), ids=str)
def test_agrees_with_autograd(name: str, case: Case, dtype, device):
    check_autograd(OPS[name], case, dtype, device)


@pytest.mark.parametrize(("name", "case"), pairs(*NAMES, smooth=True), ids=str)
def test_agrees_with_central_differences(name: str, case: Case, device):
    check_central_differences(OPS[name], case, device)


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "case"), pairs(*NAMES), ids=str)
def test_as_precise_as_torch(name: str, case: Case, low, device):
    check_precision(OPS[name], case, low, device)


def test_sigmoid_has_its_two_forms_and_never_overflows(dtype, device):
    u = torch.linspace(-30, 30, 61, dtype=dtype, device=device)
    assert_close(sigmoid_forward(u), 1 / (1 + torch.exp(-u)))
    assert_close(sigmoid_forward(u), torch.exp(u) / (1 + torch.exp(u)))
    assert_close(tanh_forward(u), 2 * sigmoid_forward(2 * u) - 1)
    far = u.new_tensor([-1e4, 1e4])
    assert sigmoid_forward(far).tolist() == [0.0, 1.0]


def test_relu_has_no_slope_at_zero(dtype, device):
    z = relu_forward(torch.tensor([0.0, -0.0, 1e-30], dtype=dtype, device=device))
    assert relu_backward(torch.ones_like(z), z).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_every_activation_is_known_by_its_name(name):
    assert ACTIVATIONS[name] == (OPS[name].forward, OPS[name].backward)
    assert len(ACTIVATIONS) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_cotangent_that_would_broadcast_is_refused(name, dtype, device):
    z = torch.zeros(4, 3, dtype=dtype, device=device)
    with pytest.raises(ArgumentError, match=r"^z must have the shape of grad_output, \(3,\), got \(4, 3\)$"):
        ACTIVATIONS[name].backward(z[0], z)
