"""The perceptron's learning rule for a block of samples at once, with the sequential rule's answer.

Within a block the error of sample n depends only on the errors before it: with S the net inputs before the block
and L = tril(X Xᵀ + 1, −1), the errors satisfy e = g(S − η L e) − d. L is strictly triangular, so there is one
solution, and it is the sequential rule's. Iterated from e = g(S) − d, the first r entries are final after r sweeps,
and two equal sweeps certify the answer.
"""

import torch
from torch import Tensor

from nnlab.networks import PerceptronBank
from nnlab.ops import StepFunction, linear_forward, perceptron_rule, step
from nnlab.ops.perceptron import check_desired
from nnlab.validation import check_at_least, check_positive, check_tensors


def perceptron_rule_blocked(
    x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, lr: float, g: StepFunction = step, block: int = 64
) -> tuple[Tensor, Tensor, Tensor]:
    """``perceptron_rule`` in blocks of samples: the same arguments, and the same results to the last bit.

    Nearly all of the work is a few matrix products per block, in float64. The sequential rule's sums round differently:
    a sample with a net input too close to 0 for its sign to be certain is learnt by the sequential rule, and the block
    starts again after it. The updates are made one by one, in order.

    Raises:
        ArgumentError: as ``perceptron_rule``, or a block of fewer than 1 samples.
    """
    check_tensors(x=(x, "N I"), target=(target, "N K"), weight=(weight, "K I"), bias=(bias, "K"))
    check_desired("target", target, g)
    check_positive("lr", lr)
    check_at_least("block", block, 1)
    weight, bias = (p.clone(memory_format=torch.contiguous_format) for p in (weight, bias))
    errors = torch.empty_like(target)
    lr = float(torch.tensor(lr, dtype=x.dtype))  # as the sequential rule rounds it
    whole = lr.is_integer() and all(bool((t == t.round()).all()) for t in (x, weight, bias))
    n = 0
    while n < len(x):
        x_b = x[n : n + block]
        error, certain = _fixed_point(x_b, target[n : n + block], weight, bias, lr, g, whole)
        for i in error[:certain].any(1).nonzero().flatten().tolist():
            change = error[i] * lr
            weight.sub_(change[:, None] * x_b[i])  # rounded twice, as in the rule; ``addr_`` may round once
            bias.sub_(change)
        if certain < len(x_b):
            one = slice(n + certain, n + certain + 1)
            error[certain : certain + 1], weight, bias = perceptron_rule(x[one], target[one], weight, bias, lr, g)
            certain += 1
        errors[n : n + certain] = error[:certain]
        n += certain
    return errors, weight, bias


def learn_blocked_(bank: PerceptronBank, x: Tensor, labels: Tensor, lr: float) -> Tensor:
    """``bank.learn_`` by ``perceptron_rule_blocked``; the errors, (N, K)."""
    error, weight, bias = perceptron_rule_blocked(x, bank.desired(labels), bank.weight, bank.bias, lr, bank.g)
    bank.store_(error, weight, bias, x, lr)
    return error


def sample_error(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, g: StepFunction) -> Tensor:
    """The error y − d of each unit, (K,), for one sample x, (I,), rounded as in ``perceptron_rule``."""
    return g(weight @ x.clone(memory_format=torch.contiguous_format) + bias) - target


def _fixed_point(
    x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, lr: float, g: StepFunction, whole: bool
) -> tuple[Tensor, int]:
    """The errors of one block, (B, K), and how many samples from its start have certain errors.

    An error is certain where every net input is farther from 0 than rounding can move it, or where nothing is rounded:
    all values are whole numbers, and no sum can leave the range in which these are exact.
    """
    dtype, info = x.dtype, torch.finfo(x.dtype)
    x, target, weight, bias = (t.double() for t in (x, target, weight, bias))
    start = linear_forward(x, weight, bias)  # S, (B, K)
    gram = x @ x.T + 1  # (B, B); the 1 is the bias's constant input
    before = gram.tril(-1)  # L
    u, error = start, g(start) - target
    for _ in range(len(x)):
        u = torch.addmm(start, before, error, alpha=-lr)
        latest = g(u) - target
        if torch.equal(latest, error):
            break
        error = latest
    # |Σᵢ wᵢ xᵢ| <= ‖w‖ ‖x‖; a sum of n terms that are not 0 errs in any order by at most n ε/2 Σ|terms| to first order,
    # and so does w by its changes
    length = gram.diagonal().sqrt()  # ‖[1, x]‖, (B,)
    finest = (x.shape[1] * info.tiny) ** 0.5  # below it the squares of a norm underflow
    magnitude = length[:, None] * torch.hypot(weight.norm(dim=1), bias).clamp(min=finest)  # (B, K)
    magnitude = magnitude + lr * length[:, None] * (length[:, None] * error.abs()).cumsum(0)
    bound = (x.count_nonzero(1)[:, None] + len(x) + 4) * info.eps * magnitude
    certain = (u.abs() > bound) & (magnitude < info.max / 4)
    if whole:
        certain |= magnitude < 1 / info.eps
    return error.to(dtype), int(certain.all(1).long().cumprod(0).sum())
