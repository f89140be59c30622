"""The checks that a gradient must pass, the operations they run on, and the inputs they run with.

``test_linear.py`` and its neighbours show that each check accepts the right gradient, ``test_mutants.py`` that the same
checks refuse every wrong one. ``CASES[name]`` are the inputs of operation ``OPS[name]``: degenerate, prime and square
sizes, planted edge values, and layouts that are not contiguous.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnlab import ops
from nnlab.autograd import ManualGradient
from tests.tolerances import assert_as_precise, assert_close

# ---- layouts: the same values in another memory order -----------------------------------------------------------


def contiguous(t: Tensor) -> Tensor:
    return t


def transposed(t: Tensor) -> Tensor:
    return t.T.contiguous().T if t.ndim == 2 else t


def strided(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, -1)[..., ::2] if t.ndim else t


# ---- what is checked --------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Arguments of an operation, kept in float64 on the CPU, and where they are planted on a kink or far out."""

    name: str
    arguments: tuple[Any, ...]
    layout: Callable[[Tensor], Tensor] = contiguous
    smooth: bool = True  # central differences make sense here

    def on(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        """The arguments as floating-point tensors of this dtype, all on this device."""
        return tuple(
            a if not isinstance(a, Tensor)
            else a.to(device) if not a.is_floating_point()
            else self.layout(a.to(device, dtype))
            for a in self.arguments
        )  # fmt: skip

    def __str__(self) -> str:
        return self.name


class Op(NamedTuple):
    """A forward and its backward, what the one saves for the other, and an independent expression in torch.

    The first ``n_grad`` arguments are differentiated; ``backward(grad_output, *saved(arguments, output))`` returns
    their gradients.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., Any]
    saved: Callable[[tuple[Any, ...], Tensor], tuple[Any, ...]]
    reference: Callable[..., Tensor]
    n_grad: int = 1


# ---- the checks -------------------------------------------------------------------------------------------------


def check_autograd(op: Op, case: Case, dtype: torch.dtype, device: torch.device) -> None:
    """Output and all gradients against torch's, of an independent expression, under a random cotangent."""
    arguments = case.on(dtype, device)
    expected, theirs, cotangent = _torch_gradients(op, arguments, case.layout)
    output = op.forward(*arguments)
    assert_close(output, expected)
    ours = _tuple(op.backward(cotangent, *op.saved(arguments, output)))
    assert len(ours) == op.n_grad
    for our, their in zip(ours, theirs, strict=True):
        assert_close(our, their)


def check_central_differences(op: Op, case: Case, device: torch.device) -> None:
    """``torch.autograd.gradcheck`` in float64 at its defaults, through the bridge to autograd."""
    arguments = case.on(torch.float64, device)
    fixed = arguments[op.n_grad :]

    def forward(*leaves: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return op.forward(*leaves, *fixed), leaves

    def backward(grad_output: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        output = op.forward(*leaves, *fixed)
        return _tuple(op.backward(grad_output, *op.saved((*leaves, *fixed), output)))

    leaves = [a.detach().requires_grad_() for a in arguments[: op.n_grad]]
    assert torch.autograd.gradcheck(lambda *inputs: ManualGradient.apply(forward, backward, *inputs), leaves)


def check_precision(op: Op, case: Case, dtype: torch.dtype, device: torch.device) -> None:
    """Output and all gradients no farther from float64 than torch's own in this dtype, twice over."""
    arguments = case.on(dtype, device)
    wide = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)
    theirs, their_gradients, cotangent = _torch_gradients(op, arguments, case.layout)
    exact, exact_gradients, _ = _torch_gradients(op, wide, case.layout, cotangent.double())
    output = op.forward(*arguments)
    assert_as_precise(output, theirs, exact)
    ours = _tuple(op.backward(cotangent, *op.saved(arguments, output)))
    for our, their, truth in zip(ours, their_gradients, exact_gradients, strict=True):
        assert_as_precise(our, their, truth)


def _torch_gradients(
    op: Op, arguments: tuple[Any, ...], layout: Callable[[Tensor], Tensor], cotangent: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    leaves = [a.detach().requires_grad_() for a in arguments[: op.n_grad]]
    output = op.reference(*leaves, *arguments[op.n_grad :])
    if cotangent is None:
        cotangent = layout(torch.randn(output.shape, dtype=torch.float64).to(output.device, output.dtype))
    return output.detach(), torch.autograd.grad(output, leaves, cotangent), cotangent


def _tuple(gradients: Any) -> tuple[Tensor, ...]:
    return gradients if isinstance(gradients, tuple) else (gradients,)


# ---- the operations, with independent expressions ---------------------------------------------------------------


def reduce(errors: Tensor, reduction: str, sample_weight: Tensor | None) -> Tensor:
    """E from Eₙ, (N,), written apart from the package."""
    if sample_weight is None:
        return errors.sum() if reduction == "sum" else errors.mean()
    total = (sample_weight * errors).sum()
    return total if reduction == "sum" else total / sample_weight.sum()


def _sum_of_squares(y: Tensor, t: Tensor, reduction: str, w: Tensor | None) -> Tensor:
    return reduce(functional.mse_loss(y, t, reduction="none").sum(1) / 2, reduction, w)


def _binary_cross_entropy(u: Tensor, t: Tensor, reduction: str, w: Tensor | None) -> Tensor:
    return reduce(functional.binary_cross_entropy_with_logits(u, t, reduction="none").sum(1), reduction, w)


def _softmax_cross_entropy(u: Tensor, t: Tensor, reduction: str, w: Tensor | None) -> Tensor:
    return reduce(functional.cross_entropy(u, t, reduction="none"), reduction, w)


def _perceptron_loss(u: Tensor, d: Tensor, reduction: str, w: Tensor | None, g: ops.StepFunction) -> Tensor:
    y = torch.heaviside(u.detach(), u.new_ones(()))
    y = y if g is ops.step else 2 * y - 1
    return reduce(torch.einsum("nk,nk->n", y - d, u), reduction, w)


def _output(arguments: tuple[Any, ...], output: Tensor) -> tuple[Any, ...]:
    return (output,)


def _arguments(arguments: tuple[Any, ...], output: Tensor) -> tuple[Any, ...]:
    return arguments


OPS = {
    "linear": Op(ops.linear_forward, ops.linear_backward, lambda a, _: a[:2], functional.linear, n_grad=3),
    "identity": Op(ops.identity_forward, ops.identity_backward, _output, lambda u: 1 * u),
    "sigmoid": Op(ops.sigmoid_forward, ops.sigmoid_backward, _output, torch.sigmoid),
    "tanh": Op(ops.tanh_forward, ops.tanh_backward, _output, torch.tanh),
    "relu": Op(ops.relu_forward, ops.relu_backward, _output, functional.relu),
    "sum_of_squares": Op(ops.sum_of_squares_forward, ops.sum_of_squares_backward, _arguments, _sum_of_squares),
    "binary_cross_entropy": Op(
        ops.binary_cross_entropy_forward, ops.binary_cross_entropy_backward, _arguments, _binary_cross_entropy
    ),
    "softmax_cross_entropy": Op(
        ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward, _arguments, _softmax_cross_entropy
    ),
    "perceptron_loss": Op(ops.perceptron_loss_forward, ops.perceptron_loss_backward, _arguments, _perceptron_loss),
    "l2_penalty": Op(
        ops.l2_penalty_forward, ops.l2_penalty_backward, _arguments, lambda w, l2: l2 / 2 * torch.einsum("oi,oi", w, w)
    ),
}

# ---- the inputs -------------------------------------------------------------------------------------------------

_generator = torch.Generator().manual_seed(3)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=_generator)


def integers(low: int, high: int, *shape: int) -> Tensor:
    """Whole numbers from low to high, as float64."""
    return torch.randint(low, high + 1, shape, generator=_generator).double()


def _linear_cases() -> list[Case]:
    def case(name: str, n: int, i: int, o: int, layout: Callable[[Tensor], Tensor] = contiguous) -> Case:
        return Case(name, (normal(n, i), normal(o, i), normal(o)), layout)

    return [
        case("N=1", 1, 5, 3),
        case("I=1", 5, 1, 3),
        case("O=1", 5, 3, 1),
        case("prime", 7, 13, 11),
        case("square", 4, 4, 4),
        case("transposed", 7, 5, 3, transposed),
        case("strided", 7, 5, 3, strided),
    ]


def _activation_cases() -> list[Case]:
    planted = normal(7, 5)
    planted[0] = 0.0
    planted[1] = -0.0
    planted[2] = torch.tensor([1e4, -1e4, 1e-30, -1e-30, 30.0])
    return [
        Case("vector", (normal(1),)),
        Case("cube", (normal(3, 4, 5),)),
        Case("planted", (planted,), smooth=False),
        Case("transposed", (normal(7, 5),), transposed),
        Case("strided", (normal(7, 5),), strided),
    ]


def _loss_cases(target: Callable[[int, int], Tensor], *extra: Any) -> list[Case]:
    ties = normal(5, 3)
    ties[0], ties[1], ties[2, :2] = 0.0, 2.0, ties[2].max()
    far = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype=torch.float64)
    shapes: list[tuple[str, Tensor, dict[str, Any]]] = [
        ("5x3", normal(5, 3), {}),
        ("N=1", normal(1, 7), {}),
        ("K=1", normal(5, 1), {}),
        ("square", normal(4, 4), {}),
        ("prime", normal(13, 11), {}),
        ("ties", ties, {"smooth": False}),
        ("far", torch.cat([far, -far]), {"smooth": False}),
        ("transposed", normal(5, 3), {"layout": transposed}),
        ("strided", normal(5, 3), {"layout": strided}),
    ]
    cases = []
    for (name, logits, how), reduction, weighted in product(shapes, ["sum", "mean"], [False, True]):
        weight = normal(len(logits)).abs() + 0.1
        if len(logits) > 1:
            weight[1] = 0.0
        arguments = (logits, target(*logits.shape), reduction, weight if weighted else None, *extra)
        cases.append(Case(f"{name}-{reduction}{'-weighted' * weighted}", arguments, **how))
    return cases


def _probabilities(n: int, k: int) -> Tensor:
    target = torch.rand((n, k), dtype=torch.float64, generator=_generator)
    target[0] = 0.0
    target[-1, 0] = 1.0
    return target


def _labels(n: int, k: int) -> Tensor:
    return torch.randint(0, k, (n,), generator=_generator)


CASES = {
    "linear": _linear_cases(),
    **dict.fromkeys(["identity", "sigmoid", "tanh", "relu"], _activation_cases()),
    "sum_of_squares": _loss_cases(normal),
    "binary_cross_entropy": _loss_cases(_probabilities),
    "softmax_cross_entropy": _loss_cases(_labels),
    "perceptron_loss": [
        Case(f"{g.__name__}-{case.name}", *case[1:])
        for g, low in [(ops.step, 0), (ops.bipolar_step, -1)]
        for case in _loss_cases(lambda n, k, low=low: low + (1 - low) * integers(0, 1, n, k), g)  # type: ignore[misc]
    ],
    "l2_penalty": [
        Case("1x1", (normal(1, 1), 0.3)),
        Case("prime", (normal(7, 5), 0.3)),
        Case("l2=0", (normal(4, 4), 0.0)),
        Case("transposed", (normal(7, 5), 1.7), transposed),
        Case("strided", (normal(7, 5), 1e-4), strided),
    ],
}


def pairs(*names: str, smooth: bool = False) -> list[tuple[str, Case]]:
    """(operation, case) of the named operations, for ``parametrize``; the smooth cases alone if asked for."""
    return [(name, case) for name in names for case in CASES[name] if case.smooth or not smooth]


# ---- the perceptron's rule --------------------------------------------------------------------------------------

Rule = Callable[..., tuple[Tensor, Tensor, Tensor]]


class Problem(NamedTuple):
    """Arguments of the perceptron's rule."""

    x: Tensor
    target: Tensor
    weight: Tensor
    bias: Tensor
    lr: float
    g: ops.StepFunction


def integer_problem(seed: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """A random problem on small whole numbers: no sum rounds, in float32 neither, and scores of 0 abound."""
    draw = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=draw).to(device, dtype)

    n, i, k = (int(torch.randint(1, high, (), generator=draw)) for high in (40, 8, 5))
    size = [1, 2, 5, 20][seed % 4]
    start = seed % 3  # a third of the problems start at zero
    g = [ops.step, ops.bipolar_step][seed // 4 % 2]
    target = g(whole(-1, 0, n, k) + 0.5)
    lr = [1.0, 2.0, 0.5][seed // 8 % 3]
    return Problem(whole(-size, size, n, i), target, whole(-start, start, k, i), whole(-start, start, k), lr, g)


def float_problem(seed: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """A random problem on tenths, none of which is a binary fraction: scores lie within rounding of 0."""
    whole = integer_problem(seed, dtype, device)
    return Problem(whole.x / 10, whole.target, whole.weight / 10, whole.bias / 10, 0.1, whole.g)


def rule_in_python(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """The rule in plain Python numbers, one unit after the other: w ← w − η (y − d) x, θ ← θ − η (y − d)(−1)."""
    weights, thresholds, errors = [], [], []
    low = 0.0 if problem.g is ops.step else -1.0
    for unit, (weight, bias) in enumerate(zip(problem.weight.tolist(), problem.bias.tolist(), strict=True)):
        w, theta, unit_errors = list(weight), -bias, []
        for x, d in zip(problem.x.tolist(), problem.target[:, unit].tolist(), strict=True):
            u = math.fsum([*(w_i * x_i for w_i, x_i in zip(w, x, strict=True)), -theta])
            y = 1.0 if u >= 0 else low
            w = [w_i - problem.lr * (y - d) * x_i for w_i, x_i in zip(w, x, strict=True)]
            theta -= problem.lr * (y - d) * (-1)
            unit_errors.append(y - d)
        weights.append(w)
        thresholds.append(theta)
        errors.append(unit_errors)
    like = problem.weight
    return like.new_tensor(errors).T, like.new_tensor(weights), -like.new_tensor(thresholds)


def check_rule(rule: Rule, seed: int, dtype: torch.dtype, device: torch.device) -> None:
    """The rule, equal to the last bit to the one in plain Python, on whole numbers."""
    problem = integer_problem(seed, dtype, device)
    for ours, expected in zip(rule(*problem), rule_in_python(problem), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


# ---- every function of the package, with good arguments ---------------------------------------------------------


def calls(dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, Any]]:
    """Good arguments by name for every function in ``nnlab.ops``."""

    def t(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype)

    n, i, k = 5, 3, 2
    x, weight, bias, u, grad = t(normal(n, i)), t(normal(k, i)), t(normal(k)), t(normal(n, k)), t(normal(n, k))
    scalar, sample_weight = t(normal()), t(normal(n).abs())
    desired, labels = t(integers(0, 1, n, k)), _labels(n, k).to(device)
    rule = {"x": x, "target": desired, "weight": weight, "bias": bias, "lr": 0.5}
    step = {"parameter": weight, "gradient": t(normal(k, i)), "lr": 0.5}
    table: dict[str, dict[str, Any]] = {
        "linear_forward": {"x": x, "weight": weight, "bias": bias},
        "linear_backward": {"grad_output": grad, "x": x, "weight": weight},
        "linear_backward_input": {"grad_output": grad, "weight": weight},
        "linear_backward_parameters": {"grad_output": grad, "x": x},
        "l2_penalty_forward": {"weight": weight, "l2": 0.1},
        "l2_penalty_backward": {"grad_output": scalar, "weight": weight, "l2": 0.1},
        "step": {"u": u},
        "bipolar_step": {"u": u},
        "perceptron_net_input": {"x": x, "weight": weight, "bias": bias},
        "perceptron_predict": {"u": u},
        "perceptron_rule": rule,
        "perceptron_rule_blocked": {**rule, "block": 2},
        "gradient_descent": step,
        "gradient_descent_": step,
    }
    for name in ["identity", "sigmoid", "tanh", "relu"]:
        table[f"{name}_forward"] = {"u": u}
        table[f"{name}_backward"] = {"grad_output": grad, "z": u}
    for name in ["sum_of_squares", "binary_cross_entropy", "softmax_cross_entropy", "perceptron_loss"]:
        target = labels if name == "softmax_cross_entropy" else desired
        table[f"{name}_forward"] = {"logits": u, "target": target, "sample_weight": sample_weight}
        table[f"{name}_backward"] = {"grad_output": scalar, **table[f"{name}_forward"]}
    return table
