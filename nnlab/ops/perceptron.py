"""Rosenblatt's perceptron (section 3.2): step functions, net input, prediction and the learning rule, for K units."""

import torch
from torch import Tensor

from nnlab.ops.linear import linear_forward
from nnlab.ops.perceptron_sample import StepFunction, change_, sample_error
from nnlab.ops.reduction import Reduction, reduce_backward, reduce_forward
from nnlab.validation import check_at_least, check_positive, check_tensors, check_values


def step(u: Tensor) -> Tensor:
    """g(u) = 1 where u >= 0, else 0; of u's shape and dtype. Source: section 3.2.

    >>> step(torch.tensor([-0.1, 0.0, 0.5]))
    tensor([0., 1., 1.])
    """
    check_tensors(u=(u, "..."))
    return (u >= 0).to(u.dtype)


def bipolar_step(u: Tensor) -> Tensor:
    """g(u) = +1 where u >= 0, else −1. Source: section 3.2, which leaves u = 0 undefined; here it is +1.

    >>> bipolar_step(torch.tensor([-0.1, 0.0, 0.5]))
    tensor([-1.,  1.,  1.])
    """
    return 2 * step(u) - 1


def perceptron_net_input(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Net inputs u = Σ w_i x_i − θ of K units, (N, K), from x (N, I), weight (K, I), bias = −θ (K,).

    Source: section 3.2.
    """
    return linear_forward(x, weight, bias)


def perceptron_predict(u: Tensor) -> Tensor:
    """Class labels, (N,) int64, from net inputs u, (N, K).

    One unit tells 1 (u >= 0) from 0. K units, one against all the others, tell the unit with the *largest* net
    input, the lowest of equals; the chapter says largest absolute, which would choose the surest "no".

    >>> perceptron_predict(torch.tensor([[-5.0, 1.0, 1.0]]))
    tensor([1])
    """
    check_tensors(u=(u, "N K"))
    check_at_least("the number of units in u", u.shape[1], 1)
    return (u[:, 0] >= 0).long() if u.shape[1] == 1 else u.argmax(1)


def perceptron_loss_forward(
    logits: Tensor,
    target: Tensor,
    reduction: Reduction = "sum",
    sample_weight: Tensor | None = None,
    g: StepFunction = step,
) -> Tensor:
    """The perceptron criterion Eₙ = Σₖ (yₖ − dₖ) uₖ with y = g(u), never negative, whose descent is the learning rule.

    Args:
        logits: net inputs u, (N, K).
        target: desired outputs d, values of g, (N, K).
        reduction: "sum" or "mean" over the samples.
        sample_weight: wₙ >= 0, (N,); all 1 when None.
        g: ``step`` or ``bipolar_step``.

    Returns:
        E, a scalar tensor.

    Raises:
        ValueError: shapes, dtypes or devices disagree, an unknown reduction, or a mean over no samples.
    """
    check_tensors(logits=(logits, "N K"), target=(target, "N K"))
    check_values("target", target, g(target.new_tensor([-1.0, 1.0])))  # no other can be met
    return reduce_forward(((g(logits) - target) * logits).sum(1), reduction, sample_weight)


def perceptron_loss_backward(
    grad_output: Tensor,
    logits: Tensor,
    target: Tensor,
    reduction: Reduction = "sum",
    sample_weight: Tensor | None = None,
    g: StepFunction = step,
) -> Tensor:
    """∂E/∂u = (y − d) ∂E/∂Eₙ, (N, K), with y held constant; the arguments are the forward's."""
    check_tensors(grad_output=(grad_output, ""), logits=(logits, "N K"), target=(target, "N K"))
    check_values("target", target, g(target.new_tensor([-1.0, 1.0])))  # no other can be met
    return (g(logits) - target) * reduce_backward(grad_output, logits, reduction, sample_weight)


def perceptron_rule(
    x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, lr: float, g: StepFunction = step
) -> tuple[Tensor, Tensor, Tensor]:
    """The learning rule, sample after sample: w ← w − η (y − d) x, θ ← θ − η (y − d)(−1).

    Args:
        x: samples in the order in which they are learnt, (N, I).
        target: desired outputs d, values of g, (N, K).
        weight: (K, I).
        bias: −θ, (K,).
        lr: η > 0.
        g: ``step`` or ``bipolar_step``.

    Returns:
        the error y − d of each unit as each sample was met, (N, K), not 0 exactly where the unit was updated; the
        new weight, (K, I); the new bias, (K,).

    Raises:
        ValueError: shapes, dtypes or devices disagree, or η is not greater than 0.

    Source: chapter 3, section 3.2.1.

    >>> x, d = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[1.0], [0.0]])
    >>> perceptron_rule(x, d, torch.zeros(1, 2), torch.zeros(1), lr=0.5)
    (tensor([[0.],
            [1.]]), tensor([[-1.5000, -0.5000]]), tensor([-0.5000]))
    """
    check_tensors(x=(x, "N I"), target=(target, "N K"), weight=(weight, "K I"), bias=(bias, "K"))
    check_values("target", target, g(target.new_tensor([-1.0, 1.0])))  # no other can be met
    check_positive("lr", lr)
    weight, bias = (p.clone(memory_format=torch.contiguous_format) for p in (weight, bias))
    error = torch.empty_like(target)
    for n, (x_n, d_n) in enumerate(zip(x, target, strict=True)):
        error[n] = sample_error(x_n, d_n, weight, bias, g)
        change_(weight, bias, error[n] * lr, x_n)
    return error, weight, bias
