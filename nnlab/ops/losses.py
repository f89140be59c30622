"""Losses of logits, stable for logits of any size: the value and its gradient, 1/N included, and the one table of them.

Every loss is E = Σₙ wₙ Eₙ (eq. 3.5), where wₙ is 1 or a sample weight; for ``reduction="mean"`` the wₙ are divided by
their sum. Eₙ is a sum over the outputs: a mean is over samples, where some of torch's losses average outputs too.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnlab.validation import NK, ArgumentError, Between, Labels, SampleWeight, Scalar, op

Reduction = Literal["sum", "mean"]


class Loss(NamedTuple):
    """All that nnlab knows of a loss; every other module reads it here.

    In the texts, {u} is a logit, {y} its output and {t} its target (0 or 1 where targets are labels); a number or a
    letter takes the place of each.
    """

    forward: Callable[..., Tensor]  # logits, target, reduction, sample_weight -> E
    backward: Callable[..., Tensor]  # ∂/∂E, and the same -> ∂/∂logits
    errors: Callable[[Tensor, Tensor], Tensor]  # logits and target -> Eₙ, (N,)
    reference: Callable[[Tensor, Tensor], Tensor]  # the same in torch's own functions, for the tests
    target: Literal["labels", "values"]  # class labels (N,) int64, or one value per output (N, K)
    formula: str  # Eₙ
    term: str  # what an output adds to Eₙ
    equation: str = "–"
    delta: str = "{y} − {t}"  # ∂Eₙ/∂u
    output: Callable[[Tensor], Tensor] = torch.Tensor.clone  # the output activation that the loss has built in: y of u
    output_name: str = "identity"
    output_formula: str = "{u}"  # {exponentials} are the eᵘ of all outputs, added
    bounds: Between | None = None  # of the values of a target
    classifier_units: str = "identity"  # the output units of an estimator that classifies with this loss
    log_probabilities: Callable[[Tensor], Tensor] | None = None  # of classes; without it, y over the sum of all y
    is_difference: bool = False  # whether ∂Eₙ/∂u is y − t, y being ``output``, a label being a row of 0 and 1


LOSSES: dict[str, Loss] = {}


def weights(logits: Tensor, reduction: str, sample_weight: Tensor | None) -> Tensor:
    """wₙ, (N,)."""
    weights = logits.new_ones(len(logits)) if sample_weight is None else sample_weight
    if reduction == "mean" and len(weights) == 0:
        raise ArgumentError("reduction", "must be 'sum' for a batch of 0 samples, got 'mean'")
    return weights / weights.sum() if reduction == "mean" else weights


def _squares(y: Tensor, t: Tensor) -> Tensor:
    return (y - t).square().sum(1) / 2


@op
def sum_of_squares_forward(
    logits: NK, target: NK, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> Scalar:
    """E = Σₙ wₙ Eₙ with Eₙ = ½ Σₖ (yₖ − tₖ)² (eqs. 3.5 and 3.10), y the logits."""
    return (weights(logits, reduction, sample_weight) * _squares(logits, target)).sum()


@op
def sum_of_squares_backward(
    grad_E: Scalar, logits: NK, target: NK, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> NK:
    """∂E/∂y = wₙ (y − t), the first factor of eq. 3.11."""
    return grad_E * weights(logits, reduction, sample_weight)[:, None] * (logits - target)


LOSSES["sum_of_squares"] = Loss(
    *(sum_of_squares_forward, sum_of_squares_backward, _squares),
    lambda y, t: functional.mse_loss(y, t, reduction="none").sum(1) / 2,
    "values",
    *("Eₙ = ½ Σⱼ (yⱼ − tⱼ)²", "½·({y} − {t})²", "3.10"),
    classifier_units="sigmoid",
    is_difference=True,
)

UnitNK = Annotated[Tensor, "N K", Between(0, 1)]  # values from 0 to 1


def _logistic(u: Tensor, t: Tensor) -> Tensor:
    return -(t * functional.logsigmoid(u) + (1 - t) * functional.logsigmoid(-u)).sum(1)  # 1 − σ(u) = σ(−u)


@op
def binary_cross_entropy_forward(
    logits: NK, target: UnitNK, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> Scalar:
    """E = Σₙ wₙ Eₙ with Eₙ = −Σₖ [tₖ log yₖ + (1 − tₖ) log(1 − yₖ)] and y = σ(u) (the cost of section 3.4).

    It cannot overflow; the chapter's ``log(1. - output)`` can be log(0).
    """
    return (weights(logits, reduction, sample_weight) * _logistic(logits, target)).sum()


@op
def binary_cross_entropy_backward(
    grad_E: Scalar, logits: NK, target: UnitNK, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> NK:
    """δ = ∂E/∂u = wₙ (σ(u) − t): the sigmoid's h'(u) cancels."""
    return grad_E * weights(logits, reduction, sample_weight)[:, None] * (torch.sigmoid(logits) - target)


LOSSES["binary_cross_entropy"] = Loss(
    *(binary_cross_entropy_forward, binary_cross_entropy_backward, _logistic),
    lambda u, t: functional.binary_cross_entropy_with_logits(u, t, reduction="none").sum(1),
    "values",
    "Eₙ = −Σₖ [tₖ ln yₖ + (1 − tₖ) ln(1 − yₖ)] with y = σ(u), so that 1 − y = σ(−u)",
    *("−[{t}·ln σ({u}) + (1 − {t})·ln σ(−{u})]", "§3.4"),
    output=torch.sigmoid,
    output_name="sigmoid",
    output_formula="1 / (1 + e^(−{u}))",
    bounds=Between(0, 1),
    is_difference=True,
)


@op
def softmax_cross_entropy_forward(
    logits: NK, target: Labels, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> Scalar:
    """E = Σₙ wₙ Eₙ with Eₙ = log Σₖ e^uₖ − u_t, t the class label (Bishop, 2006, eq. 4.108)."""
    errors = -functional.log_softmax(logits, 1).gather(1, target[:, None]).squeeze(1)
    return (weights(logits, reduction, sample_weight) * errors).sum()


@op
def softmax_cross_entropy_backward(
    grad_E: Scalar, logits: NK, target: Labels, reduction: Reduction = "sum", sample_weight: SampleWeight | None = None
) -> NK:
    """δ = ∂E/∂u = wₙ (softmax(u) − onehot(t)): the softmax's Jacobian cancels."""
    error = torch.softmax(logits, 1).scatter_add(1, target[:, None], logits.new_full((len(logits), 1), -1))
    return grad_E * weights(logits, reduction, sample_weight)[:, None] * error


LOSSES["softmax_cross_entropy"] = Loss(
    *(softmax_cross_entropy_forward, softmax_cross_entropy_backward),
    # with a class's logits side by side, as the engine keeps them, a softmax is K long vectors, not N short ones: for
    # 60,000 samples 0.5 ms in place of 16
    lambda u, t: -functional.log_softmax(u.T, 0).gather(0, t[None]).squeeze(0),
    lambda u, t: functional.cross_entropy(u, t, reduction="none"),
    "labels",
    *("Eₙ = −Σₖ tₖ ln yₖ = ln Σₖ e^uₖ − u of the target's class; not in the chapter", "−{t}·ln {y}"),
    output=lambda u: torch.softmax(u.T, 0).T if u.stride(0) == 1 else torch.softmax(u, 1),  # likewise
    output_name="softmax",
    output_formula="e^{u} / ({exponentials})",
    log_probabilities=lambda u: functional.log_softmax(u, 1),
    is_difference=True,
)
