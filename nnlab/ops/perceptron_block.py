"""The perceptron's learning rule for a block of samples at once, with the sequential rule's answer.

Within a block the error of sample n depends on the errors before it alone: with S the net inputs before the block
and L = tril(X Xᵀ + 1, −1), the errors satisfy e = g(S − η L e) − d. L is strictly triangular, so there is one
solution, and it is the sequential rule's. Iterated from e = g(S) − d, the first r entries are final after r sweeps,
and two equal sweeps certify the answer.
"""

import torch
from torch import Tensor

from nnlab.ops.perceptron import StepFunction, perceptron_net_input, perceptron_rule, step
from nnlab.validation import check_at_least, check_positive, check_tensors, check_values


def perceptron_rule_blocked(
    x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, lr: float, g: StepFunction = step, block: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """``perceptron_rule`` in blocks of samples: the same arguments, and the same results to the last bit.

    Nearly all of the work is a few matrix products per block. Their sums round otherwise than the sequential rule's, so
    a block in which a net input lies within its rounding bound of 0 is learnt sample by sample, and the changes are
    made one by one, in order, where a sample was misjudged.

    Args:
        x: (N, I).
        target: d, (N, K).
        weight: (K, I).
        bias: (K,).
        lr: η > 0.
        g: ``step`` or ``bipolar_step``.
        block: samples per block; a tail shorter than a block is learnt too.

    Returns:
        y − d, (N, K); the new weight, (K, I); the new bias, (K,).

    Raises:
        ValueError: as ``perceptron_rule``, or a block below 1.
    """
    check_tensors(x=(x, "N I"), target=(target, "N K"), weight=(weight, "K I"), bias=(bias, "K"))
    check_values("target", target, g(target.new_tensor([-1.0, 1.0])))  # no other can be met
    check_positive("lr", lr)
    check_at_least("block", block, 1)
    weight, bias, errors = weight.clone(), bias.clone(), []
    for x_b, d_b in zip(torch.split(x, block), torch.split(target, block), strict=True):
        error, certain = _fixed_point(x_b, d_b, weight, bias, lr, g)
        if certain:
            for n in error.any(1).nonzero().flatten().tolist():
                weight.addr_(error[n], x_b[n], alpha=-lr)
                bias.add_(error[n], alpha=-lr)
        else:
            error, weight, bias = perceptron_rule(x_b, d_b, weight, bias, lr, g)
        errors.append(error)
    return torch.cat(errors), weight, bias


def _fixed_point(
    x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, lr: float, g: StepFunction
) -> tuple[Tensor, bool]:
    """The errors of one block, (B, K), and whether every net input is farther from 0 than rounding can move it."""
    start = perceptron_net_input(x, weight, bias)  # S, (B, K)
    gram = x @ x.T + 1  # (B, B); the 1 is the bias's constant input
    before = gram.tril(-1)  # L
    u, error = start, g(start) - target
    for _ in range(len(x)):
        u = torch.addmm(start, before, error, alpha=-lr)
        latest = g(u) - target
        if torch.equal(latest, error):
            break
        error = latest
    # |Σᵢ wᵢ xᵢ| <= ‖w‖ ‖x‖, and a sum of n terms in any order errs by at most n ε Σ|terms| to first order
    length = gram.diagonal().sqrt()  # ‖[1, x]‖, (B,)
    finest = (x.shape[1] * torch.finfo(x.dtype).tiny) ** 0.5  # below it the squares of a norm underflow
    magnitude = length[:, None] * torch.hypot(weight.norm(dim=1), bias).clamp(min=finest)  # (B, K)
    magnitude = magnitude + lr * length[:, None] * (length[:, None] * error.abs()).cumsum(0)
    bound = 2 * (x.shape[1] + len(x) + 2) * torch.finfo(x.dtype).eps * magnitude
    return error, bool((u.abs() > bound).all())
