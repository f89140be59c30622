"""The table that ``nnlab check`` and the tests read: every differentiated operation, a reference, and its inputs.

Activations and losses come from ``ops.ACTIVATIONS`` and ``ops.LOSSES`` as they are when the table is read.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nnlab import ops
from nnlab.networks import MLP, mlp_backward, mlp_forward
from nnlab.ops import Reduction
from nnlab.verify.subjects import torch_loss

Inputs = tuple[Any, ...]
Layout = Callable[[Tensor], Tensor]


def contiguous(t: Tensor) -> Tensor:
    """As it is."""
    return t


def transposed(t: Tensor) -> Tensor:
    """The same values, column after column in memory."""
    return t.T.contiguous().T if t.ndim == 2 else t


def strided(t: Tensor) -> Tensor:
    """The same values, every other one in memory."""
    return t.repeat_interleave(2, -1)[..., ::2] if t.ndim else t


class Case(NamedTuple):
    """Inputs of an operation, floating-point tensors in float64 on the CPU."""

    name: str
    inputs: Inputs
    layout: Layout = contiguous
    smooth: bool = True  # nothing is planted on a kink or so far out that differences would be mere rounding

    def on(self, dtype: torch.dtype, device: torch.device) -> Inputs:
        """The inputs with floating-point tensors of this dtype and this layout, all on this device."""
        return tuple(
            self.layout(v.to(device, dtype)) if isinstance(v, Tensor) and v.is_floating_point()
            else v.to(device) if isinstance(v, Tensor)
            else v
            for v in self.inputs
        )  # fmt: skip


class Operation(NamedTuple):
    """One pair under test, its cases, and the same function written apart from the package."""

    name: str
    forward: Callable[..., Tensor]  # of the inputs
    backward: Callable[..., Any]  # of the output's gradient, and what is saved -> gradients of the first inputs
    saved: Callable[[Inputs, Tensor], Inputs]  # of the inputs and the output
    reference: Callable[..., Tensor]  # of the inputs, in torch's own functions
    cases: tuple[Case, ...]
    n_grad: int = 1  # how many inputs are differentiated
    network: bool = False  # a chain of operations

    def gradients(self, grad_output: Tensor, *inputs: Any) -> tuple[Tensor | None, ...]:
        """The gradient of every input, None for one that is not differentiated."""
        found = self.backward(grad_output, *self.saved(inputs, self.forward(*inputs)))
        found = found if isinstance(found, tuple) else (found,)
        return *found, *(None for _ in inputs[self.n_grad :])


def _all_inputs(inputs: Inputs, output: Tensor) -> Inputs:
    return inputs


def operations(seed: int = 0) -> Iterator[Operation]:
    """Every operation, loss by reduction and weights, and network by depth."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    sizes = {"N=1": (1, 5, 3), "I=1": (5, 1, 3), "O=1": (5, 3, 1), "prime": (7, 13, 11), "square": (4, 4, 4)}
    drawn = {name: (normal(n, i), normal(o, i), normal(o)) for name, (n, i, o) in sizes.items()}
    yield Operation(
        "linear",
        ops.linear_forward,
        ops.linear_backward,
        lambda inputs, u: inputs[:2],
        functional.linear,
        (
            *(Case(name, inputs) for name, inputs in drawn.items()),
            Case("transposed", drawn["prime"], transposed),
            Case("strided", drawn["prime"], strided),
        ),
        n_grad=3,
    )
    for name, row in ops.ACTIVATIONS.items():
        yield Operation(
            name,
            row.forward,
            row.backward,
            _all_inputs if row.saves == "u" else lambda inputs, z: (z,),
            _reference(name),
            _elementwise(normal),
        )
    yield Operation(
        "dropout",
        ops.dropout_forward,
        ops.dropout_backward,
        lambda inputs, output: inputs[1:],
        lambda z, mask: torch.einsum("...,...->...", z, mask),
        _elementwise(normal, lambda u: (u, 1.25 * (torch.rand(u.shape, generator=draw) < 0.8).double())),
    )
    yield Operation(
        "l2 penalty",
        ops.l2_penalty_forward,
        ops.l2_penalty_backward,
        _all_inputs,
        lambda w, l2: l2 / 2 * torch.einsum("oi,oi", w, w),
        (
            Case("prime", (normal(7, 5), 0.3)),
            Case("1x1", (normal(1, 1), 0.0)),
            Case("transposed", (normal(7, 5), 1.7), transposed),
            Case("strided", (normal(4, 4), 1e-4), strided),
        ),
    )
    for name, loss in ops.LOSSES.items():
        yield from _loss(
            name,
            loss.forward,
            loss.backward,
            partial(torch_loss, name),
            partial(target_of, name, draw),
            normal,
        )
    for g in (ops.step, ops.bipolar_step):
        yield from _loss(
            f"perceptron_loss ({g.__name__})",
            ops.perceptron_loss_forward,
            ops.perceptron_loss_backward,
            _perceptron_loss,
            lambda n, k, g=g: g(normal(n, k)),  # type: ignore[misc]
            normal,
            g,
        )
    for depth, hidden, name in networks():
        yield _network(depth, hidden, name, draw)


