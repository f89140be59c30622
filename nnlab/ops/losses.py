"""Error functions on logits, stable for any size of logit, each with its gradient."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nnlab.ops import errors
from nnlab.ops.reduction import Reduction, reduce_backward, reduce_forward
from nnlab.validation import check_labels, check_range, check_tensors

Weight = Tensor | None


def sum_of_squares_forward(
    logits: Tensor, target: Tensor, reduction: Reduction = "sum", sample_weight: Weight = None
) -> Tensor:
    """Sum-of-squares error, Eₙ = ½ Σₖ (yₖ − tₖ)².

    Args:
        logits: the network's outputs y, (N, K).
        target: t, (N, K).
        reduction: "sum" over the samples, as in the chapter, or "mean".
        sample_weight: wₙ >= 0, (N,); all 1 when None.

    Returns:
        E, a scalar tensor.

    Raises:
        ValueError: shapes, dtypes or devices disagree, an unknown reduction, or a mean over no samples.

    Source: chapter 3, eqs. 3.5 and 3.10.

    >>> sum_of_squares_forward(torch.tensor([[-0.666]]), torch.tensor([[1.0]]))
    tensor(1.3878)
    """
    check_tensors(logits=(logits, "N K"), target=(target, "N K"))
    return reduce_forward(errors.squares(logits, target), reduction, sample_weight)


def sum_of_squares_backward(
    grad_output: Tensor, logits: Tensor, target: Tensor, reduction: Reduction = "sum", sample_weight: Weight = None
) -> Tensor:
    """∂E/∂y = (y − t) ∂E/∂Eₙ, the first factor of eq. 3.11; (N, K). The target is data and gets no gradient.

    ``grad_output`` is a scalar tensor; the other arguments and the errors are the forward's.
    """
    check_tensors(grad_output=(grad_output, ""), logits=(logits, "N K"), target=(target, "N K"))
    return (logits - target) * reduce_backward(grad_output, logits, reduction, sample_weight)


def binary_cross_entropy_forward(
    logits: Tensor, target: Tensor, reduction: Reduction = "sum", sample_weight: Weight = None
) -> Tensor:
    """Logistic cross-entropy of K sigmoid outputs, Eₙ = −Σₖ [tₖ log σ(uₖ) + (1 − tₖ) log(1 − σ(uₖ))].

    Taken on the logits u, so that nothing overflows where the chapter's ``log(1. - output)`` meets log(0).

    Args:
        logits: u, (N, K).
        target: t in [0, 1], (N, K); one-hot for K classes.
        reduction: as in ``sum_of_squares_forward``.
        sample_weight: likewise.

    Returns:
        E, a scalar tensor, finite for |u| up to 1e4 and beyond.

    Raises:
        ValueError: as ``sum_of_squares_forward``, or a target outside [0, 1].

    Source: chapter 3, the cost of section 3.4.

    >>> binary_cross_entropy_forward(torch.tensor([[1e4, -1e4]]), torch.tensor([[1.0, 1.0]]))
    tensor(10000.)
    """
    check_tensors(logits=(logits, "N K"), target=(target, "N K"))
    check_range("target", target, 0, 1)
    return reduce_forward(errors.logistic(logits, target), reduction, sample_weight)


def binary_cross_entropy_backward(
    grad_output: Tensor, logits: Tensor, target: Tensor, reduction: Reduction = "sum", sample_weight: Weight = None
) -> Tensor:
    """δ = ∂E/∂u = (σ(u) − t) ∂E/∂Eₙ, (N, K): the sigmoid's h'(u) cancels against the loss.

    ``grad_output`` is a scalar tensor; the other arguments and the errors are the forward's.
    """
    check_tensors(grad_output=(grad_output, ""), logits=(logits, "N K"), target=(target, "N K"))
    check_range("target", target, 0, 1)
    return (torch.sigmoid(logits) - target) * reduce_backward(grad_output, logits, reduction, sample_weight)


def softmax_cross_entropy_forward(
    logits: Tensor, target: Tensor, reduction: Reduction = "sum", sample_weight: Weight = None
) -> Tensor:
    """Cross-entropy of a softmax over K classes, Eₙ = log Σₖ e^{uₖ} − u_t.

    Args:
        logits: u, (N, K).
        target: class labels t in 0 … K−1, int64, (N,).
        reduction: as in ``sum_of_squares_forward``.
        sample_weight: likewise.

    Returns:
        E, a scalar tensor, finite for |u| up to 1e4 and beyond.

    Raises:
        ValueError: as ``sum_of_squares_forward``, or a label out of range.

    Source: Bishop (2006), "Pattern Recognition and Machine Learning", eq. 4.108.

    >>> softmax_cross_entropy_forward(torch.tensor([[0.0, 1e4]]), torch.tensor([0]))
    tensor(10000.)
    """
    check_tensors(logits=(logits, "N K"))
    check_labels(target, logits, logits.shape[1])
    return reduce_forward(errors.softmax(logits, target), reduction, sample_weight)


def softmax_cross_entropy_backward(
    grad_output: Tensor, logits: Tensor, target: Tensor, reduction: Reduction = "sum", sample_weight: Weight = None
) -> Tensor:
    """δ = ∂E/∂u = (softmax(u) − onehot(t)) ∂E/∂Eₙ, (N, K).

    ``grad_output`` is a scalar tensor; the other arguments and the errors are the forward's.
    """
    check_tensors(grad_output=(grad_output, ""), logits=(logits, "N K"))
    check_labels(target, logits, logits.shape[1])
    delta = torch.softmax(logits, 1)
    delta.scatter_add_(1, target[:, None], delta.new_full((len(target), 1), -1.0))
    return delta * reduce_backward(grad_output, logits, reduction, sample_weight)


class Loss(NamedTuple):
    """An error function: ``forward(logits, target, …) -> E``, ``backward(grad_output, logits, target, …)``."""

    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]
    target: Literal["labels", "values"]  # class labels (N,) int64, or one value per output (N, K)
    errors: Callable[[Tensor, Tensor], Tensor]  # (logits, target) -> Eₙ, (N,), which forward checks and adds up


LOSSES = {
    "sum_of_squares": Loss(sum_of_squares_forward, sum_of_squares_backward, "values", errors.squares),
    "binary_cross_entropy": Loss(
        binary_cross_entropy_forward, binary_cross_entropy_backward, "values", errors.logistic
    ),
    "softmax_cross_entropy": Loss(
        softmax_cross_entropy_forward, softmax_cross_entropy_backward, "labels", errors.softmax
    ),
}
"""Every loss by its name."""
