"""A torch function with the values of one that autograd cannot follow, so that mistakes can be tried in it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.verify.calls import Inputs
from nnlab.verify.points import Point

Function = Callable[..., Tensor]


def twin(points: Sequence[Point]) -> Function | None:
    """A perceptron of any depth, an activation or a loss with the same outputs at every point, if one has."""
    inputs = points[0].inputs
    pairs = _pairs(inputs)
    if pairs is None:
        return None
    for function in _functions(inputs, pairs):
        if all(_agrees(function, point) for point in points):
            return function
    return None


def _pairs(inputs: Inputs) -> int | None:
    """How many (weight, bias) pairs follow the first input; None where there is no matrix to begin with."""
    if not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
        return None
    pairs = 0
    while 2 + 2 * pairs < len(inputs):
        weight, bias = inputs[1 + 2 * pairs : 3 + 2 * pairs]
        layer = all(isinstance(v, Tensor) and v.is_floating_point() for v in (weight, bias))
        if not layer or weight.ndim != 2 or bias.ndim != 1 or len(bias) not in weight.shape:
            break
        pairs += 1
    return pairs


def _functions(inputs: Inputs, pairs: int) -> Iterator[Function]:
    rest = inputs[1 + 2 * pairs :]
    heads: list[Callable[[Tensor, Sequence[Any]], Tensor]] = [lambda y, rest: y]
    if rest and isinstance(rest[0], Tensor):
        weighted = len(rest) > 1 and isinstance(rest[1], Tensor)
        for name, reduction in product(LOSSES, ("sum", "mean")):
            heads.append(lambda y, rest, n=name, r=reduction: LOSSES[n].forward(y, rest[0], r))  # type: ignore[misc]
            if weighted:
                heads.append(lambda y, rest, n=name, r=reduction: LOSSES[n].forward(y, rest[0], r, rest[1]))  # type: ignore[misc]
    for turned, hidden, last, head in product((False, True), ACTIVATIONS, ACTIVATIONS, heads):
        if (pairs or not turned) and (pairs > 1 or hidden == "identity"):
            yield _function(pairs, turned, hidden, last, head)


def _function(pairs: int, turned: bool, hidden: str, last: str, head: Callable[..., Tensor]) -> Function:
    def function(*inputs: Any) -> Tensor:
        o = inputs[0]
        for k in range(pairs):
            weight = inputs[1 + 2 * k]
            u = o @ (weight if turned else weight.T) + inputs[2 + 2 * k]
            o = ACTIVATIONS[last if k == pairs - 1 else hidden].forward(u)
        if not pairs:
            o = ACTIVATIONS[last].forward(o)
        return head(o, inputs[1 + 2 * pairs :])

    return function


def _agrees(function: Function, point: Point) -> bool:
    try:
        value = function(*point.inputs)
    except (RuntimeError, ValueError):
        return False
    return value.shape == point.output.shape and torch.allclose(value, point.output.to(value), rtol=1e-9, atol=1e-12)
