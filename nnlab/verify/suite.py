"""``nnlab check``: the five oracles over everything the package differentiates by hand."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnlab import ops
from nnlab.ops import gradient_descent
from nnlab.verify.by_hand import EXAMPLES
from nnlab.verify.gradients import check_gradients
from nnlab.verify.optable import (
    Case,
    Operation,
    in_place_forms,
    named,
    network,
    networks,
    operations,
    rule_in_python,
    target_of,
)
from nnlab.verify.subjects import torch_loss
from nnlab.verify.tolerances import RELATIVE, TRAJECTORY


class Result(NamedTuple):
    """One line of the table; None where an oracle has nothing to say.

    Attributes:
        name: what was checked.
        dtype: in which.
        device: on which.
        by_hand: the largest difference from numbers worked by hand.
        autograd: the largest relative error of output and gradients against autograd of an independent expression.
        central: the same of gradients against central differences.
        precision: error against float64, over what is allowed: twice torch's own, and rounding.
        trajectory: relative error after ten training steps beside the ``nn.Module`` twin.
        tolerance: the error allowed, by the first oracle that speaks.
        ok: whether all of them accept.
        diagnosis: what is wrong, if it is.
    """

    name: str
    dtype: str
    device: str
    by_hand: float | None
    autograd: float | None
    central: float | None
    precision: float | None
    trajectory: float | None
    tolerance: float
    ok: bool
    diagnosis: str = ""


DTYPES = (torch.float64, torch.float32)


def count() -> int:
    """How many results a device gives."""
    return len(EXAMPLES) + len(DTYPES) * (
        sum(1 for _ in (*operations(), *in_place_forms())) + sum(1 for _ in networks()) + 1
    )


def results(device: torch.device, seed: int = 0) -> Iterator[Result]:
    """Every result on a device, one by one."""
    for name, example in EXAMPLES.items():
        error, tolerance = example(device)
        yield Result(name, "float64", str(device), error, None, None, None, None, tolerance, error <= tolerance)
    for operation in (*operations(seed), *in_place_forms(seed)):
        for dtype in DTYPES:
            yield check_operation(operation, dtype, device, seed)
    for dtype in DTYPES:
        yield check_rule(dtype, device, seed)
        for depth, hidden, loss in networks():
            yield check_trajectory(depth, hidden, loss, dtype, device)


def check_operation(operation: Operation, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Result:
    """Autograd, central differences and precision for one operation."""
    reports, errors = [], [0.0]
    ratio: float | None = None
    for case in operation.cases:
        inputs = case.on(dtype, device)
        reports.append(check_gradients(operation.reference, operation.gradients, inputs, dtype=dtype, seed=seed))
        errors.append(_relative(operation.forward(*inputs), operation.reference(*inputs)))
        if dtype != torch.float64 and not operation.network:  # exact is float64; a chain of errors may cancel for one
            ratio = max(ratio or 0.0, _precision(operation, inputs))
    rows = [row for report in reports for row in report.rows]
    autograd = max([*errors, *(row.autograd for row in rows if row.autograd is not None)])
    central = max((row.central for row in rows if row.central is not None), default=None)
    tolerance = RELATIVE[dtype]
    judged = bool(rows) and all(row.autograd is not None for row in rows)  # else differences have refuted autograd
    ok = judged and all(report.ok for report in reports) and max(errors) <= tolerance and (ratio or 0.0) <= 1
    diagnosis = next((report.diagnosis for report in reports if not report.ok), "")
    if not ok and not diagnosis:
        diagnosis = (
            "the output is not that of the independent expression" if max(errors) > tolerance else "too imprecise"
        )
    return Result(
        operation.name, str(dtype)[6:], str(device), None, autograd, central, ratio, None, tolerance, ok, diagnosis
    )


def _relative(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape or not bool(torch.isfinite(ours).all()):
        return math.inf
    length = float(theirs.double().norm())
    return float((ours.double() - theirs.double()).norm()) / (length or 1.0)


def _precision(operation: Operation, inputs: Sequence[Any]) -> float:
    """Error of the gradients over 2 × error(torch in this dtype) + 2 eps max|exact|, the largest."""
    wide = [v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs]
    cotangent = torch.randn(operation.reference(*inputs).shape, generator=torch.Generator().manual_seed(5))
    cotangent = cotangent.to(inputs[0])
    ours = operation.gradients(cotangent, *inputs)
    theirs, exact = _torch(operation, inputs, ours, cotangent), _torch(operation, wide, ours, cotangent.double())
    worst = 0.0
    for our, their, truth in zip((g for g in ours if g is not None), theirs, exact, strict=True):
        size = float(truth.abs().max()) or 1.0
        allowed = 2 * float((their.double() - truth).abs().max()) + 2 * torch.finfo(our.dtype).eps * size
        worst = max(worst, float((our.double() - truth).abs().max()) / allowed)
    return worst


def _torch(operation: Operation, inputs: Sequence[Any], like: Sequence[Any], cotangent: Tensor) -> tuple[Tensor, ...]:
    full = [v.detach().requires_grad_() if g is not None else v for v, g in zip(inputs, like, strict=True)]
    leaves = [v for v, g in zip(full, like, strict=True) if g is not None]
    with torch.enable_grad():
        return torch.autograd.grad(operation.reference(*full), leaves, cotangent)


def check_rule(dtype: torch.dtype, device: torch.device, seed: int = 0) -> Result:
    """The perceptron's rule against plain Python on whole numbers: equal to the last bit."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, (40, 5), generator=draw).to(device, dtype)
    d = torch.randint(0, 2, (40, 3), generator=draw).to(device, dtype)
    weight, bias = torch.zeros(3, 5, dtype=dtype, device=device), torch.zeros(3, dtype=dtype, device=device)
    arguments = (x, d, weight, bias, 0.5, ops.step)
    pairs = zip(ops.perceptron_rule(*arguments), rule_in_python(*arguments), strict=True)
    error = max(float((ours - expected).abs().max()) for ours, expected in pairs)
    words = "" if error == 0 else "the learning rule differs from the sequential rule in plain Python"
    name = "perceptron rule, 40 samples"
    return Result(name, str(dtype)[6:], str(device), error, None, None, None, None, 0.0, error == 0, words)


