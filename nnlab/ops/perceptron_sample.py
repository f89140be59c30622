"""The two halves of the perceptron's rule for one sample, as everything that learns by it has to round them."""

from collections.abc import Callable

import torch
from torch import Tensor

StepFunction = Callable[[Tensor], Tensor]


def sample_error(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, g: StepFunction) -> Tensor:
    """The error y − d of each unit, (K,), for one sample.

    Where its operands lie can decide how a product rounds. The sample is therefore copied to memory of its own, and a
    score within rounding of 0 is judged alike wherever the sample comes from.

    Args:
        x: (I,).
        target: d, (K,).
        weight: (K, I), contiguous in memory of its own.
        bias: (K,).
        g: ``step`` or ``bipolar_step``.
    """
    return g(torch.mv(weight, x.clone(memory_format=torch.contiguous_format)) + bias) - target


def change_(weight: Tensor, bias: Tensor, step: Tensor, x: Tensor) -> None:
    """Change w to w − s x and −θ to −θ − s in place, with s = η (y − d), (K,), for one sample, (I,).

    The product is rounded, and so is the difference. In one operation, such as ``addr_``, they would be rounded once or
    twice as the machine has it.
    """
    weight.sub_(step[:, None] * x)
    bias.sub_(step)
