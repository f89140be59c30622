"""Mistakes with δ at the loss, with grad_output, with factors, terms and numbers."""

from collections.abc import Callable

import torch
from torch import Tensor

from nnlab.ops import LOSSES
from nnlab.verify.backprop import Backward, onehot, per_sample, probabilities
from nnlab.verify.mutants.draw import Draw, Make, whole, with_steps
from nnlab.verify.subjects import Subject


def _delta(change: Callable[[str, Tensor, Tensor], Tensor], *losses: str) -> Make:
    def make(subject: Subject, draw: Draw) -> Backward | None:
        return with_steps(subject, delta=change) if subject.loss in losses else None

    return make


def _sample(change: Callable[[Tensor, int, str, Tensor | None], Tensor], when: Callable[[Subject], bool]) -> Make:
    return lambda subject, draw: with_steps(subject, sample=change) if subject.loss and when(subject) else None


def _weighted(subject: Subject) -> bool:
    return subject.loss is not None and subject.inputs[subject.n_wanted + 1] is not None


def _scaled(scale: Callable[[Subject], float | None]) -> Make:
    """A factor on all gradients, or on those of the weights and biases."""

    def make(subject: Subject, draw: Draw) -> Backward | None:
        c, first = scale(subject), 0 if subject.n_wanted == 1 else whole(draw, 0, 1)
        if c is None:
            return None
        return with_steps(subject, finish=lambda found, _: [g * (c if k >= first else 1) for k, g in enumerate(found)])

    return make


def _k(subject: Subject) -> int:
    return len(subject.inputs[subject.n_wanted - 1]) if subject.layers else subject.inputs[0].shape[1]


def _finished(change: Callable[[Tensor], Tensor]) -> Make:
    """Something done to one of the gradients, or to all."""

    def make(subject: Subject, draw: Draw) -> Backward | None:
        one = whole(draw, -1, subject.n_wanted - 1)
        return with_steps(
            subject, finish=lambda found, _: [change(g) if one in {-1, k} else g for k, g in enumerate(found)]
        )

    return make


def _start(change: Callable[[Tensor], Tensor], when: Callable[[Subject], bool] = lambda s: True) -> Make:
    return lambda subject, draw: with_steps(subject, start=change) if when(subject) else None


def _penalised(step: str, change: Callable[[Tensor, float], Tensor]) -> Make:
    return lambda subject, draw: with_steps(subject, **{step: change}) if subject.l2 else None


def _no_loss(subject: Subject) -> bool:
    return subject.loss is None


ALL = tuple(LOSSES)
CROSS = tuple(name for name in ALL if LOSSES[name].output_name != "identity")

LOSS_MUTANTS: dict[str, Make] = {
    "zero": _finished(torch.zeros_like),
    "sign": _scaled(lambda s: -1.0),
    "batch-mean-missing": _sample(
        lambda g, n, r, w: per_sample(g, n, "sum", w), lambda s: s.reduction == "mean" and not _weighted(s) and not s.l2
    ),
    "batch-mean-extra": lambda s, draw: with_steps(s, finish=lambda found, _: [g / len(found[0]) for g in found]),
    "factor-two": _scaled(lambda s: 2.0),
    "factor-half": _scaled(lambda s: 0.5),
    "outputs-mean-missing": _scaled(lambda s: float(_k(s))),
    "outputs-mean-extra": _scaled(lambda s: 1 / _k(s)),
    "weighted-mean": _sample(
        lambda g, n, r, w: per_sample(g / n, n, "sum", w), lambda s: s.reduction == "mean" and _weighted(s) and not s.l2
    ),
    "constant-factor": _scaled(lambda s: 0.01),
    "cotangent-ignored": _start(torch.ones_like),
    "cotangent-summed": _start(lambda g: g.sum().expand_as(g), _no_loss),
    "cotangent-twice": _start(torch.square),
    "cotangent-transposed": _start(lambda g: g.T if len(g) == len(g.T) else g, _no_loss),
    "order": lambda s, draw: with_steps(s, finish=lambda found, _: [*found[1:], found[0]]) if s.layers else None,
    "onehot-missing": _delta(lambda name, u, t: probabilities(name, u), *ALL),
    "softmax-for-sigmoid": _delta(lambda name, u, t: u.softmax(1) - t, "binary_cross_entropy"),
    "sigmoid-for-softmax": _delta(lambda name, u, t: u.sigmoid() - onehot(u, t), "softmax_cross_entropy"),
    "softmax-axis": _delta(lambda name, u, t: u.softmax(0) - onehot(u, t), "softmax_cross_entropy"),
    "label-shifted": _delta(
        lambda name, u, t: probabilities(name, u) - onehot(u, t).roll(1, 1), "softmax_cross_entropy"
    ),
    "logits-for-probabilities": _delta(lambda name, u, t: u - onehot(u, t), *CROSS),
    "label-entry-only": _delta(
        lambda name, u, t: (u.softmax(1) - onehot(u, t)) * onehot(u, t), "softmax_cross_entropy"
    ),
    "derivative-not-cancelled": _delta(
        lambda name, u, t: (
            (probabilities(name, u) - onehot(u, t)) * probabilities(name, u) * (1 - probabilities(name, u))
        ),
        *CROSS,
    ),
    "positive-term-only": _delta(lambda name, u, t: t * (u.sigmoid() - 1), "binary_cross_entropy"),
    "target-rounded": _delta(lambda name, u, t: u.sigmoid() - t.round(), "binary_cross_entropy"),
    "sample-weight-ignored": _sample(lambda g, n, r, w: per_sample(g, n, r, None), _weighted),
    "sample-weight-twice": _sample(
        lambda g, n, r, w: per_sample(g, n, r, None if w is None else w * w),
        lambda s: _weighted(s) and s.reduction == "sum",
    ),
    "penalty-missing": _penalised("penalty", lambda w, l2: torch.zeros_like(w)),
    "penalty-extra": _penalised("penalty", lambda w, l2: 2 * l2 * w),
    "penalty-on-bias": _penalised("bias_penalty", lambda b, l2: l2 * b),
    "normalised": _finished(lambda g: g / g.norm()),
    "clipped": _finished(lambda g: g.clamp(-0.1, 0.1)),
    "absolute": _finished(torch.abs),
    "rounded": _finished(lambda g: g.half().to(g.dtype)),
    "not-finite": _finished(lambda g: g / 0),
}
"""How to make each of them."""
