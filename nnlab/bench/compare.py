"""Who computes the same is timed, who computes something else is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from nnlab.bench.problem import Learner


class SomethingElseError(Exception):
    """A peer's results are not ours."""


def difference(found: Sequence[Tensor], expected: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """How far apart two are after training, relative to how far they came: ‖found − expected‖ / ‖expected − start‖.

    The largest of all parameters, so that no bias hides behind the weights; inf where one is not finite.

    Raises:
        SomethingElseError: another number of parameters, or other shapes.
    """
    if [p.shape for p in found] != [p.shape for p in expected]:
        raise SomethingElseError("its parameters have other shapes")
    worst = 0.0
    for a, b, c in zip(found, expected, start, strict=True):
        a64, b64, c64 = (t.detach().cpu().double() for t in (a, b, c))
        apart, moved = float((a64 - b64).norm()), float((b64 - c64).norm())
        if apart != 0:
            worst = max(worst, apart / moved if moved > 0 and apart < float("inf") else float("inf"))
    return worst


def hold(
    make: Callable[[], Learner], order: Tensor, expected: Sequence[Tensor], start: Sequence[Tensor], tolerance: float
) -> tuple[Learner, float]:
    """Make a learner, let it learn some samples, and hold it to what is expected then.

    Returns:
        the learner, and how far it is from what is expected.

    Raises:
        SomethingElseError: farther than the tolerance.
    """
    learner = make()
    learner.train(order)
    apart = difference(learner.parameters(), expected, start)
    if apart > tolerance:
        raise SomethingElseError(f"its weights differ from ours by {apart:.1e} of the way they came")
    return learner, apart


def words(error: Exception) -> str:
    """What went wrong with a peer, in one line."""
    if isinstance(error, SomethingElseError):
        return f"not timed: it computes something else: {error}"
    if isinstance(error, ImportError):
        return f"not installed: {error.name}; pip install 'nnlab[bench]'"
    said = str(error).strip().splitlines()
    return f"not timed: {type(error).__name__}{f': {said[0]}' if said else ''}"
