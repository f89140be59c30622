"""Activation functions h(u) and the pull-back δ ↦ δ h'(u) (eqs. 3.2, 3.11 and 3.17).

Each derivative is written in terms of the output z = h(u), which the next layer has to keep anyway.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.validation import check_tensors


def identity_forward(u: Tensor) -> Tensor:
    """h(u) = u, the linear output unit of the chapter's conceptual example.

    Args:
        u: activation potentials, any shape.

    Returns:
        u itself.

    Raises:
        ValueError: u is not a floating-point tensor.
    """
    check_tensors(u=(u, "..."))
    return u


def identity_backward(grad_output: Tensor, z: Tensor) -> Tensor:
    """∂E/∂u = ∂E/∂z, since h'(u) = 1: grad_output itself; arguments and errors as in ``sigmoid_backward``."""
    check_tensors(grad_output=(grad_output, "..."), z=(z, "..."))
    return grad_output


def sigmoid_forward(u: Tensor) -> Tensor:
    """The logistic sigmoid h(u) = 1 / (1 + e^−u).

    Args:
        u: activation potentials, any shape.

    Returns:
        z in [0, 1], of u's shape.

    Raises:
        ValueError: u is not a floating-point tensor.

    Source: chapter 3, the remark under eq. 3.2.

    >>> sigmoid_forward(torch.tensor([-1e4, 0.0, 1e4]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    check_tensors(u=(u, "..."))
    return torch.sigmoid(u)


def sigmoid_backward(grad_output: Tensor, z: Tensor) -> Tensor:
    """∂E/∂u = ∂E/∂z · z (1 − z), since h'(u) = h(u) (1 − h(u)).

    Args:
        grad_output: ∂E/∂z, of z's shape.
        z: the forward output h(u), any shape.

    Returns:
        ∂E/∂u, a tensor of z's shape.

    Raises:
        ValueError: shapes, dtypes or devices disagree.

    Source: the factor h'(u) of eqs. 3.11 and 3.17.
    """
    check_tensors(grad_output=(grad_output, "..."), z=(z, "..."))
    return grad_output * (1 - z) * z


def tanh_forward(u: Tensor) -> Tensor:
    """h(u) = (e^u − e^−u) / (e^u + e^−u).

    The chapter calls this a logistic sigmoid; it is one, scaled and shifted: tanh(u) = 2 σ(2u) − 1.

    Args:
        u: activation potentials, any shape.

    Returns:
        z in [−1, 1], of u's shape.

    Raises:
        ValueError: u is not a floating-point tensor.

    Source: chapter 3, "Simple conceptual example".

    >>> tanh_forward(torch.tensor([0.7, 1.0]))
    tensor([0.6044, 0.7616])
    """
    check_tensors(u=(u, "..."))
    return torch.tanh(u)


def tanh_backward(grad_output: Tensor, z: Tensor) -> Tensor:
    """∂E/∂u = ∂E/∂z · (1 − z²), since h'(u) = 1 − h(u)².

    Arguments, result and errors are those of ``sigmoid_backward``.

    Source: chapter 3, "Simple conceptual example".
    """
    check_tensors(grad_output=(grad_output, "..."), z=(z, "..."))
    return grad_output * (1 - z * z)


def relu_forward(u: Tensor) -> Tensor:
    """h(u) = max(u, 0).

    Args:
        u: activation potentials, any shape.

    Returns:
        z >= 0, of u's shape.

    Raises:
        ValueError: u is not a floating-point tensor.

    Source: Nair and Hinton (2010), "Rectified linear units improve restricted Boltzmann machines".
    """
    check_tensors(u=(u, "..."))
    return torch.relu(u)


def relu_backward(grad_output: Tensor, z: Tensor) -> Tensor:
    """∂E/∂u = ∂E/∂z, but 0 where u <= 0, which is where z = 0; so h'(0) = 0 as in torch.

    Arguments, result and errors are those of ``sigmoid_backward``.
    """
    check_tensors(grad_output=(grad_output, "..."), z=(z, "..."))
    return torch.where(z <= 0, 0, grad_output)  # a NaN in z is not hidden


class Activation(NamedTuple):
    """An activation function: ``forward(u) -> z`` and ``backward(grad_output, z) -> grad_u``."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "identity": Activation(identity_forward, identity_backward),
    "sigmoid": Activation(sigmoid_forward, sigmoid_backward),
    "tanh": Activation(tanh_forward, tanh_backward),
    "relu": Activation(relu_forward, relu_backward),
}
"""Every activation by its name."""
