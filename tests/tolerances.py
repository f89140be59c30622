"""Comparisons of floating-point tensors within the tolerances of ``nnlab.verify.tolerances``.

``assert_close`` goes through ``torch.testing.assert_close``, which refuses NaN, a wrong shape and a broadcast, and
checks the *relative Frobenius* error of the whole tensor, so that a large entry cannot hide behind many small ones,
nor a tiny one fail on rounding.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nnlab.verify.tolerances import RELATIVE, TRAJECTORY

__all__ = ["RELATIVE", "TRAJECTORY", "assert_as_precise", "assert_close"]


def assert_close(actual: Tensor, expected: Tensor, relative: float | None = None) -> None:
    """Check that ``actual`` is ``expected``: shape, dtype, device, no NaN, and the relative Frobenius error."""
    relative = RELATIVE[expected.dtype] if relative is None else relative
    scale = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=10 * relative * scale)
    error = torch.linalg.vector_norm((actual - expected).double())
    norm = torch.linalg.vector_norm(expected.double())
    assert error <= relative * norm, f"relative Frobenius error {error / norm:.2e} > {relative:.0e}"


def assert_as_precise(actual: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """Check error(ours) <= 2 error(torch in the same dtype) + 2 eps max|exact|, both against float64.

    Each error is the largest of all entries.
    """
    assert exact.dtype == torch.float64
    assert actual.dtype == theirs.dtype
    assert actual.shape == theirs.shape == exact.shape
    eps = torch.finfo(actual.dtype).eps
    ours, torchs = (actual.double() - exact).abs().max(), (theirs.double() - exact).abs().max()
    assert ours <= 2 * torchs + 2 * eps * exact.abs().max(), f"error {ours:.2e}, torch's {torchs:.2e}"


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that the tensors are the same bit for bit; a NaN is the same as a NaN."""
    torch.testing.assert_close(dict(actual), dict(expected), rtol=0, atol=0, equal_nan=True)
