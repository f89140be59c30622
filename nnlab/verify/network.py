"""``check_network``: every gradient of a whole network, and the layer where a mistake enters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnlab.autograd import mlp
from nnlab.networks import MLP, mlp_forward
from nnlab.ops import LOSSES
from nnlab.validation import ArgumentError, check_choice
from nnlab.verify.calls import Pair
from nnlab.verify.gradients import check_pair
from nnlab.verify.report import GradientReport

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class NetworkReport(GradientReport):
    """A ``GradientReport`` that knows the layers.

    Attributes:
        layer: the layer where the mistake enters, the first wrong one on the way back from the loss; None if all is
            right, or nothing could be compared.
    """

    layer: str | None = None

    @property
    def diagnosis(self) -> str:
        """The layer, and the likely mistakes, the first guess first; empty where all is right."""
        text = "\n".join(str(finding) for finding in self.findings)
        return f"{self.layer}: {text}" if self.layer else text

    def table(self) -> str:
        """Rows, verdict and diagnosis, as text."""
        above = "the mistake enters at" if self.layer else ""
        return f"{super().table()}\n{above} {self.layer}" if self.layer else super().table()

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        return {**super().to_dict(), "layer": self.layer}


def check_network(
    network: nn.Module,
    loss: str | LossFunction,
    x: Tensor,
    target: Tensor,
    *,
    name: str | None = None,
    seed: int = 0,
) -> NetworkReport:
    """Check the gradient of every parameter of a network, and name the layer that is wrong.

    For nnlab's ``MLP``, a subclass of it or one with a ``backward`` of its own, the gradients are those of
    ``network.backward``. For any other module they are what ``loss.backward()`` leaves in ``.grad``; because that is
    autograd itself, with the module's own ``Function``s in it, the reference is central differences.

    >>> network = MLP([3, 4, 2], "tanh", generator=torch.Generator().manual_seed(0))
    >>> check_network(network, "sum_of_squares", torch.ones(5, 3), torch.zeros(5, 2)).ok
    True

    Args:
        network: checked in float64; afterwards it is as it was.
        loss: a name of ``nnlab.ops.LOSSES``, summed over the batch, or a function of output and target.
        x: the inputs, (N, …).
        target: as the loss takes it.
        name: of what is checked, for the report.
        seed: of the random numbers.

    Returns:
        the report, with ``layer``.

    Raises:
        ValueError: an unknown loss, or a network without parameters to differentiate.
    """
    if isinstance(loss, str):
        check_choice("loss", loss, LOSSES)
    parameters = {key: p for key, p in network.named_parameters() if p.requires_grad}
    if not parameters:
        raise ArgumentError("network", "must have parameters that require a gradient")
    name = name or type(network).__name__
    with _in_float64(network):
        x, target = (v.detach().double() if v.is_floating_point() else v for v in (x, target))
        inputs = [x, *(p.detach().clone() for p in parameters.values()), target]
        forward, backward = (_of_mlp if isinstance(network, MLP) and network.plain else _of_module)(
            network, loss, parameters, inputs
        )
        report = check_pair(
            Pair(forward, backward, inputs, ("x", *parameters, "target")), inputs, name, torch.float64, seed
        )
    fields = {key: getattr(report, key) for key in ("name", "rows", "findings", "notes", "seed", "checked")}
    return NetworkReport(**fields, layer=_layer(report, list(parameters)))


@contextmanager
def _in_float64(network: nn.Module) -> Iterator[None]:
    """The network in float64 for a while; values, gradients, buffers and dtypes are put back."""
    tensors = [*network.parameters(), *network.buffers()]
    before = [(t.data, t.data.clone(), None if t.grad is None else t.grad.clone()) for t in tensors]
    network.double()
    try:
        yield
    finally:
        for tensor, (data, value, grad) in zip(tensors, before, strict=True):
            tensor.grad = None
            tensor.data = data.copy_(value)
            tensor.grad = grad
        for own, tensor in zip([*network.parameters(), *network.buffers()], tensors, strict=True):
            own.data = tensor.data  # ``double`` puts new buffers in place of the old


def _loss_value(loss: str | LossFunction, output: Tensor, target: Tensor) -> Tensor:
    return LOSSES[loss].forward(output, target) if isinstance(loss, str) else loss(output, target)


def _set(parameters: dict[str, nn.Parameter], values: tuple[Any, ...]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters.values(), values, strict=True):
            parameter.copy_(value)


Functions = tuple[Callable[..., Tensor], Callable[..., tuple[Any, ...]]]


def _of_mlp(
    network: Any, loss: str | LossFunction, parameters: dict[str, nn.Parameter], inputs: list[Tensor]
) -> Functions:
    """The network's own forward and backward as functions of its parameters."""
    # a frozen parameter is none of them, and where pruning was made permanent, a layer's bias is before its weight
    order = [f"{2 * k}.{name}" for k in range(len(network.activations)) for name in ("weight", "bias")]

    @torch.no_grad()
    def by_hand(x: Tensor, *values: Tensor) -> Tensor:
        _set(parameters, values[:-1])
        return _loss_value(loss, network(x), values[-1])

    def written_out(x: Tensor, *values: Tensor) -> Tensor:
        given = dict(network.named_parameters()) | dict(zip(parameters, values[:-1], strict=True))
        passes = mlp_forward(x, [given[name] for name in order], network.activations)
        return _loss_value(loss, passes[-1].z, values[-1])

    def backward(grad_output: Tensor, x: Tensor, *values: Tensor) -> tuple[Any, ...]:
        _set(parameters, values[:-1])
        passes = network.propagate(x)
        if isinstance(loss, str):
            grad_y = LOSSES[loss].backward(grad_output, passes[-1].z, values[-1])
        else:
            with torch.enable_grad():
                y = passes[-1].z.detach().requires_grad_()
                (grad_y,) = torch.autograd.grad(loss(y, values[-1]), y, grad_output)
        found = network.backward(grad_y, passes).parameters
        if len(found) == len(order):  # else the report tells of the wrong number
            found = [found[order.index(name)] for name in parameters]
        return None, *found, None

    try:  # autograd can follow the forward if it is the package's own
        own = torch.allclose(by_hand(*inputs), written_out(*inputs), rtol=1e-12, atol=0)
    except Exception:  # a forward of the user's own, that does what it likes; the check will report it
        own = False
    return (written_out if own else by_hand), backward


