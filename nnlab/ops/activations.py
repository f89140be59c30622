"""Activations z = h(u) and their backward δ = ∂E/∂z · h'(u) (eqs. 3.2, 3.11 and 3.17), and the one table of them."""

from collections.abc import Callable
from functools import partial
from math import pi, sqrt
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnlab.validation import AnyShape, op


class Activation(NamedTuple):
    """All that nnlab knows of an activation; every other module reads it here."""

    forward: Callable[[Tensor], Tensor]  # u -> z
    backward: Callable[[Tensor, Tensor], Tensor]  # ∂E/∂z, and u or z -> δ = ∂E/∂u
    saves: Literal["u", "z"]  # what backward needs of the forward
    module: Callable[[], nn.Module]  # torch's own, for to_sequential and as the reference of the tests
    initial_std: Callable[[int, int], float]  # of the weights of a layer with I inputs and O units
    formula: str  # of z; a number or a letter takes the place of {u}
    slope: str  # h'(u) as a factor, likewise of {u} or {z}
    forward_: Callable[[Tensor], Any] | None = None  # u becomes z in place; without it, the engine copies z
    backward_: Callable[[Tensor, Tensor], Any] | None = None  # ∂E/∂z becomes δ in place, likewise
    ramp: float | None = None  # r where z is u for u > 0, else r u: compiled steps know this form
    logistic: tuple[float, float, float] | None = None  # a, b, c where z is a + b σ(c u), another that they know


ACTIVATIONS: dict[str, Activation] = {}


def he(n_in: int, n_out: int) -> float:
    """√(2 / I), for activations that are 0, or nearly 0, for negative u (He et al., 2015)."""
    return sqrt(2 / n_in)


def glorot(n_in: int, n_out: int) -> float:
    """√(2 / (I + O)), for the other activations (Glorot and Bengio, 2010)."""
    return sqrt(2 / (n_in + n_out))


def _in_place(kernel: str, *settings: Any) -> Callable[[Tensor, Tensor], Any]:
    """The kernel that autograd calls for a backward, which here writes δ over ∂E/∂z."""
    function = getattr(torch.ops.aten, kernel).grad_input
    return lambda grad_z, saved: function(grad_z, saved, *settings, grad_input=grad_z)


@op
def identity_forward(u: AnyShape) -> AnyShape:
    """z = u."""
    return u


@op
def identity_backward(grad_z: AnyShape, z: AnyShape) -> AnyShape:
    """δ = ∂E/∂z."""
    return grad_z


ACTIVATIONS["identity"] = Activation(
    *(identity_forward, identity_backward, "z", nn.Identity, glorot, "{u}", "1", lambda u: u, lambda grad_z, z: grad_z),
    ramp=1.0,
)


@op
def sigmoid_forward(u: AnyShape) -> AnyShape:
    """z = σ(u) = 1 / (1 + e⁻ᵘ) (the remark under eq. 3.2)."""
    return torch.sigmoid(u)


@op
def sigmoid_backward(grad_z: AnyShape, z: AnyShape) -> AnyShape:
    """δ = ∂E/∂z · z (1 − z)."""
    return grad_z * (1 - z) * z


ACTIVATIONS["sigmoid"] = Activation(
    *(sigmoid_forward, sigmoid_backward, "z", nn.Sigmoid, glorot, "1 / (1 + e^(−{u}))", "{z}·(1 − {z})"),
    *(torch.Tensor.sigmoid_, _in_place("sigmoid_backward")),
    logistic=(0.0, 1.0, 1.0),
)


@op
def tanh_forward(u: AnyShape) -> AnyShape:
    """z = tanh u = (eᵘ − e⁻ᵘ) / (eᵘ + e⁻ᵘ), which is 2 σ(2u) − 1 (the chapter's simple conceptual example)."""
    return torch.tanh(u)


@op
def tanh_backward(grad_z: AnyShape, z: AnyShape) -> AnyShape:
    """δ = ∂E/∂z · (1 − z²)."""
    return grad_z * (1 - z * z)


ACTIVATIONS["tanh"] = Activation(
    *(tanh_forward, tanh_backward, "z", nn.Tanh, glorot, "tanh({u})", "(1 − {z}²)"),
    *(torch.Tensor.tanh_, _in_place("tanh_backward")),
    logistic=(-1.0, 2.0, 2.0),
)


@op
def relu_forward(u: AnyShape) -> AnyShape:
    """z = max(u, 0) (Nair and Hinton, 2010)."""
    return torch.relu(u)


@op
def relu_backward(grad_z: AnyShape, z: AnyShape) -> AnyShape:
    """δ = ∂E/∂z where z > 0, else 0; h'(0) = 0, as in torch, and a NaN in z does not become 0."""
    return torch.where(z <= 0, 0, grad_z)


ACTIVATIONS["relu"] = Activation(
    *(relu_forward, relu_backward, "z", nn.ReLU, he, "max({u}, 0)", "(1 if {z} > 0 else 0)"),
    *(torch.Tensor.relu_, _in_place("threshold_backward", 0)),
    ramp=0.0,
)


@op
def leaky_relu_forward(u: AnyShape) -> AnyShape:
    """z = u where u > 0, else 0.01 u (Maas et al., 2013)."""
    return torch.where(u > 0, u, 0.01 * u)


@op
def leaky_relu_backward(grad_z: AnyShape, z: AnyShape) -> AnyShape:
    """δ = ∂E/∂z where z > 0, else 0.01 ∂E/∂z."""
    return torch.where(z > 0, grad_z, 0.01 * grad_z)


ACTIVATIONS["leaky_relu"] = Activation(
    *(leaky_relu_forward, leaky_relu_backward, "z", partial(nn.LeakyReLU, 0.01), he),
    *("({u} if {u} > 0 else 0.01·{u})", "(1 if {z} > 0 else 0.01)"),
    *(partial(nn.functional.leaky_relu_, negative_slope=0.01), _in_place("leaky_relu_backward", 0.01, True)),
    ramp=0.01,
)


@op
def gelu_forward(u: AnyShape) -> AnyShape:
    """z = u Φ(u), Φ the standard normal distribution (Hendrycks and Gimpel, 2016), in its exact form."""
    return u * _normal_distribution(u)


@op
def gelu_backward(grad_z: AnyShape, u: AnyShape) -> AnyShape:
    """δ = ∂E/∂z · (Φ(u) + u φ(u)), φ = Φ' the standard normal density."""
    return grad_z * (_normal_distribution(u) + u * torch.exp(-u * u / 2) / sqrt(2 * pi))


def _normal_distribution(u: Tensor) -> Tensor:
    return (1 + torch.erf(u / sqrt(2))) / 2


ACTIVATIONS["gelu"] = Activation(
    *(gelu_forward, gelu_backward, "u", nn.GELU, he, "{u}·Φ({u})", "(Φ({u}) + {u}·φ({u}))"),
    *(torch.ops.aten.gelu_, _in_place("gelu_backward")),
)
