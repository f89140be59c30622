"""The linear map u = x Wᵀ + b of a layer (eqs. 3.1 and 3.3) and its gradients (eqs. 3.8, 3.9 and 3.17)."""

import torch
from torch import Tensor

from nnlab.validation import check_tensors


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Activation potentials ``u = x Wᵀ + b`` of one layer.

    Args:
        x: inputs o, (N, I).
        weight: w_ji, (O, I).
        bias: w_j0, (O,).

    Returns:
        u, (N, O).

    Raises:
        ValueError: shapes, dtypes or devices disagree; the argument and both sizes are named.

    Source: chapter 3, eqs. 3.1 and 3.3.

    >>> linear_forward(torch.tensor([[2.0]]), torch.tensor([[0.3], [0.4]]), torch.tensor([0.1, 0.2]))
    tensor([[0.7000, 1.0000]])
    """
    check_tensors(x=(x, "N I"), weight=(weight, "O I"), bias=(bias, "O"))
    return torch.addmm(bias, x, weight.T)


def linear_backward(grad_output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pull the error gradient back through ``u = x Wᵀ + b``.

    With δ = ∂E/∂u: ∂E/∂x = δ W (the sum in eq. 3.17), ∂E/∂W = δᵀ x (eq. 3.9), ∂E/∂b = Σₙ δₙ.

    Args:
        grad_output: δ, (N, O), in units of E per unit of u.
        x: the forward input, (N, I).
        weight: (O, I).

    Returns:
        (N, I), (O, I), (O,): new tensors of grad_output's dtype and device.

    Raises:
        ValueError: N, I or O disagree; both shapes are named.

    Source: chapter 3, eqs. 3.9 and 3.17.
    """
    check_tensors(grad_output=(grad_output, "N O"), x=(x, "N I"), weight=(weight, "O I"))
    return linear_backward_input(grad_output, weight), *linear_backward_parameters(grad_output, x)


def linear_backward_input(grad_output: Tensor, weight: Tensor) -> Tensor:
    """The half of ``linear_backward`` that the layer below needs: Σ_l δ_l w_lj.

    The first layer has none below it, so a network leaves this GEMM out there.

    Args:
        grad_output: δ, (N, O).
        weight: (O, I).

    Returns:
        ∂E/∂x, (N, I).

    Raises:
        ValueError: O, dtype or device disagree.

    Source: chapter 3, the sum in eq. 3.17.
    """
    check_tensors(grad_output=(grad_output, "N O"), weight=(weight, "O I"))
    return grad_output @ weight


def linear_backward_parameters(grad_output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The half of ``linear_backward`` that the layer itself needs: δ_j o_i, summed over the samples.

    Args:
        grad_output: δ, (N, O).
        x: the forward input o, (N, I).

    Returns:
        ∂E/∂W, (O, I), and ∂E/∂b, (O,).

    Raises:
        ValueError: N, dtype or device disagree.

    Source: chapter 3, eqs. 3.9 and 3.18.
    """
    check_tensors(grad_output=(grad_output, "N O"), x=(x, "N I"))
    return grad_output.T @ x, grad_output.sum(0)
