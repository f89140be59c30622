"""Wrong gradients, each of which the checks that accept the right one must refuse: a test that cannot fail is a defect.

A mutant is a change to one field of an ``Operation``: its backward, its forward, or what is saved between the two. It
must be refused both by the comparison with autograd and by central differences; the exceptions are marked.
"""

from collections.abc import Callable
from math import pi
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from nnlab import ops
from nnlab.ops import gradient_descent, step
from nnlab.verify.optable import Operation
from tests.ops.oracles import OPERATIONS, check_autograd, check_central_differences, check_rule
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


def normal_distribution(u: Tensor) -> Tensor:
    return torch.special.ndtr(u)


def normal_density(u: Tensor) -> Tensor:
    return torch.exp(-u * u / 2) / (2 * pi) ** 0.5


def gelu_slope(u: Tensor, factor: float = 1.0) -> Tensor:
    return normal_distribution(u) + factor * u * normal_density(u)


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
    Mutant("no leak", "leaky_relu", {"backward": lambda g, z: g * (z > 0)}),
    Mutant("another leak", "leaky_relu", {"backward": lambda g, z: torch.where(z > 0, g, 0.1 * g)}),
    Mutant("leak on the other side", "leaky_relu", {"backward": lambda g, z: torch.where(z > 0, 0.01 * g, g)}),
    Mutant(">= in the mask", "leaky_relu", {"backward": lambda g, z: torch.where(z >= 0, g, 0.01 * g)}, central=False),
    Mutant("mask by the cotangent", "leaky_relu", {"backward": lambda g, z: torch.where(g > 0, g, 0.01 * g)}),
    Mutant("a leak of 0.1 in the forward", "leaky_relu", {"forward": lambda u: torch.where(u > 0, u, 0.1 * u)}),
    Mutant("z saved for u", "gelu", {"saved": lambda a, z: (z,)}),
    Mutant("u φ(u) forgotten", "gelu", {"backward": lambda g, u: g * normal_distribution(u)}),
    Mutant("Φ(u) forgotten", "gelu", {"backward": lambda g, u: g * u * normal_density(u)}),
    Mutant("sign of φ", "gelu", {"backward": lambda g, u: g * (normal_distribution(u) - u * normal_density(u))}),
    Mutant("φ for u φ", "gelu", {"backward": lambda g, u: g * (normal_distribution(u) + normal_density(u))}),
    Mutant("the density's constant forgotten", "gelu", {"backward": lambda g, u: g * gelu_slope(u, (2 * pi) ** 0.5)}),
    Mutant("the tanh form in the forward", "gelu", {"forward": lambda u: gelu(u, approximate="tanh")}),
    Mutant("cotangent dropped", "gelu", {"backward": lambda g, u: gelu_slope(u)}),
    # dropout
    Mutant("mask forgotten", "dropout", {"backward": lambda g, mask: g}),
    Mutant("1 / (1 − p) forgotten", "dropout", {"backward": lambda g, mask: g * (mask > 0)}),
    Mutant("mask twice", "dropout", {"backward": lambda g, mask: g * mask * mask}),
    Mutant("mask inverted", "dropout", {"backward": lambda g, mask: g * (1.25 - mask)}),
    Mutant("cotangent dropped", "dropout", {"backward": lambda g, mask: mask}),
    Mutant("output saved for the mask", "dropout", {"saved": lambda a, output: (output,)}),
    Mutant("mask forgotten in the forward", "dropout", {"forward": lambda z, mask: z}),
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
    Mutant("off by 2", "l2 penalty", {"backward": lambda g, w, l2: 2 * g * l2 * w}),
    Mutant("cotangent dropped", "l2 penalty", {"backward": lambda g, w, l2: l2 * w}),
    Mutant("λ forgotten", "l2 penalty", {"backward": lambda g, w, l2: g * w}),
    Mutant("the gradient of Σ abs(w)", "l2 penalty", {"backward": lambda g, w, l2: g * l2 * w.sign()}),
    Mutant("the printed cost: λ Σ w²", "l2 penalty", {"forward": lambda w, l2: l2 * (w * w).sum()}),
]


def changed(mutant: Mutant) -> list[Operation]:
    """The operation with the change; a loss, by reduction and sample weights."""
    found = [each for name, each in OPERATIONS.items() if name.split(",")[0].split(" (")[0] == mutant.op]
    return [operation._replace(**mutant.change) for operation in found]


def check(operations: list[Operation]) -> None:
    for operation in operations:
        for dtype in (torch.float32, torch.float64):
            check_autograd(operation, dtype, CPU)


def check_centrally(operations: list[Operation]) -> None:
    for operation in operations:
        check_central_differences(operation, CPU)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_wrong_gradient_is_refused(mutant: Mutant):
    operations = changed(mutant)
    assert operations
    with pytest.raises(AssertionError):  # an error of another kind would be a broken mutant, not a wrong one
        check(operations)
    if mutant.central:
        with pytest.raises(RuntimeError, match=r"Jacobian mismatch|invalid gradient at index|not multiplied by"):
            check_centrally(operations)


@pytest.mark.parametrize(("name", "op"), [("delta transposed where square", "linear"), (">= in the mask", "relu")])
def test_it_takes_the_planted_cases_to_refuse_these(name, op):
    """Without square sizes, or exact zeros, these two pass: the cases are there for a reason."""
    (operation,) = changed(next(m for m in MUTANTS if (m.name, m.op) == (name, op)))
    cases = tuple(case for case in operation.cases if case.name not in {"square", "planted"})
    assert len(cases) == len(operation.cases) - 1
    check([operation._replace(cases=cases)])


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


WRONG_RULES = {
    "sign": a_rule(sign=-1),
    "sign of the threshold": a_rule(bias=-1),
    "threshold not learnt": a_rule(bias=0),
    "u for y: Adaline's rule": a_rule(y_minus_d=False),
    "> for >=": a_rule(g=strictly),
    "the step for the bipolar step": a_rule(g=step),
    "updated when right": a_rule(always=True),
    "all samples at once": a_rule(sequential=False),
}


def check_rules(rule: Callable[..., Any]) -> None:
    for seed in range(60):
        check_rule(rule, seed, torch.float64, CPU)


@pytest.mark.parametrize("rule", [ops.perceptron_rule, a_rule()])
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


def test_the_right_update_is_accepted():
    check_update(gradient_descent)


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
