"""How errors Eₙ of single samples become one E = Σₙ wₙ Eₙ (eq. 3.5); 1/N appears here and nowhere else.

``reduction="sum"`` is the chapter's E = Σₙ Eₙ. ``"mean"`` is E / N, or E / Σₙ wₙ with sample weights. Eₙ itself is
always a sum over the outputs, so ``"mean"`` differs from torch's mean over samples *and* outputs by the factor K.
"""

from typing import Literal

from torch import Tensor

from nnlab.validation import ArgumentError, check_choice, check_sample_weight, check_tensors

Reduction = Literal["sum", "mean"]


def reduce_forward(errors: Tensor, reduction: Reduction, sample_weight: Tensor | None) -> Tensor:
    """E from the errors of the samples.

    Args:
        errors: Eₙ, (N,).
        reduction: "sum" or "mean".
        sample_weight: wₙ, (N,), or None for all 1.

    Returns:
        E, a scalar tensor.

    Raises:
        ValueError: an unknown reduction, a mean over no samples, weights of a wrong shape, dtype, device or sign.
    """
    _check(errors, reduction, sample_weight)
    total = (errors if sample_weight is None else errors * sample_weight).sum()
    if reduction == "sum":
        return total
    return total / (len(errors) if sample_weight is None else sample_weight.sum())


def reduce_backward(grad_output: Tensor, logits: Tensor, reduction: Reduction, sample_weight: Tensor | None) -> Tensor:
    """∂E/∂Eₙ, the transpose of ``reduce_forward``, shaped to multiply (N, K).

    Args:
        grad_output: the gradient with respect to E, a scalar tensor.
        logits: (N, K), of which N counts.
        reduction: as in the forward.
        sample_weight: as in the forward.

    Returns:
        a scalar tensor, or (N, 1) with sample weights.

    Raises:
        ValueError: as the forward.
    """
    _check(logits, reduction, sample_weight)
    scale = grad_output
    if reduction == "mean":
        scale = scale / (len(logits) if sample_weight is None else sample_weight.sum())
    return scale if sample_weight is None else scale * sample_weight[:, None]


def _check(samples: Tensor, reduction: str, sample_weight: Tensor | None) -> None:
    check_choice("reduction", reduction, ("sum", "mean"))
    if len(samples) == 0 and reduction == "mean":
        raise ArgumentError("reduction", "must be 'sum' for a batch of 0 samples, got 'mean'")
    if sample_weight is not None:
        check_tensors(logits=(samples, "N K" if samples.ndim == 2 else "N"), sample_weight=(sample_weight, "N"))
        check_sample_weight(sample_weight)
