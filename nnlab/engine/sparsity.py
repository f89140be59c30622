"""Whether the first layer's inputs are worth having without their zeros, and can be had so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nnlab.engine.samples import Samples

if TYPE_CHECKING:
    from nnlab.engine.sparse import SparseFirst

logger = logging.getLogger("nnlab")

WORTH = 1 << 20  # inputs: of fewer, a compiler takes longer than it spares
UNITS = 32  # of fewer, the dense products are as quick
PAYS = 0.4  # of the inputs: where more than that are not zero, dense products are as quick


def sparse_first(samples: Samples, x: Tensor, weight: Tensor) -> SparseFirst | None:
    """The first layer on inputs without their zeros; None where these are few, or numba (extra ``fast``) is missing.

    Args:
        samples: whose inputs are ``x``.
        x: (N, I).
        weight: of the layer, (O, I).
    """
    on_cpu = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    if not on_cpu or x.numel() < WORTH or len(weight) < UNITS or int(x.count_nonzero()) > PAYS * x.numel():
        return None
    try:
        from nnlab.engine.sparse import SparseFirst  # noqa: PLC0415 - numba takes long to import

        return SparseFirst(samples, x, weight)
    except Exception as problem:  # whatever a compiler raises that is not there, or does not work here
        reason = str(problem).partition("\n")[0] or type(problem).__name__
        logger.info("the first layer multiplies by zeros too, which takes longer: %s", reason)
        return None
