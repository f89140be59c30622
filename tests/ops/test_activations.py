"""Activations at numbers worked by hand, and what the table of cases does not show."""

import math

import pytest
import torch

from nnlab.ops import ACTIVATIONS, relu_backward, relu_forward, sigmoid_forward, tanh_backward, tanh_forward
from nnlab.validation import ArgumentError
from tests.tolerances import assert_close

# Φ(1) and φ(1) by the series of erf(1/√2) = √(2/π) (1 − 1/6 + 1/40 − 1/336 + …), and e^(−1/2) / √(2π)
PHI, DENSITY = 0.8413447460685429, 0.24197072451914337
BY_HAND = [
    # σ(ln 3) = 1 / (1 + 1/3) = 3/4, σ' = 3/4 · 1/4 = 3/16
    ("sigmoid", [0.0, math.log(3), -math.log(3)], [0.5, 0.75, 0.25], [0.25, 0.1875, 0.1875]),
    # tanh(ln 2) = (2 − 1/2) / (2 + 1/2) = 3/5, tanh' = 1 − 9/25 = 16/25
    ("tanh", [0.0, math.log(2), -math.log(2)], [0.0, 0.6, -0.6], [1.0, 0.64, 0.64]),
    ("relu", [-2.0, 0.0, -0.0, 3.0], [0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]),
    ("leaky_relu", [-2.0, 0.0, -0.0, 3.0], [-0.02, 0.0, 0.0, 3.0], [0.01, 0.01, 0.01, 1.0]),
    ("identity", [-2.0, 0.0, 3.0], [-2.0, 0.0, 3.0], [1.0, 1.0, 1.0]),
    # u Φ(u), and Φ(u) + u φ(u); Φ(−1) = 1 − Φ(1)
    ("gelu", [0.0, 1.0, -1.0], [0.0, PHI, PHI - 1], [0.5, PHI + DENSITY, 1 - PHI - DENSITY]),
]


@pytest.mark.parametrize(("name", "u", "z", "slope"), BY_HAND, ids=[name for name, *_ in BY_HAND])
def test_by_hand(name, u, z, slope, dtype, device):
    u, z, slope = (torch.tensor(v, dtype=dtype, device=device) for v in (u, z, slope))
    row = ACTIVATIONS[name]
    assert_close(row.forward(u), z)
    assert_close(row.backward(3 * torch.ones_like(z), u if row.saves == "u" else z), 3 * slope)


def test_every_activation_is_worked_by_hand():
    assert {name for name, *_ in BY_HAND} == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_words_of_a_row_are_its_functions(name):
    """The texts that ``nnlab trace`` fills with numbers, computed."""
    row, u = ACTIVATIONS[name], torch.tensor([-1.3, 0.7], dtype=torch.float64)
    z = row.forward(u)
    slope = row.backward(torch.ones_like(u), u if row.saves == "u" else z)
    names = {
        "e": math.e,
        "max": max,
        "tanh": math.tanh,
        "Φ": lambda u: float(torch.special.ndtr(torch.tensor(u, dtype=torch.float64))),
        "φ": lambda u: math.exp(-u * u / 2) / math.sqrt(2 * math.pi),
    }

    def computed(text: str, u: float, z: float) -> float:
        text = text.format(u=f"({u})", z=f"({z})").replace("·", "*").replace("−", "-").replace("²", "**2")
        return eval(text.replace("^", "**"), names)

    for u_n, z_n, slope_n in zip(u.tolist(), z.tolist(), slope.tolist(), strict=True):
        assert computed(row.formula, u_n, z_n) == pytest.approx(z_n, rel=1e-12)
        assert computed(row.slope, u_n, z_n) == pytest.approx(slope_n, rel=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_forms_in_place_are_the_pure_ones(name, dtype, device):
    row, u = ACTIVATIONS[name], torch.randn(7, 5, dtype=dtype, device=device)
    u[0], u[1, 0] = 0.0, -0.0
    grad_z, z = torch.randn_like(u), row.forward(u)
    delta = row.backward(grad_z, u if row.saves == "u" else z)
    buffer, gradient = u.clone(), grad_z.clone()
    row.forward_(buffer)
    row.backward_(gradient, u.clone() if row.saves == "u" else z.clone())
    assert_close(buffer, z)
    assert_close(gradient, delta)


def test_initial_standard_deviations():
    # He: √(2 / 8) = 0.5; Glorot: √(2 / (8 + 24)) = 0.25
    expected = {"identity": 0.25, "sigmoid": 0.25, "tanh": 0.25, "relu": 0.5, "leaky_relu": 0.5, "gelu": 0.5}
    assert {name: row.initial_std(8, 24) for name, row in ACTIVATIONS.items()} == expected


def test_the_worked_example_of_the_chapter(dtype, device):
    # two decimals as printed: tanh(0.7, 1, −1.48) = (0.60, 0.76, −0.90); tanh(−0.803) = −0.666
    u = torch.tensor([0.7, 1.0, -1.48, -0.803], dtype=dtype, device=device)
    assert_close(tanh_forward(u), u.new_tensor([0.604, 0.762, -0.901, -0.666]), relative=1e-3)
    # δ3 = (y − t)(1 − y²) = (−0.666 − 1)(1 − 0.666²) = −0.927; δ2 = 2 · (−0.927) · (1 − 0.9015²) = −0.347 (the rounded
    # z = 0.9 of the chapter's line would give −0.352); δ1 = −0.347 · (1, −3) · (1 − 0.604², 1 − 0.762²)
    grad = u.new_tensor([-0.347, 1.041, -1.854, -1.666])
    z = u.new_tensor([0.6044, 0.7616, -0.9015, -0.666])
    assert_close(tanh_backward(grad, z), u.new_tensor([-0.220, 0.438, -0.347, -0.927]), relative=2e-3)


def test_the_sigmoid_never_overflows(dtype, device):
    u = torch.linspace(-30, 30, 61, dtype=dtype, device=device)
    assert_close(tanh_forward(u), 2 * sigmoid_forward(2 * u) - 1)  # as its docstring says
    assert sigmoid_forward(u.new_tensor([-1e4, 1e4])).tolist() == [0.0, 1.0]


def test_relu_has_no_slope_at_zero_and_passes_nan_on(dtype, device):
    z = relu_forward(torch.tensor([0.0, -0.0, 1e-30], dtype=dtype, device=device))
    assert relu_backward(torch.ones_like(z), z).tolist() == [0.0, 0.0, 1.0]
    assert relu_backward(z + 2, z * torch.nan).tolist() == [2.0, 2.0, 2.0]  # where a mask z > 0 would give 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_incoming_gradient_that_would_broadcast_is_refused(name, device):
    saved = torch.zeros(4, 3, device=device)
    message = rf"^{ACTIVATIONS[name].saves} must have the shape of grad_z, \(3,\), got \(4, 3\)$"
    with pytest.raises(ArgumentError, match=message):
        ACTIVATIONS[name].backward(saved[0], saved)
