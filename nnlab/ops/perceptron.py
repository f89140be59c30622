"""Rosenblatt's perceptron (section 3.2): step functions, prediction, the criterion and the learning rule, for K units.

The net inputs u = Σ wᵢ xᵢ − θ are those of ``linear_forward``, with the bias −θ.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from nnlab.ops.losses import Reduction, weights
from nnlab.validation import KI, NI, NK, AnyShape, ArgumentError, K, N, Positive, SampleWeight, Scalar, check_values, op

StepFunction = Callable[[Tensor], Tensor]


@op
def step(u: AnyShape) -> AnyShape:
    """g(u) = 1 where u >= 0, else 0."""
    return (u >= 0).to(u.dtype)


@op
def bipolar_step(u: AnyShape) -> AnyShape:
    """g(u) = +1 where u >= 0, else −1; the chapter leaves u = 0 undefined."""
    return 2 * step(u) - 1


def check_desired(name: str, target: Tensor, g: StepFunction) -> None:
    """Check that desired outputs are outputs of the step function g: no unit could have another."""
    check_values(name, target, g(target.new_tensor([-1.0, 1.0])))


Desired = Annotated[Tensor, "N K", lambda name, target, arguments: check_desired(name, target, arguments["g"])]


@op
def perceptron_predict(u: NK) -> N:
    """Class labels, int64: for one unit 1 where u >= 0, else 0; for K units the first with the largest u.

    The chapter says the largest *absolute* u, which may be the clearest "no".
    """
    if u.shape[1] == 0:
        raise ArgumentError("u", "must have at least 1 unit, got 0")
    return (u[:, 0] >= 0).long() if u.shape[1] == 1 else u.argmax(1)


@op
def perceptron_loss_forward(
    logits: NK,
    target: Desired,
    reduction: Reduction = "sum",
    sample_weight: SampleWeight | None = None,
    g: StepFunction = step,
) -> Scalar:
    """E = Σₙ wₙ Eₙ with Eₙ = Σₖ (yₖ − dₖ) uₖ and y = g(u): the criterion, never negative, that the rule descends."""
    return (weights(logits, reduction, sample_weight) * ((g(logits) - target) * logits).sum(1)).sum()


@op
def perceptron_loss_backward(
    grad_E: Scalar,
    logits: NK,
    target: Desired,
    reduction: Reduction = "sum",
    sample_weight: SampleWeight | None = None,
    g: StepFunction = step,
) -> NK:
    """∂E/∂u = wₙ (y − d), y held constant."""
    return grad_E * weights(logits, reduction, sample_weight)[:, None] * (g(logits) - target)


@op
def perceptron_rule(
    x: NI, target: Desired, weight: KI, bias: K, lr: Positive, g: StepFunction = step
) -> tuple[NK, KI, K]:
    """The learning rule, sample after sample: w ← w − η (y − d) x, θ ← θ − η (y − d)(−1) (section 3.2.1).

    On a CPU the result is defined to the last bit: u = ((−θ + w₁ x₁) + w₂ x₂) + … is summed from left to right in
    float64, and w − (η (y − d)) x is rounded after each operation, in the dtype of w.

    Returns y − d of each unit at each sample, not 0 exactly where the unit was updated, the new weight and bias.
    """
    error = torch.empty_like(target)
    for n, (x_n, d_n) in enumerate(zip(x, target, strict=True)):
        u = torch.column_stack([bias.double(), weight.double() * x_n]).cumsum(1)[:, -1]
        error[n] = g(u) - d_n
        weight = weight - lr * error[n][:, None] * x_n
        bias = bias - lr * error[n]
    return error, weight, bias
