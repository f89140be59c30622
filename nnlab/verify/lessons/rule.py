"""``perceptron_update``, held to the chapter's rule."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nnlab.verify.lessons.grade import Array, Call, Grade

Rule = Callable[[Array, Array, float, float, float, float], Array]  # w, x, d, eta, u, y -> new w


def _theta(sign: float) -> Rule:
    def rule(w: Array, x: Array, d: float, eta: float, u: float, y: float) -> Array:
        step = -eta * (y - d) * x
        step[0] *= sign
        return w + step

    return rule


RULES: dict[str, tuple[str, Rule]] = {
    "sign": (
        "the sign is wrong: w goes the wrong way (w ← w − η (y − d) x)",
        lambda w, x, d, eta, u, y: w + eta * (y - d) * x,
    ),
    "eta": ("η is missing: w ← w − η (y − d) x", lambda w, x, d, eta, u, y: w - (y - d) * x),
    "theta-sign": ("θ goes the wrong way: x₀ is −1, so θ ← θ + η (y − d)", _theta(-1.0)),
    "theta": ("θ is not learnt: w[0] must change too, with x₀ = −1", _theta(0.0)),
    "u-for-y": (
        "the net input u is used in place of the output y = g(u)",
        lambda w, x, d, eta, u, y: w - eta * (u - d) * x,
    ),
    "always": (
        "it updates when the prediction is right, too: only y − d may drive it",
        lambda w, x, d, eta, u, y: w + eta * d * x,
    ),
    "y-alone": ("y is used in place of y − d", lambda w, x, d, eta, u, y: w - eta * y * x),
    "x": ("x is missing: each weight moves by its own input", lambda w, x, d, eta, u, y: w - eta * (y - d)),
    "half": (
        "half of the update: the error is y − d, not its sign",
        lambda w, x, d, eta, u, y: w - eta * (y - d) / 2 * x,
    ),
    "step-alone": (
        "the update is returned without w: return w − η (y − d) x",
        lambda w, x, d, eta, u, y: -eta * (y - d) * x,
    ),
    "nothing": ("w comes back as it was: nothing is learnt", lambda w, x, d, eta, u, y: w),
}
"""Wrong rules by name: what to say, and what they compute."""


class _Sample(NamedTuple):
    w: Array
    x: Array
    d: float
    eta: float


def _samples(low: float, seed: int = 0) -> Iterator[_Sample]:
    """Random updates: right and wrong predictions, and net inputs of exactly 0."""
    draw = np.random.default_rng(seed)
    for n in range(40):
        size = int(draw.integers(1, 6))
        x = np.concatenate([[-1.0], draw.integers(-3, 4, size).astype(float)])
        w = draw.integers(-3, 4, size + 1).astype(float)
        if n % 4 == 0:
            w[0] = w[1:] @ x[1:]  # u = 0
        yield _Sample(w, x, float(draw.choice([low, 1.0])), float(draw.choice([0.1, 0.25, 0.5])))


def _output(u: float, low: float, at_zero: bool = True) -> float:
    return 1.0 if u > 0 or (at_zero and u == 0) else low


def grade_perceptron(call: Call) -> Grade:
    """Check ``perceptron_update(w, x, d, eta) -> w`` against the chapter's rule, with outputs −1/1 or 0/1."""
    name = "perceptron_update"
    grades = [_grade_rule(call, low) for low in (-1.0, 0.0)]
    for (fault, _), outputs in zip(grades, ("−1 and 1", "0 and 1"), strict=True):
        if not fault:
            return Grade(name, True, f"the chapter's rule, for outputs {outputs}")
    fault, words = min(grades, key=lambda grade: grade[0] == "unknown")
    return Grade(name, False, words, fault=fault)


def _grade_rule(call: Call, low: float) -> tuple[str, str]:
    samples = list(_samples(low))
    answers = []
    for sample in samples:
        found = call("perceptron_update", sample.w, sample.x, sample.d, sample.eta)
        if len(found) != 1 or found[0].shape != sample.w.shape:
            shape = found[0].shape if len(found) == 1 else f"{len(found)} results"
            return "shape", f"it must return the new w, of shape {sample.w.shape}, got {shape}"
        answers.append(found[0])

    def is_rule(rule: Rule, low: float = low, at_zero: bool = True) -> bool:
        def expected(s: _Sample) -> Array:
            u = float(s.w @ s.x)
            return rule(s.w, s.x, s.d, s.eta, u, _output(u, low, at_zero))

        return all(np.allclose(a, expected(s), rtol=1e-9, atol=1e-12) for a, s in zip(answers, samples, strict=True))

    def right(w: Array, x: Array, d: float, eta: float, u: float, y: float) -> Array:
        return w - eta * (y - d) * x

    if is_rule(right):
        return "", ""
    if is_rule(right, at_zero=False):
        return "at-zero", "right except where u = 0: the output is 1 there (u >= 0, not u > 0)"
    for fault, (words, rule) in RULES.items():
        if is_rule(rule) or is_rule(rule, at_zero=False):
            return fault, words
    for s, a in zip(samples, answers, strict=True):
        u = float(s.w @ s.x)
        if not np.allclose(a, right(s.w, s.x, s.d, s.eta, u, _output(u, low))):
            given = f"w = {s.w.tolist()}, x = {s.x.tolist()}, d = {s.d:g}, η = {s.eta}"
            expected = right(s.w, s.x, s.d, s.eta, u, _output(u, low)).tolist()
            return (
                "unknown",
                f"not w ← w − η (y − d) x: for {given} it gives {a.tolist()}, expected {expected}",
            )
    return "unknown", "not the rule w ← w − η (y − d) x"
