"""Wrong gradients, each of which the checks that accept the right one must refuse: a test that cannot fail is a defect.

A mutant is a change to one field of an ``Op``: its backward, its forward, or what is saved between the two. It must be
refused both by the comparison with autograd and by central differences; the one exception is named.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from nnlab import ops
from nnlab.ops import gradient_descent, gradient_descent_, perceptron_net_input, perceptron_rule_blocked, step
from tests.ops.oracles import CASES, OPS, Case, Op, check_autograd, check_central_differences, check_rule
from tests.tolerances import assert_close

CPU = torch.device("cpu")


def per_sample(grad: Tensor, logits: Tensor, reduction: str, w: Tensor | None) -> Tensor:
    """∂E/∂Eₙ as it should be."""
    scale = torch.ones(len(logits), 1, dtype=logits.dtype) if w is None else w[:, None]
    return grad * scale / (scale.sum() if reduction == "mean" else 1)


def squares(delta: Callable[[Tensor, Tensor], Tensor], scale: Callable[..., Tensor] = per_sample) -> Any:
    """A backward of the sum-of-squares error with another δ, or another ∂E/∂Eₙ."""
    return lambda grad, y, t, reduction, w: delta(y, t) * scale(grad, y, reduction, w)


def softmax(
    delta: Callable[[Tensor, Tensor], Tensor] = lambda u, onehot: torch.softmax(u, 1) - onehot,
    scale: Callable[..., Tensor] = per_sample,
) -> Any:
    """A backward of the softmax cross-entropy with another δ, or another ∂E/∂Eₙ."""

    def backward(grad: Tensor, u: Tensor, t: Tensor, reduction: str, w: Tensor | None) -> Tensor:
        onehot = torch.nn.functional.one_hot(t, u.shape[1]).to(u.dtype)
        return delta(u, onehot) * scale(grad, u, reduction, w)

    return backward


def right(y: Tensor, t: Tensor) -> Tensor:
    return y - t


class Mutant(NamedTuple):
    """What is wrong, with which operation, and the field that is."""

    name: str
    op: str
    change: dict[str, Any]
    central: bool = True  # central differences see it too

    def __str__(self) -> str:
        return f"{self.op}: {self.name}"


def linear(name: str, backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]) -> Mutant:
    return Mutant(name, "linear", {"backward": backward})


def loss(name: str, op: str, backward: Any) -> Mutant:
    return Mutant(name, op, {"backward": backward})


MUTANTS = [
    # the layer
    linear("delta transposed", lambda g, x, w: (g @ w, x.T @ g, g.sum(0))),
    linear("weight transposed", lambda g, x, w: (g @ (w.T if len(w) == len(w.T) else w), g.T @ x, g.sum(0))),
    linear(
        "delta transposed where square",
        lambda g, x, w: (g @ w, (x.T @ g if len(w) == len(w.T) else g.T @ x), g.sum(0)),
    ),
    linear("mean over the batch in the weight", lambda g, x, w: (g @ w, g.T @ x / len(x), g.sum(0))),
    linear("bias a mean for a sum", lambda g, x, w: (g @ w, g.T @ x, g.mean(0))),
    linear("bias summed over the outputs", lambda g, x, w: (g @ w, g.T @ x, g.sum(1)[: len(w)])),
    linear("bias of the first sample only", lambda g, x, w: (g @ w, g.T @ x, g[0])),
    linear("cotangent dropped", lambda g, x, w: (torch.ones_like(g) @ w, torch.ones_like(g).T @ x, g.sum(0))),
    linear("cotangent summed", lambda g, x, w: (g.sum() * torch.ones_like(g) @ w, g.T @ x, g.sum(0))),
    linear("sign", lambda g, x, w: (-g @ w, -g.T @ x, -g.sum(0))),
    linear("gradients in another order", lambda g, x, w: (g.T @ x, g @ w, g.sum(0))),
    linear("gradient of the input cut off", lambda g, x, w: (torch.zeros_like(x), g.T @ x, g.sum(0))),
    Mutant("stale x", "linear", {"saved": lambda a, _: (a[0].roll(1, 0), a[1])}),
    Mutant("weight updated before its use", "linear", {"saved": lambda a, _: (a[0], a[1] + 1e-2)}),
    Mutant("bias forgotten in the forward", "linear", {"forward": lambda x, w, b: x @ w.T}),
    # activations
    Mutant("h' forgotten", "sigmoid", {"backward": lambda g, z: g}),
    Mutant("h' taken at h(u)", "sigmoid", {"backward": lambda g, z: g * torch.sigmoid(z) * (1 - torch.sigmoid(z))}),
    Mutant("u saved for z", "sigmoid", {"saved": lambda a, _: a}),
    Mutant("h' of tanh", "sigmoid", {"backward": lambda g, z: g * (1 - z * z)}),
    Mutant("sign", "sigmoid", {"backward": lambda g, z: g * z * (z - 1)}),
    Mutant("cotangent dropped", "tanh", {"backward": lambda g, z: 1 - z * z}),
    Mutant("h' forgotten", "tanh", {"backward": lambda g, z: g}),
    Mutant("u saved for z", "tanh", {"saved": lambda a, _: a}),
    Mutant("square forgotten", "tanh", {"backward": lambda g, z: g * (1 - z)}),
    Mutant("h' of the sigmoid", "tanh", {"backward": lambda g, z: g * z * (1 - z)}),
    Mutant("mask forgotten", "relu", {"backward": lambda g, z: g}),
    Mutant(">= in the mask", "relu", {"backward": lambda g, u: g * (u >= 0), "saved": lambda a, _: a}, central=False),
    Mutant("mask inverted", "relu", {"backward": lambda g, z: g * (z <= 0)}),
    Mutant("times z for the mask", "relu", {"backward": lambda g, z: g * z}),
    Mutant("cotangent masked by its own sign", "relu", {"backward": lambda g, z: g * (g > 0)}),
    Mutant("times z", "identity", {"backward": lambda g, z: g * z}),
    # losses
    loss("factor 2", "sum_of_squares", squares(lambda y, t: 2 * (y - t))),
    loss("sign", "sum_of_squares", squares(lambda y, t: t - y)),
    loss("cotangent dropped", "sum_of_squares", squares(right, lambda g, *a: per_sample(torch.ones_like(g), *a))),
    loss("1/N forgotten", "sum_of_squares", squares(right, lambda g, y, _, w: per_sample(g, y, "sum", w))),
    loss("1/N always", "sum_of_squares", squares(right, lambda g, y, _, w: per_sample(g, y, "mean", w))),
    loss("off by K", "sum_of_squares", squares(lambda y, t: (y - t) / y.shape[1])),
    loss("sample weights forgotten", "sum_of_squares", squares(right, lambda g, y, r, w: per_sample(g, y, r, None))),
    loss(
        "weighted mean over N",
        "sum_of_squares",
        squares(right, lambda g, y, r, w: per_sample(g, y, "sum", w) / (len(y) if r == "mean" else 1)),
    ),
    loss(
        "sample weights squared",
        "sum_of_squares",
        squares(right, lambda g, y, r, w: per_sample(g, y, r, w) * (1 if w is None else w[:, None])),
    ),
    Mutant(
        "reported loss without the half",
        "sum_of_squares",
        {"forward": lambda *a: 2 * ops.sum_of_squares_forward(*a)},
    ),
    Mutant(
        "reported loss a mean over samples and outputs",
        "sum_of_squares",
        {"forward": lambda y, *a: ops.sum_of_squares_forward(y, *a) / (y.shape[1] if a[1] == "mean" else 1)},
    ),
    loss(
        "sigmoid's h' not cancelled",
        "binary_cross_entropy",
        lambda g, u, t, r, w: (u.sigmoid() - t) * u.sigmoid() * (1 - u.sigmoid()) * per_sample(g, u, r, w),
    ),
    loss("logits for probabilities", "binary_cross_entropy", lambda g, u, t, r, w: (u - t) * per_sample(g, u, r, w)),
    loss(
        "the positive term only",
        "binary_cross_entropy",
        lambda g, u, t, r, w: t * (u.sigmoid() - 1) * per_sample(g, u, r, w),
    ),
    loss(
        "softmax for the sigmoid",
        "binary_cross_entropy",
        lambda g, u, t, r, w: (u.softmax(1) - t) * per_sample(g, u, r, w),
    ),
    loss(
        "hard target",
        "binary_cross_entropy",
        lambda g, u, t, r, w: (u.sigmoid() - t.round()) * per_sample(g, u, r, w),
    ),
    loss("one-hot forgotten", "softmax_cross_entropy", softmax(lambda u, onehot: u.softmax(1))),
    loss("sigmoid for the softmax", "softmax_cross_entropy", softmax(lambda u, onehot: u.sigmoid() - onehot)),
    loss("softmax over the batch", "softmax_cross_entropy", softmax(lambda u, onehot: u.softmax(0) - onehot)),
    loss("label off by one", "softmax_cross_entropy", softmax(lambda u, onehot: u.softmax(1) - onehot.roll(1, 1))),
    loss("the label's entry only", "softmax_cross_entropy", softmax(lambda u, o: (u.softmax(1) - o) * o)),
    loss("off by K", "softmax_cross_entropy", softmax(scale=lambda g, u, r, w: per_sample(g, u, r, w) / u.shape[1])),
    loss("1/N forgotten", "softmax_cross_entropy", softmax(scale=lambda g, u, _, w: per_sample(g, u, "sum", w))),
    loss(
        "y not held constant",
        "perceptron_loss",
        lambda grad, u, d, r, w, g: (2 * g(u) - d) * per_sample(grad, u, r, w),
    ),
    loss("d − y", "perceptron_loss", lambda grad, u, d, r, w, g: (d - g(u)) * per_sample(grad, u, r, w)),
    loss(
        "the step for the bipolar step",
        "perceptron_loss",
        lambda grad, u, d, r, w, g: (step(u) - d) * per_sample(grad, u, r, w),
    ),
    loss("u for y: Adaline's rule", "perceptron_loss", lambda grad, u, d, r, w, g: (u - d) * per_sample(grad, u, r, w)),
    # the penalty
    Mutant("off by 2", "l2_penalty", {"backward": lambda g, w, l2: 2 * g * l2 * w}),
    Mutant("cotangent dropped", "l2_penalty", {"backward": lambda g, w, l2: l2 * w}),
    Mutant("λ forgotten", "l2_penalty", {"backward": lambda g, w, l2: g * w}),
    Mutant("the gradient of Σ abs(w)", "l2_penalty", {"backward": lambda g, w, l2: g * l2 * w.sign()}),
    Mutant("the printed cost: λ Σ w²", "l2_penalty", {"forward": lambda w, l2: l2 * (w * w).sum()}),
]


def check(op: Op, cases: list[Case]) -> None:
    for case in cases:
        for dtype in (torch.float32, torch.float64):
            check_autograd(op, case, dtype, CPU)


def check_centrally(op: Op, cases: list[Case]) -> None:
    for case in cases:
        if case.smooth:
            check_central_differences(op, case, CPU)


@pytest.mark.parametrize("name", OPS)
def test_the_right_gradient_is_accepted(name):
    check(OPS[name], CASES[name])
    check_centrally(OPS[name], CASES[name])


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_wrong_gradient_is_refused(mutant: Mutant):
    op = OPS[mutant.op]._replace(**mutant.change)
    with pytest.raises(AssertionError):  # an error of another kind would be a broken mutant, not a wrong one
        check(op, CASES[mutant.op])
    if mutant.central:
        with pytest.raises(RuntimeError, match=r"Jacobian mismatch|invalid gradient at index|not multiplied by"):
            check_centrally(op, CASES[mutant.op])


@pytest.mark.parametrize("dropped", ["delta transposed where square", ">= in the mask"])
def test_it_takes_the_planted_cases_to_refuse_these(dropped):
    """Without square sizes, or exact zeros, these two pass: the cases are there for a reason."""
    mutant = next(m for m in MUTANTS if m.name == dropped)
    op, cases = OPS[mutant.op]._replace(**mutant.change), CASES[mutant.op]
    check(op, [case for case in cases if case.name not in {"square", "planted"}])


# ---- the perceptron's rule and the update -----------------------------------------------------------------------


def a_rule(
    sign: int = 1,
    bias: int = 1,
    y_minus_d: bool = True,
    g: ops.StepFunction | None = None,
    always: bool = False,
    sequential: bool = True,
    bias_first: bool = False,
) -> Callable[..., Any]:
    """The rule sample by sample, right as it stands, wrong with any argument given."""

    def rule(x: Tensor, target: Tensor, weight: Tensor, b: Tensor, lr: float, own: ops.StepFunction) -> Any:
        start, start_b, rows = weight, b, []
        for x_n, d_n in zip(x, target, strict=True):
            u = (weight if sequential else start) @ x_n + (b if sequential else start_b)
            error = (g or own)(u) - d_n
            rows.append(error)
            error = error if y_minus_d else u - d_n
            error = torch.where(error == 0, -d_n, error) if always else error
            weight = weight - lr * sign * torch.outer(error, x_n)
            b = b - lr * bias * sign * error
        return torch.stack(rows), weight, b

    return rule


def strictly(u: Tensor) -> Tensor:
    return (u > 0).to(u.dtype)


def blocked(
    diagonal: int = -1,
    constant: int = 1,
    sweeps: int = 10_000,
    tail: bool = True,
    bias_mean: bool = False,
    previous: bool = False,
    eta: float | None = None,
) -> Callable[..., Any]:
    """The rule in blocks of 7, right as it stands, wrong with any argument given."""

    def rule(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, lr: float, g: ops.StepFunction) -> Any:
        errors, start = [], (weight, bias)
        for x_b, d_b in zip(x.split(7), target.split(7), strict=True):
            if not tail and len(x_b) < 7:
                errors.append(torch.zeros_like(d_b))
                break
            net = perceptron_net_input(x_b, *(start if previous else (weight, bias)))
            before = (x_b @ x_b.T + constant).tril(diagonal)
            error = g(net) - d_b
            for _ in range(min(sweeps, len(x_b))):
                error = g(net - (eta or lr) * before @ error) - d_b
            weight = weight - lr * error.T @ x_b
            bias = bias - lr * (error.mean(0) if bias_mean else error.sum(0))
            errors.append(error)
        return torch.cat(errors), weight, bias

    return rule


WRONG_RULES = {
    "sign": a_rule(sign=-1),
    "sign of the threshold": a_rule(bias=-1),
    "threshold not learnt": a_rule(bias=0),
    "u for y: Adaline's rule": a_rule(y_minus_d=False),
    "> for >=": a_rule(g=strictly),
    "the step for the bipolar step": a_rule(g=step),
    "updated when right": a_rule(always=True),
    "all samples at once": a_rule(sequential=False),
    "block: own error counted": blocked(diagonal=0),
    "block: later errors counted": blocked(diagonal=1000),
    "block: bias not among the inputs": blocked(constant=0),
    "block: no sweep": blocked(sweeps=0),
    "block: one sweep": blocked(sweeps=1),
    "block: tail left out": blocked(tail=False),
    "block: bias a mean for a sum": blocked(bias_mean=True),
    "block: weights of the start of the epoch": blocked(previous=True),
    "block: eta left out": blocked(eta=1.0),
}


def check_rules(rule: Callable[..., Any]) -> None:
    for seed in range(60):
        check_rule(rule, seed, torch.float64, CPU)


@pytest.mark.parametrize("rule", [ops.perceptron_rule, perceptron_rule_blocked, a_rule(), blocked()])
def test_the_right_rule_is_accepted(rule):
    check_rules(rule)


@pytest.mark.parametrize("name", WRONG_RULES)
def test_the_wrong_rule_is_refused(name):
    with pytest.raises(AssertionError):
        check_rules(WRONG_RULES[name])


def check_update(update: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    w, gradient = torch.randn(2, 5, 3)
    twin = torch.nn.Parameter(w.clone())
    twin.grad = gradient.clone()
    torch.optim.SGD([twin], lr=0.3).step()
    assert_close(update(w, gradient, 0.3), twin.detach())


@pytest.mark.parametrize("update", [gradient_descent, gradient_descent_])
def test_the_right_update_is_accepted(update):
    check_update(update)


@pytest.mark.parametrize(
    "update",
    [
        lambda w, g, lr: w + lr * g,
        lambda w, g, lr: w - g,
        lambda w, g, lr: w - lr * g.mean(),
        lambda w, g, lr: w * (1 - lr * g),
        lambda w, g, lr: w,
    ],
    ids=["up the gradient", "eta forgotten", "broadcast mean", "times the weight", "not at all"],
)
def test_the_wrong_update_is_refused(update):
    with pytest.raises(AssertionError):
        check_update(update)
