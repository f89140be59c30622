"""Mistakes of arrangement: the right numbers in another place, shape or order."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

from torch import Tensor

from nnlab.verify.evidence import Evidence, Guess, only

Change = Callable[[Tensor], Tensor]


def guesses(evidence: Evidence) -> Iterator[Guess]:
    """Transposed, reversed, shifted, in another order, in another shape, summed too much."""
    for i in sorted(evidence.wrong):
        yield from _one(evidence, i)
    yield from _order(evidence)


def _one(evidence: Evidence, i: int) -> Iterator[Guess]:
    n, name = len(evidence.wanted), evidence.names[i]
    right, claimed = evidence.generic[0].right[i], evidence.generic[0].claimed[i]

    def guess(fault: str, words: str, change: Change) -> Guess:
        def predict(k: int) -> list[Tensor | None]:
            try:
                rest = evidence.penalties[k][i]
                data = change(evidence.generic[k].right[i] - rest)
                return list(only(i, n, data + rest if data.shape == rest.shape else data))
            except RuntimeError:  # the change does not fit the shape
                return list(only(i, n, None))

        return Guess(fault, f"{name} {words}", predict)

    if right.ndim == 2:
        yield guess("transposed", "is the transpose of the right one", lambda r: r.T)
        yield guess("transposed", "is the transpose, reshaped", lambda r: r.T.reshape(r.shape))
    for axis in range(right.ndim):
        if right.shape[axis] > 1:
            yield guess("reversed", f"is the right one, reversed along axis {axis}", partial(_flipped, axis))
            for shift in (1, -1):
                words = f"is the right one, shifted by {shift} along axis {axis}"
                yield guess("reversed", words, partial(_rolled, axis, shift))
    if claimed.shape != right.shape and claimed.numel() == right.numel():
        words = f"has the shape {tuple(claimed.shape)}, its input {tuple(right.shape)}"
        yield guess("keepdims", words, lambda r: r.reshape(claimed.shape))
    if claimed.numel() > right.numel():
        yield from _not_summed(evidence, i, name)
    for axes, mean in product([None, *range(right.ndim)], (False, True)):
        if right.numel() > 1:
            what = f"{'averaged' if mean else 'summed'}{'' if axes is None else f' over axis {axes}'}"
            for keep in (False, True):
                yield guess(
                    "summed-too-much",
                    f"is the right one, {what}",
                    partial(_reduced, axes, mean, keep, claimed),
                )


def _flipped(axis: int, right: Tensor) -> Tensor:
    return right.flip(axis)


def _rolled(axis: int, shift: int, right: Tensor) -> Tensor:
    return right.roll(shift, axis)


def _reduced(axis: int | None, mean: bool, keep: bool, claimed: Tensor, right: Tensor) -> Tensor:
    axes = tuple(range(right.ndim)) if axis is None else (axis,)
    total = right.mean(axes, keepdim=keep) if mean else right.sum(axes, keepdim=keep)
    return total.expand(right.shape) if keep and claimed.shape == right.shape else total


def _not_summed(evidence: Evidence, i: int, name: str) -> Iterator[Guess]:
    """The leading axes, summed, give the right gradient: predict what came, where they do."""
    n = len(evidence.wanted)

    def predict(k: int) -> list[Tensor | None]:
        claimed, right = evidence.generic[k].claimed[i], evidence.generic[k].right[i]
        for axis in range(claimed.ndim):
            for total in (claimed.sum(axis), claimed.mean(axis)):
                if total.shape == right.shape and evidence.close(total, right, i):
                    return list(only(i, n, claimed))
        return list(only(i, n, None))

    shape = tuple(evidence.generic[0].claimed[i].shape)
    yield Guess("not-summed", f"{name} has the shape {shape}, and its sum over the samples is right", predict)


def _order(evidence: Evidence) -> Iterator[Guess]:
    """Each wrong gradient is the right one of another input."""
    n = len(evidence.wanted)
    for i, j in product(sorted(evidence.wrong), range(n)):
        if i != j:

            def predict(k: int, i: int = i, j: int = j) -> list[Tensor | None]:
                return list(only(i, n, evidence.generic[k].right[j]))

            yield Guess("order", f"{evidence.names[i]} is the right {evidence.names[j]}", predict)
