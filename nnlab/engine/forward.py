"""Forward propagation alone, of many samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nnlab.engine.inplace import activate_
from nnlab.engine.samples import Sparse
from nnlab.engine.step import Layer, net_inputs

AT_ONCE = 1024  # samples: what lies between two layers then stays in the cache


def forward_(
    parts: Sequence[Tensor | Sparse], layers: Sequence[Layer], activations: Sequence[str], outputs: Tensor
) -> None:
    """Write the network's outputs for samples in parts, one after the other.

    Args:
        parts: x, (n, I), at most ``AT_ONCE`` samples each but the last not fewer.
        layers: from the input to the output.
        activations: the name of each layer's, the output layer's included.
        outputs: where they are written, (N, K).

    Source: chapter 3, eqs. 3.1 to 3.4.
    """
    space = [outputs.new_empty(min(AT_ONCE, len(outputs)), len(layer.bias)) for layer in layers[:-1]]
    for x, into in zip(parts, torch.split(outputs, AT_ONCE), strict=True):
        z = x
        for layer, name, u in zip(layers, activations, [*(t[: len(x)] for t in space), into], strict=True):
            for operation in (net_inputs(z, layer, u), activate_(name, u)):
                operation()
            z = u
