"""Gradient descent, w ← w − η ∇E(w): the pure form, and the same in place."""

from torch import Tensor

from nnlab.validation import check_tensors


def gradient_descent(parameter: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """One step of gradient descent, w − η ∇E(w).

    Args:
        parameter: w, any shape.
        gradient: ∇E(w), of w's shape.
        lr: the learning rate η.

    Returns:
        the new w, a new tensor.

    Raises:
        ValueError: shapes, dtypes or devices disagree.

    Source: chapter 3, section 3.3.2.

    >>> import torch
    >>> gradient_descent(torch.tensor([1.0]), torch.tensor([2.0]), lr=0.25)
    tensor([0.5000])
    """
    check_tensors(parameter=(parameter, "..."), gradient=(gradient, "..."))
    return parameter.add(gradient, alpha=-lr)


def gradient_descent_(parameter: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """``gradient_descent`` in place: changes ``parameter`` and returns it; arguments and errors are the same."""
    check_tensors(parameter=(parameter, "..."), gradient=(gradient, "..."))
    return parameter.add_(gradient, alpha=-lr)
