"""The checks that a gradient must pass, and random problems for the perceptron's rule.

The operations and their cases are those of ``nnlab.verify.optable``. ``test_gradients.py`` shows that each check
accepts the right gradient, ``test_mutants.py`` that the same checks refuse every wrong one.
"""

import contextlib
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnlab import ops, validation
from nnlab.autograd import by_hand
from nnlab.verify.optable import Case, Operation, operations, rule_in_python
from tests.tolerances import assert_as_precise, assert_close

OPERATIONS = {operation.name: operation for operation in operations()}

# ---- the checks: each of all cases of an operation ------------------------------------------------------------------


@contextlib.contextmanager
def _named(operation: Operation, case: Case) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"{operation.name}, case {case.name}")
        raise


def check_autograd(operation: Operation, dtype: torch.dtype, device: torch.device) -> None:
    """Output and all gradients against torch's, of the reference, under a random incoming gradient."""
    for case in operation.cases:
        with _named(operation, case):
            inputs = case.on(dtype, device)
            expected, theirs, incoming = _torch_gradients(operation, inputs, case)
            assert_close(operation.forward(*inputs), expected)
            ours = operation.gradients(incoming, *inputs)
            assert len(ours) == len(inputs)
            for our, their in zip(ours[: operation.n_grad], theirs, strict=True):
                assert_close(our, their)


def check_central_differences(operation: Operation, device: torch.device) -> None:
    """``torch.autograd.gradcheck`` in float64 at its defaults, through the bridge to autograd."""
    for case in operation.cases if not operation.network else ():
        if case.smooth:
            with _named(operation, case):
                inputs = case.on(torch.float64, device)
                fixed = inputs[operation.n_grad :]
                leaves = [a.detach().requires_grad_() for a in inputs[: operation.n_grad]]
                assert torch.autograd.gradcheck(
                    lambda *leaves, fixed=fixed: by_hand(
                        lambda *leaves: 1 * operation.forward(*leaves, *fixed),  # never the input itself
                        lambda leaves, output: tuple(leaves),
                        lambda needed, incoming, *leaves: operation.gradients(incoming, *leaves, *fixed)[: len(leaves)],
                        *leaves,
                    ),
                    leaves,
                )


def check_precision(operation: Operation, dtype: torch.dtype, device: torch.device) -> None:
    """Output and all gradients no farther from float64 than torch's own in this dtype, twice over."""
    for case in operation.cases:
        with _named(operation, case):
            inputs = case.on(dtype, device)
            wide = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in inputs)
            theirs, their_gradients, incoming = _torch_gradients(operation, inputs, case)
            exact, exact_gradients, _ = _torch_gradients(operation, wide, case, incoming.double())
            assert_as_precise(operation.forward(*inputs), theirs, exact)
            ours = operation.gradients(incoming, *inputs)[: operation.n_grad]
            for our, their, truth in zip(ours, their_gradients, exact_gradients, strict=True):
                assert_as_precise(our, their, truth)


def _torch_gradients(
    operation: Operation, inputs: tuple[Any, ...], case: Case, incoming: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    leaves = [a.detach().requires_grad_() for a in inputs[: operation.n_grad]]
    output = operation.reference(*leaves, *inputs[operation.n_grad :])
    if incoming is None:
        incoming = case.layout(torch.randn(output.shape, dtype=torch.float64).to(output.device, output.dtype))
    return output.detach(), torch.autograd.grad(output, leaves, incoming), incoming


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


def check_rule(rule: Rule, seed: int, dtype: torch.dtype, device: torch.device) -> None:
    """The rule, equal to the last bit to the one in plain Python, on whole numbers."""
    problem = integer_problem(seed, dtype, device)
    for ours, expected in zip(rule(*problem), rule_in_python(*problem), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


# ---- good arguments for every function, from its annotations ------------------------------------------------------

SIZES = {"N": 5, "I": 3, "O": 2, "K": 4}


def good_arguments(function: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments by name that the function accepts: tensors of the sizes above, labels, and 0.5 for a number."""
    hints = typing.get_type_hints(function, include_extras=True)
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = next((h for h in typing.get_args(hints[name]) if typing.get_origin(h) is typing.Annotated), hints[name])
        if hint is validation.Labels:
            arguments[name] = torch.randint(0, SIZES["K"], (SIZES["N"],), device=device)
        elif typing.get_origin(hint) is typing.Annotated and typing.get_args(hint)[0] is Tensor:
            shape, *checks = typing.get_args(hint)[1:]
            shape = "N O" if shape == "..." else shape
            values = torch.randn([SIZES[letter] for letter in shape.split()], dtype=torch.float64)
            if checks:  # a target or sample weights: 0 and 1
                values = (values > 0).double()
                values[0] = 1.0
            arguments[name] = values.to(device, dtype)
        elif parameter.default is inspect.Parameter.empty:
            arguments[name] = 0.5
    return arguments
