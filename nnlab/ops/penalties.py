"""The L2 penalty λ/2 Σ w² and its gradient λ w."""

from torch import Tensor

from nnlab.validation import check_not_negative, check_tensors


def l2_penalty_forward(weight: Tensor, l2: float) -> Tensor:
    """E_w = λ/2 Σ w².

    The chapter adds λ Σ w² to the printed cost and λ w to the gradient, which is the gradient of *this* form.

    Args:
        weight: (O, I); biases are not penalised.
        l2: λ >= 0.

    Returns:
        E_w, a scalar tensor.

    Raises:
        ValueError: λ is negative or not finite.

    Source: chapter 3, section 3.4, with the factor put right.
    """
    check_tensors(weight=(weight, "O I"))
    check_not_negative("l2", l2)
    return 0.5 * l2 * weight.square().sum()


def l2_penalty_backward(grad_output: Tensor, weight: Tensor, l2: float) -> Tensor:
    """∂E_w/∂w = λ w, (O, I); ``grad_output`` is a scalar tensor, the other arguments are the forward's."""
    check_tensors(grad_output=(grad_output, ""), weight=(weight, "O I"))
    check_not_negative("l2", l2)
    return grad_output * l2 * weight
