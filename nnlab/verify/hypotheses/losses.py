"""Mistakes in δ at the loss: the loss inside the forward is found by its value, however it was written."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nnlab.ops import LOSSES
from nnlab.validation import ArgumentError
from nnlab.verify.evidence import Evidence, Guess, Prediction
from nnlab.verify.trace import Call, Run, with_gradient


class LossPlace(NamedTuple):
    """Call number ``call`` returned ``scale`` × the loss of the matrix ``u`` and the target ``t``."""

    call: int
    name: str
    u: Tensor
    t: Tensor  # (N, K), one-hot for labels
    weight: Tensor | None
    reduction: str
    scale: float


Delta = Callable[[Tensor, Tensor], Tensor]


def _usual(loss: str) -> Delta:
    return lambda u, t: LOSSES[loss].output(u) - t


def find(run: Run, constants: Sequence[Tensor]) -> LossPlace | None:
    """The loss whose value one of the calls returned."""
    scalars = [(k, float(c.output)) for k, c in enumerate(run.calls) if c.output.ndim == 0 and c.output.requires_grad]
    tensors = [*run.leaves, *(c.output for c in run.calls)]
    matrices = [t for t in tensors if t.requires_grad and t.ndim in {1, 2} and t.numel() > 0]
    known = _distinct([*constants, *(a for c in run.calls for a in c.arguments if not a.requires_grad), *run.leaves])
    for u, t, name in product(_distinct(matrices), known, LOSSES):
        logits = u if u.ndim == 2 else u[:, None]
        target = _target(t, logits)
        if target is None or t is u:
            continue
        weights = [
            None,
            *(w for w in known if w.ndim == 1 and w.is_floating_point() and len(w) == len(u) and w is not t),
        ]
        for weight, reduction in product(weights, ("mean", "sum")):
            value = _value(name, logits.detach(), target, reduction, weight)
            for k, scalar in scalars if value else ():
                for scale in (1.0, 2.0, 1 / logits.shape[1], 2 / logits.shape[1]):
                    if abs(scalar - scale * value) <= 1e-10 * abs(scalar):
                        return LossPlace(k, name, u, target, weight, reduction, scale)
    return None


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    found: list[Tensor] = []
    for tensor in tensors:
        if not any(tensor.shape == f.shape and tensor.dtype == f.dtype and torch.equal(tensor, f) for f in found):
            found.append(tensor)
    return found


def _target(t: Tensor, logits: Tensor) -> Tensor | None:
    if t.is_floating_point():
        t = t.detach() if t.ndim == 2 else t.detach()[:, None] if t.ndim == 1 else t.detach()
        return t if t.shape == logits.shape else None
    if t.dtype != torch.int64 or t.shape != logits.shape[:1] or not len(t):
        return None
    in_range = int(t.min()) >= 0 and int(t.max()) < logits.shape[1]
    return one_hot(t, logits.shape[1]).to(logits) if in_range else None


def _value(name: str, u: Tensor, t: Tensor, reduction: str, weight: Tensor | None) -> float:
    labels = LOSSES[name].target == "labels"
    if labels and not (bool(((t == 0) | (t == 1)).all()) and bool((t.sum(1) == 1).all())):
        return 0.0
    try:
        forward = LOSSES[name].forward
        return float(forward(u, t.argmax(1) if labels else t, reduction, None if weight is None else weight.detach()))
    except ArgumentError:  # a target or a weight out of range: this is not the loss
        return 0.0


def guesses(evidence: Evidence) -> Iterator[Guess]:
    """Each wrong δ at the loss."""
    run = evidence.runs[0] if evidence.runs else None
    if run is None:
        return
    constants = [v for i, v in enumerate(evidence.inputs) if isinstance(v, Tensor) and i not in evidence.wanted]
    place = find(run, [evidence.judge.reference.widened((c,))[0] for c in constants])
    if place is None:
        return
    name = place.name.replace("_", " ")
    usual, output = _usual(place.name), LOSSES[place.name].output_name

    def guess(fault: str, words: str, delta: Delta, weight: Callable[[Tensor], Tensor] | None = None) -> Guess:
        return Guess(fault, f"δ at the {name} is {words}", _predicted(evidence, place, delta, weight), words)

    yield guess("onehot-missing", "y in place of y − t", lambda u, t: usual(u, torch.zeros_like(t)))
    yield guess("onehot-missing", "−t in place of y − t", lambda u, t: -t)
    if output != "identity":
        yield guess("logits-for-probabilities", "u − t", lambda u, t: u - t)
        yield guess("label-entry-only", "y − t where t is not 0, and else 0", lambda u, t: usual(u, t) * (t != 0))
        yield guess(
            "derivative-not-cancelled", "(y − t) h'(u)", lambda u, t: usual(u, t) * u.sigmoid() * (1 - u.sigmoid())
        )
        yield guess(
            "derivative-not-cancelled",
            "(y − t) y (1 − y)",
            lambda u, t: usual(u, t) * u.softmax(1) * (1 - u.softmax(1)),
        )
        for shift in (1, -1):
            words = f"y − t with t shifted by {shift}"
            yield guess("label-shifted", words, partial(_shifted, usual, shift))
    if output == "sigmoid":
        yield guess("softmax-for-sigmoid", "softmax(u) − t", lambda u, t: u.softmax(1) - t)
        yield guess("positive-term-only", "t (y − 1)", lambda u, t: t * (u.sigmoid() - 1))
        yield guess("target-rounded", "y − round(t)", lambda u, t: usual(u, t.round()))
    if output == "softmax":
        yield guess("sigmoid-for-softmax", "σ(u) − t", lambda u, t: u.sigmoid() - t)
        yield guess("softmax-axis", "y − t with the softmax over the batch", lambda u, t: u.softmax(0) - t)
    if place.weight is not None:
        yield guess("sample-weight-ignored", "unweighted", usual, torch.ones_like)
        yield guess("sample-weight-twice", "weighted twice", usual, torch.square)
        yield guess("sample-weight-twice", "weighted by the square root", usual, torch.sqrt)
    if place.t.shape[1] == 1 and len(place.t) > 1:
        for words, total in [("summed", torch.sum), ("averaged", torch.mean)]:
            for axis in (0, 1):
                yield guess(
                    "broadcast",
                    f"y − t of all pairs of samples, {words}",
                    partial(_all_pairs, usual, total, axis),
                )


def _shifted(usual: Delta, shift: int, u: Tensor, t: Tensor) -> Tensor:
    return usual(u, t.roll(shift, 1))


def _all_pairs(usual: Delta, total: Callable[..., Tensor], axis: int, u: Tensor, t: Tensor) -> Tensor:
    return total(usual(u, t.T.expand(len(u), -1)), axis).reshape(u.shape)


def _predicted(
    evidence: Evidence, place: LossPlace, delta: Delta, weight: Callable[[Tensor], Tensor] | None
) -> Callable[[int], Prediction | None]:
    def predict(k: int) -> Prediction | None:
        run = evidence.runs[k]
        if run is None:
            return None
        source: list[Tensor] = []

        def intervene(number: int, call: Call) -> Tensor:
            source.extend(a for a in (*call.arguments, call.output) if a.requires_grad)
            if number != place.call:
                return call.output
            u = next((s for s in source if s.shape == place.u.shape and _is_place(s, run, evidence, k, place)), None)
            if u is None:
                return call.output
            logits = u.detach() if u.ndim == 2 else u.detach()[:, None]
            w = None if place.weight is None else place.weight.to(logits)
            norm = float((torch.ones(len(logits)) if w is None else w).sum()) if place.reduction == "mean" else 1.0
            if weight is not None and w is not None:
                w = weight(w)
                norm = float(w.sum()) if place.reduction == "mean" else 1.0
            found = delta(logits, place.t) * (1.0 if w is None else w[:, None]) * place.scale / norm
            return with_gradient(call.output, (u, lambda g: (g * found).reshape(u.shape)))

        return evidence.replayed(k, intervene)

    return predict


def _is_place(tensor: Tensor, run: Run, evidence: Evidence, k: int, place: LossPlace) -> bool:
    """Whether a tensor of this run is the one that the loss was found to be taken of."""
    tensors = [*run.leaves, *(c.output for c in run.calls)]
    first = evidence.runs[0]
    assert first is not None
    position = next(n for n, t in enumerate([*first.leaves, *(c.output for c in first.calls)]) if t is place.u)
    return position < len(tensors) and torch.equal(tensor, tensors[position])