def _of_module(
    network: nn.Module, loss: str | LossFunction, parameters: dict[str, nn.Parameter], inputs: list[Tensor]
) -> Functions:
    """The module's forward, and what ``.backward()`` leaves in ``.grad``, as functions of its parameters."""
    outputs = partial(mlp, network) if isinstance(network, MLP) else network

    @torch.no_grad()
    def forward(x: Tensor, *values: Tensor) -> Tensor:
        _set(parameters, values[:-1])
        return _loss_value(loss, network(x), values[-1])

    def backward(grad_output: Tensor, x: Tensor, *values: Tensor) -> tuple[Any, ...]:
        _set(parameters, values[:-1])
        network.zero_grad(set_to_none=True)
        with torch.enable_grad():
            _loss_value(loss, outputs(x), values[-1]).backward(grad_output)  # type: ignore[no-untyped-call]
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters.values()]
        return None, *found, None

    return forward, backward


def _layer(report: GradientReport, names: list[str]) -> str | None:
    """The layer of the last wrong parameter: the errors of those before it may come from there."""
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    wrong = [row.name.removeprefix("grad_") for row in report.rows if not row.ok]
    if not wrong:
        return None
    module = max((name.rpartition(".")[0] for name in wrong), key=modules.index)
    number, here = modules.index(module) + 1, [n for n in wrong if n.rpartition(".")[0] == module]
    above = "" if number == len(modules) else ", all layers above it are right"
    return f"layer {number} of {len(modules)} ({', '.join(here)}{above})"