def in_place_forms(seed: int = 0) -> Iterator[Operation]:
    """What the engine and Lightning use of the rows: the in-place forms, and the errors of single samples."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    for name, row in ops.ACTIVATIONS.items():
        if row.forward_ is not None or row.backward_ is not None:
            yield Operation(
                f"{name}, in place",
                partial(_written, row.forward_, row.forward),
                partial(_written, row.backward_, row.backward),
                _all_inputs if row.saves == "u" else lambda inputs, z: (z,),
                _reference(name),
                _elementwise(normal),
            )
    for name, loss in ops.LOSSES.items():
        sizes = {"5x3": (5, 3), "N=1": (1, 7), "K=1": (5, 1)}
        yield Operation(
            f"{name}, in place",
            lambda u, t, loss=loss: loss.errors(u, t).sum(),
            partial(_summed_gradient, loss),
            _all_inputs,
            lambda u, t, loss=loss: loss.reference(u, t).sum(),
            tuple(Case(size, (normal(n, k), target_of(name, draw, n, k))) for size, (n, k) in sizes.items()),
        )


def _written(in_place: Callable[..., Any] | None, pure: Callable[..., Tensor], first: Tensor, *rest: Tensor) -> Tensor:
    """What an in-place form makes of a copy of its first argument; without one, what the pure function returns."""
    if in_place is None:
        return pure(first, *rest)
    copy = first.clone()
    in_place(copy, *rest)
    return copy


def _summed_gradient(loss: ops.Loss, grad_E: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """The gradient of the summed errors, y − t where the row says so."""
    if not loss.is_difference:
        return loss.backward(grad_E, logits, target)
    rows = functional.one_hot(target, logits.shape[1]).to(logits) if loss.target == "labels" else target
    return grad_E * (loss.output(logits) - rows)


def _reference(name: str) -> Callable[[Tensor], Tensor]:
    """Torch's own module for an activation, of a new tensor: the identity's returns what it is given."""
    module = ops.ACTIVATIONS[name].module()
    return lambda u: module(1 * u)


def _elementwise(
    normal: Callable[..., Tensor], inputs: Callable[[Tensor], Inputs] = lambda u: (u,)
) -> tuple[Case, ...]:
    planted = normal(7, 5)
    planted[0], planted[1] = 0.0, -0.0
    planted[2] = torch.tensor([1e4, -1e4, 1e-30, -1e-30, 30.0])
    return (
        Case("vector", inputs(normal(1))),
        Case("cube", inputs(normal(3, 4, 5))),
        Case("planted", inputs(planted), smooth=False),
        Case("transposed", inputs(normal(7, 5)), transposed),
        Case("strided", inputs(normal(7, 5)), strided),
    )


def _loss(
    name: str,
    forward: Callable[..., Tensor],
    backward: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    target: Callable[[int, int], Tensor],
    normal: Callable[..., Tensor],
    *settings: Any,
) -> Iterator[Operation]:
    """A loss by reduction and sample weights; the edge values with one of the four alone."""
    ties = normal(5, 3)
    ties[0], ties[1], ties[2, :2] = 0.0, 2.0, ties[2].max()
    far = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype=torch.float64)
    reductions: tuple[Reduction, ...] = ("sum", "mean")
    for reduction, weighted in product(reductions, (False, True)):

        def case(name: str, logits: Tensor, layout: Layout = contiguous, smooth: bool = True) -> Case:
            weight = normal(len(logits)).abs() + 0.1
            weight[1:2] = 0.0
            inputs = (logits, target(*logits.shape), reduction, weight if weighted else None, *settings)  # noqa: B023
            return Case(name, inputs, layout, smooth)

        cases = [case("5x3", normal(5, 3)), case("N=1", normal(1, 7)), case("K=1", normal(5, 1))]
        if weighted and reduction == "mean":
            cases += [case("square", normal(4, 4)), case("prime", normal(13, 11)), case("ties", ties, smooth=False)]
            cases += [case("far", torch.cat([far, -far]), smooth=False)]
            cases += [case(layout.__name__, normal(5, 3), layout) for layout in (transposed, strided)]
        yield Operation(
            f"{name}, {reduction}{', weighted' * weighted}",
            forward,
            backward,
            _all_inputs,
            reference,
            tuple(cases),
        )


def target_of(loss: str, draw: torch.Generator, n: int, n_outputs: int) -> Tensor:
    """A target as the loss takes it; the first sample's values and one of the last's are at the ends of the range."""
    row = ops.LOSSES[loss]
    if row.target == "labels":
        return torch.randint(0, n_outputs, (n,), generator=draw)
    if row.bounds is None:
        return torch.randn(n, n_outputs, generator=draw, dtype=torch.float64)
    values = torch.rand(n, n_outputs, generator=draw, dtype=torch.float64)
    values[0], values[-1, 0] = 0.0, 1.0
    return row.bounds.low + (row.bounds.high - row.bounds.low) * values


def _perceptron_loss(u: Tensor, d: Tensor, reduction: str, w: Tensor | None, g: ops.StepFunction) -> Tensor:
    y = torch.heaviside(u.detach(), u.new_ones(()))
    y = y if g is ops.step else 2 * y - 1
    errors = torch.einsum("nk,nk->n", y - d, u)
    total = (errors if w is None else errors * w).sum()
    return total if reduction == "sum" else total / (len(u) if w is None else w.sum())


def networks() -> Iterator[tuple[int, str, str]]:
    """Depth, hidden activation and loss of the networks under test: every activation and loss, depths from 1 to 4."""
    losses, hidden = list(ops.LOSSES), list(ops.ACTIVATIONS)
    for k, loss in enumerate(losses):
        yield 1, hidden[k % len(hidden)], loss
    for k, activation in enumerate(hidden):
        yield 2 + k % 3, activation, losses[(k + k // 3) % len(losses)]


def network(depth: int, hidden: str, seed: int = 0) -> MLP:
    """A network of a depth, with 5 inputs and 3 outputs."""
    drawn = torch.Generator().manual_seed(seed + depth)
    return MLP([*[5, 7, 6, 4, 3][:depth], 3], hidden, generator=drawn, dtype=torch.float64)


def named(depth: int, hidden: str, loss: str) -> str:
    """Such a network in words."""
    return f"{depth} layer{'s' * (depth > 1)}{f', {hidden}' * (depth > 1)}, {loss}"


def _network(depth: int, hidden: str, loss: str, draw: torch.Generator) -> Operation:
    mlp, row = network(depth, hidden), ops.LOSSES[loss]
    names = mlp.activations
    x, *values = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in [(6, 5), *(p.shape for p in mlp.parameters())]
    )
    parameters = [p.detach() + 0.1 * value for p, value in zip(mlp.parameters(), values, strict=True)]

    def forward(x: Tensor, *rest: Tensor) -> Tensor:
        value: Tensor = row.forward(mlp_forward(x, rest[:-1], names)[-1].z, rest[-1], "mean")
        return value

    def backward(grad_E: Tensor, x: Tensor, *rest: Tensor) -> Inputs:
        passes = mlp_forward(x, rest[:-1], names)
        grad_y = row.backward(grad_E, passes[-1].z, rest[-1], "mean")
        found = mlp_backward(grad_y, passes, names, with_input=True)
        return found.x, *found.parameters

    def reference(x: Tensor, *rest: Tensor) -> Tensor:
        for weight, bias, name in zip(rest[:-1:2], rest[1:-1:2], names, strict=True):
            x = _reference(name)(functional.linear(x, weight, bias))
        return torch_loss(loss, x, rest[-1], "mean", None)

    case = Case("6x5", (x, *parameters, target_of(loss, draw, 6, 3)))
    return Operation(
        f"network of {named(depth, hidden, loss)}",
        forward,
        backward,
        _all_inputs,
        reference,
        (case,),
        n_grad=1 + 2 * depth,
        network=True,
    )


def rule_in_python(
    x: Tensor, target: Tensor, weight: Tensor, bias: Tensor, lr: float, g: ops.StepFunction
) -> tuple[Tensor, Tensor, Tensor]:
    """The perceptron's rule in plain Python, unit after unit: w ← w − η (y − d) x, θ ← θ − η (y − d)(−1)."""
    weights, thresholds, errors = [], [], []
    low = 0.0 if g is ops.step else -1.0
    for unit, (start, b) in enumerate(zip(weight.tolist(), bias.tolist(), strict=True)):
        w, theta, unit_errors = list(start), -b, []
        for x_n, d in zip(x.tolist(), target[:, unit].tolist(), strict=True):
            u = math.fsum([*(w_i * x_i for w_i, x_i in zip(w, x_n, strict=True)), -theta])
            y = 1.0 if u >= 0 else low
            w = [w_i - lr * (y - d) * x_i for w_i, x_i in zip(w, x_n, strict=True)]
            theta -= lr * (y - d) * (-1)
            unit_errors.append(y - d)
        weights.append(w)
        thresholds.append(theta)
        errors.append(unit_errors)
    return target.new_tensor(errors).T, weight.new_tensor(weights), -weight.new_tensor(thresholds)