def check_trajectory(depth: int, hidden: str, loss: str, dtype: torch.dtype, device: torch.device) -> Result:
    """Ten steps by hand beside ten of the twin with autograd and torch's SGD: losses and weights."""
    mlp = network(depth, hidden).to(device, dtype)
    twin, pair = mlp.to_sequential(), ops.LOSSES[loss]
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    draw, worst = torch.Generator().manual_seed(depth), 0.0
    for _ in range(10):
        x = torch.randn(6, 5, generator=draw, dtype=torch.float64).to(device, dtype)
        (target,) = Case("", (target_of(loss, draw, 6, 3),)).on(dtype, device)
        with torch.no_grad():
            passes = mlp.propagate(x)
            ours = pair.forward(passes[-1].z, target, "mean")
            grad_y = pair.backward(torch.ones_like(ours), passes[-1].z, target, "mean")
            for parameter, gradient in zip(mlp.parameters(), mlp.backward(grad_y, passes).parameters, strict=True):
                parameter.copy_(gradient_descent(parameter, gradient, 0.1))
        with torch.enable_grad():
            optimizer.zero_grad()
            theirs = torch_loss(loss, twin(x), target, "mean", None)
            theirs.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        worst = max(worst, _relative(ours, theirs.detach()))
    for ours, theirs in zip(mlp.parameters(), twin.parameters(), strict=True):
        worst = max(worst, _relative(ours.detach(), theirs.detach()))
    ok = worst <= TRAJECTORY[dtype]
    words = "" if ok else "ten training steps part from the nn.Module twin"
    name = f"ten steps of {named(depth, hidden, loss)}"
    return Result(name, str(dtype)[6:], str(device), None, None, None, None, worst, TRAJECTORY[dtype], ok, words)
