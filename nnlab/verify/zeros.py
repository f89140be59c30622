"""Planting zeros until every relu of a forward has met u = 0 where its slope matters."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nnlab.verify.calls import Inputs, Pair
from nnlab.verify.points import ZEROS, inputs_of, normal_like
from nnlab.verify.trace import run

TRIES = 60


def zeros_for_every_relu(
    pair: Pair, inputs: Inputs, wanted: Sequence[int], generator: torch.Generator
) -> Iterator[tuple[str, Inputs]]:
    """Kinds and inputs of further points: new values with zeros planted, as many as it takes.

    A mask of the wrong side shows only at u = 0 exactly, and only where the relu's output reaches the result: behind a
    unit that is off it would not. Where autograd cannot follow the forward there is nothing to look at, and nothing
    more is planted.
    """
    missed = _relus(pair, inputs, wanted)
    for _ in range(TRIES if missed else 0):
        drawn = inputs_of("standard normal", inputs, wanted, generator)
        planted = tuple(_planted(v, generator) if i in wanted else v for i, v in enumerate(drawn))
        met = _met(pair, planted, wanted, generator)
        if met & missed:
            missed -= met
            yield ZEROS[0], planted
        if not missed:
            return


def _planted(x: Tensor, generator: torch.Generator) -> Tensor:
    """A row or a column of a matrix set to zero, or none; a vector whole, more often than not."""
    way = int(torch.randint(4, (), generator=generator))
    if x.ndim < 2 and way < 3:
        return torch.zeros_like(x)
    if x.ndim >= 2 and way < 2 and x.numel():
        x.select(way, int(torch.randint(x.shape[way], (), generator=generator))).zero_()
    return x


def _relus(pair: Pair, inputs: Inputs, wanted: Sequence[int]) -> set[int]:
    """The numbers of the calls of relu."""
    watched = None if pair.uses_arrays else run(pair.function, inputs, wanted)
    return {k for k, c in enumerate(watched.calls) if c.name.startswith("relu")} if watched else set()


def _met(pair: Pair, inputs: Inputs, wanted: Sequence[int], generator: torch.Generator) -> set[int]:
    """The numbers of the calls of relu that have u = 0 where the result depends on it."""
    watched = run(pair.function, inputs, wanted)
    if watched is None or not bool(torch.isfinite(watched.output).all()):
        return set()
    deltas = watched.deltas(normal_like(watched.output, generator))
    calls = [(k, call) for k, call in enumerate(watched.calls) if call.name.startswith("relu") and k in deltas]
    return {k for k, call in calls if bool(((call.arguments[0] == 0) & (deltas[k] != 0)).any())}
