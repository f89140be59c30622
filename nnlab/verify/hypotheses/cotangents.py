"""Mistakes with grad_output, with the samples of the batch, and with what is remembered from call to call."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from nnlab.verify.evidence import Evidence, Guess, Prediction


def guesses(evidence: Evidence) -> Iterator[Guess]:
    """The right backward, under another cotangent or at other inputs."""
    yield from _cotangents(evidence)
    yield from _memory(evidence)
    yield from _as_autograd(evidence)


def _as_autograd(evidence: Evidence) -> Iterator[Guess]:
    """What autograd gives where it has been refuted: a path that the forward hides from it is hidden from both."""
    reference = evidence.judge.reference
    if not reference.by_autograd:

        def predict(k: int) -> Prediction | None:
            point = evidence.generic[k].point
            return reference.autograd(point.inputs, point.cotangent)

        words = "{grads} autograd's, which does not see what the forward detaches (.item(), .detach(), NumPy)"
        yield Guess("detached", words, predict, words)


def _cotangents(evidence: Evidence) -> Iterator[Guess]:
    output = evidence.generic[0].point.output

    def guess(fault: str, words: str, change: Callable[[Tensor], Tensor]) -> Guess:
        def predict(k: int) -> Prediction | None:
            point = evidence.generic[k].point
            return evidence.vjp(point.inputs, change(point.cotangent))

        return Guess(fault, words, predict, words)

    yield guess("cotangent-ignored", "{grads} the right one for a grad_output of ones", torch.ones_like)
    yield guess("cotangent-twice", "{grads} the right one for grad_output²", torch.square)
    yield guess("absolute", "{grads} the right one for |grad_output|", torch.abs)
    if output.ndim == 0:
        return
    count = output.numel()
    yield guess(
        "cotangent-ignored",
        f"{{grads}} the right one for a grad_output of 1/{count} everywhere",
        lambda g: torch.full_like(g, 1 / count),
    )
    for words, total in [("sum", torch.sum), ("mean", torch.mean)]:
        yield guess(
            "cotangent-summed",
            f"{{grads}} the right one for the {words} of grad_output in every place",
            partial(_everywhere, total),
        )
        for axis in range(output.ndim if output.ndim > 1 else 0):
            yield guess(
                "cotangent-summed",
                f"{{grads}} the right one for the {words} of grad_output along axis {axis}",
                partial(_along, total, axis),
            )
    yield guess("cotangent-masked", "{grads} the right one for max(grad_output, 0)", torch.relu)
    if output.ndim == 2 and output.shape[0] == output.shape[1]:
        yield guess("cotangent-transposed", "{grads} the right one for the transpose of grad_output", _t)
    if len(output) > 1:
        for fault, words, keep in samples(len(output)):
            yield guess(fault, words, partial(_kept, keep))


def samples(n: int) -> list[tuple[str, str, slice]]:
    """Which samples may be all that counts."""
    return [
        ("first-sample", "{grads} the first sample's alone", slice(0, 1)),
        ("first-sample", "{grads} the last sample's alone", slice(n - 1, n)),
        ("sample-dropped", "{grads} the right one but for the last sample, which is missing", slice(0, n - 1)),
        ("sample-dropped", "{grads} the right one but for the first sample, which is missing", slice(1, n)),
    ]


def _kept(keep: slice, g: Tensor) -> Tensor:
    mask = torch.zeros_like(g)
    mask[keep] = 1.0
    return g * mask


def _everywhere(total: Callable[..., Tensor], g: Tensor) -> Tensor:
    return total(g).expand_as(g)


def _along(total: Callable[..., Tensor], axis: int, g: Tensor) -> Tensor:
    return total(g, axis, keepdim=True).expand_as(g)


def _t(tensor: Tensor) -> Tensor:
    return tensor.T


def _memory(evidence: Evidence) -> Iterator[Guess]:
    generic, wanted = evidence.generic, evidence.wanted

    def stale(
        subset: tuple[int, ...], back: Callable[[int], int], cotangent: bool
    ) -> Callable[[int], Prediction | None]:
        def predict(k: int) -> Prediction | None:
            if k == 0:
                return ()
            point, old = generic[k].point, generic[back(k)].point
            inputs = tuple(
                o if i in subset else v for i, (v, o) in enumerate(zip(point.inputs, old.inputs, strict=True))
            )
            return evidence.vjp(inputs, old.cotangent if cotangent else point.cotangent)

        return predict

    subsets = [(tuple(wanted), "the inputs")] + [
        ((i,), name) for i, name in zip(wanted, evidence.arguments, strict=True) if len(wanted) > 1
    ]
    for subset, name in subsets:
        for when, back in [("previous", lambda k: k - 1), ("first", lambda k: 0)]:
            words = f"{{grads}} the right one for {name} of the {when} call"
            yield Guess("stale-cache", words, stale(subset, back, False), words)
    words = "{grads} the right one for the previous call"
    yield Guess("stale-cache", words, stale(tuple(wanted), lambda k: k - 1, True), words)

    def accumulated(k: int) -> Prediction:
        return [sum((generic[j].right[i] for j in range(k)), generic[k].right[i]) for i in range(len(wanted))]

    yield Guess("not-zeroed", "{grads} the sum of the right ones of all calls so far", accumulated, "sum")
