"""``forward`` and ``backward``, held to the chapter's network."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnlab.ops import binary_cross_entropy_forward
from nnlab.verify.calls import CallError, Pair
from nnlab.verify.gradients import check_pair
from nnlab.verify.lessons.grade import Array, Call, Grade
from nnlab.verify.sandbox import LearnerError


def _network(seed: int, n: int, i: int, h: int, k: int) -> list[Array]:
    """X, w_h, b_h, w_out, b_out, y_enc."""
    draw = np.random.default_rng(seed)
    weights = [draw.normal(size=s) for s in ((n, i), (i, h), (h,), (h, k), (k,))]
    return [*weights, np.eye(k)[draw.integers(0, k, n)]]


def _sigmoid(z: Array) -> Array:
    return np.asarray(torch.sigmoid(torch.from_numpy(z)))


def chapter_forward(X: Array, w_h: Array, b_h: Array, w_out: Array, b_out: Array) -> tuple[Array, ...]:
    """The chapter's forward pass: z_h, a_h, z_out, a_out."""
    z_h = X @ w_h + b_h
    a_h = _sigmoid(z_h)
    z_out = a_h @ w_out + b_out
    return z_h, a_h, z_out, _sigmoid(z_out)


def grade_forward(call: Call) -> Grade:
    """Hold ``forward(X, w_h, b_h, w_out, b_out) -> (z_h, a_h, z_out, a_out)`` to the chapter's."""
    name = "forward"
    for seed, sizes in enumerate([(7, 5, 4, 3), (1, 3, 2, 4), (4, 4, 4, 4)]):
        inputs = _network(seed, *sizes)[:5]
        found, right = call(name, *inputs), chapter_forward(*inputs)
        if len(found) != 4:
            return Grade(
                name, False, f"it must return (z_h, a_h, z_out, a_out), got {len(found)} results", fault="count"
            )
        for what, ours, theirs in zip(("z_h", "a_h", "z_out", "a_out"), found, right, strict=True):
            if ours.shape != theirs.shape:
                return Grade(name, False, f"{what} must have shape {theirs.shape}, got {ours.shape}", fault="shape")
            if not np.allclose(ours, theirs, rtol=1e-9, atol=1e-12):
                return Grade(name, False, _what_is_wrong(what, ours, inputs, right), fault=f"wrong {what}")
    X, w_h, b_h, w_out, b_out = _network(0, 7, 5, 4, 3)[:5]
    large = call(name, 1e4 * X, w_h, b_h, w_out, b_out)
    if not all(np.isfinite(one).all() for one in large):
        return Grade(name, False, "NaN or infinity where |z| is 10,000: clip z in the sigmoid", fault="overflow")
    return Grade(name, True, "the chapter's forward pass")


def _what_is_wrong(what: str, found: Array, inputs: list[Array], right: tuple[Array, ...]) -> str:
    X, w_h, b_h, w_out, b_out = inputs
    z_h, a_h, z_out, _ = right
    exponent = np.exp(z_out)
    guesses: dict[str, list[tuple[str, Array]]] = {
        "z_h": [("the bias b_h is not added", X @ w_h), ("b_h is subtracted", X @ w_h - b_h)],
        "a_h": [
            ("the sigmoid is missing", z_h),
            ("it is tanh, not the logistic sigmoid", np.tanh(z_h)),
            ("it is relu, not the logistic sigmoid", np.maximum(z_h, 0)),
            ("the sign in e^−z is wrong: this is σ(−z)", _sigmoid(-z_h)),
            ("the sigmoid is taken twice", _sigmoid(a_h)),
        ],
        "z_out": [
            ("it is computed from z_h in place of a_h", z_h @ w_out + b_out),
            ("the bias b_out is not added", a_h @ w_out),
            ("b_out is subtracted", a_h @ w_out - b_out),
        ],
        "a_out": [
            ("the sigmoid is missing", z_out),
            ("it is a softmax; the chapter's output units are sigmoids", exponent / exponent.sum(1, keepdims=True)),
            ("it is tanh, not the logistic sigmoid", np.tanh(z_out)),
            ("the sign in e^−z is wrong: this is σ(−z)", _sigmoid(-z_out)),
        ],
    }
    for words, value in guesses[what]:
        if np.allclose(found, value, rtol=1e-9, atol=1e-12):
            return f"{what} is wrong: {words}"
    return f"{what} is wrong, by up to {np.abs(found - right[('z_h', 'a_h', 'z_out', 'a_out').index(what)]).max():.3g}"


def grade_backward(call: Call) -> Grade:
    """Check ``backward(X, y_enc, cache, w_out)`` against the gradient of the chapter's cost, without its l2 term."""
    name = "backward"

    def cost(X: Tensor, w_h: Tensor, b_h: Tensor, w_out: Tensor, b_out: Tensor, y_enc: Tensor) -> Tensor:
        a_h = torch.sigmoid(X @ w_h + b_h)
        return binary_cross_entropy_forward(a_h @ w_out + b_out, y_enc)

    def backward(grad_output: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
        X, w_h, b_h, w_out, b_out, y_enc = (np.asarray(v) for v in inputs)
        try:
            found = call(name, X, y_enc, chapter_forward(X, w_h, b_h, w_out, b_out), w_out)
        except LearnerError as error:
            raise CallError("raises", str(error)) from error
        if len(found) != 4:
            raise CallError(
                "count", f"it must return (grad_w_h, grad_b_h, grad_w_out, grad_b_out), got {len(found)} results"
            )
        return None, *(grad_output * torch.from_numpy(np.asarray(f, dtype=np.float64)) for f in found), None

    names = ("X", "w_h", "b_h", "w_out", "b_out", "y_enc")
    for seed, sizes in enumerate([(7, 5, 4, 3), (4, 4, 4, 4), (1, 3, 2, 4)]):
        inputs = [torch.from_numpy(v) for v in _network(seed, *sizes)]
        report = check_pair(Pair(cost, backward, inputs, names), inputs, name, torch.float64, seed)
        if not report.ok:
            return Grade(name, False, report.diagnosis, fault=report.findings[0].fault)
    return Grade(name, True, "the gradient of the chapter's cost, to rounding")
