"""Watching a forward at work, and running it again with one mistake planted in its gradient.

Every torch function the forward calls is seen, its arguments and its output; on a second run any of these outputs can
be replaced by one with the same value and another gradient. So the gradient that a mistake would give is computed, for
a function that nobody has seen before, and compared with the gradient that came.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nnlab.verify.calls import Inputs
from nnlab.verify.reference import gradients

Pullback = Callable[[Tensor], Tensor | None]

UNSETTLED = {
    *("abs", "absolute", "amax", "amin", "maximum", "minimum", "max", "min", "fmax", "fmin", "clamp", "clamp_"),
    *("clamp_min", "clamp_max", "clip", "clip_", "hardtanh", "threshold", "median"),
    *("nanmedian", "sort", "topk", "kthvalue", "mode", "quantile", "norm", "vector_norm", "cummax", "cummin"),
    *("max_pool1d", "max_pool2d", "hardshrink", "softshrink", "where", "heaviside", "sign", "sgn", "l1_loss"),
    *("smooth_l1_loss", "huber_loss"),
}
"""Functions with a kink at which the slope is anyone's choice; relu's, 0, is settled, those of its variants are not."""


def has_settled_kinks(names: set[str]) -> bool:
    """Whether the functions of these names have kinks, and at each of them a slope that all agree on."""
    relus = {name for name in names if "relu" in name}
    return bool(relus) and relus <= {"relu", "relu_"} and not names & UNSETTLED


MATMULS = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "linear", "addmm", "mv", "dot"})


class Call(NamedTuple):
    """One call of a torch function: its name, the tensors among its arguments, and the tensor it returned."""

    name: str
    arguments: tuple[Tensor, ...]
    output: Tensor


Intervention = Callable[[int, Call], Tensor]
"""Gets a call's number and the call, and says what its output shall be."""

Preparation = Callable[[int, Any], Any]
"""Gets a call's number and one of its arguments, and says what the argument shall be."""


class Run(NamedTuple):
    """One run of a forward: the leaves, every call, the output."""

    leaves: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    output: Tensor

    def deltas(self, cotangent: Tensor) -> dict[int, Tensor]:
        """∂E/∂(the output of call k) for each call that takes part."""
        taking_part = [k for k, call in enumerate(self.calls) if call.output.requires_grad]
        found = gradients(self.output, [self.calls[k].output for k in taking_part], cotangent)
        return dict(zip(taking_part, (f.detach() for f in found), strict=True))


class _Watch(TorchFunctionMode):
    def __init__(self, intervene: Intervention | None, prepare: Preparation | None) -> None:
        super().__init__()
        self.intervene, self.prepare = intervene, prepare
        self.calls: list[Call] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        number = len(self.calls)
        if self.prepare is not None:
            args = tuple(self.prepare(number, a) for a in args)
            kwargs = {k: self.prepare(number, a) for k, a in (kwargs or {}).items()}
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.is_floating_point():
            tensors = tuple(a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor))
            call = Call(getattr(func, "__name__", ""), tensors, output)
            if self.intervene is not None and not any(output is a for a in tensors):
                output = self.intervene(number, call)
            self.calls.append(call._replace(output=output))
        return output


def run(
    forward: Callable[..., Any],
    inputs: Inputs,
    wanted: Sequence[int],
    intervene: Intervention | None = None,
    prepare: Preparation | None = None,
) -> Run | None:
    """Run a forward under watch; None where it fails, or where autograd cannot follow it."""
    leaves = {i: inputs[i].detach().clone().requires_grad_() for i in wanted}
    full = [leaves[i] if i in leaves else v.clone() if isinstance(v, Tensor) else v for i, v in enumerate(inputs)]
    try:
        with torch.enable_grad(), _Watch(intervene, prepare) as watch:
            output = forward(*full)
    except Exception:  # a user's forward, run under a planted mistake: whatever it raises, there is nothing to learn
        return None
    if not (isinstance(output, Tensor) and output.requires_grad):
        return None
    return Run(tuple(leaves.values()), tuple(watch.calls), output)


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, pull: Sequence[Pullback], *sources: Tensor) -> Tensor:
        ctx.pull = pull
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return None, None, *(pull(grad_output) for pull in ctx.pull)


def with_gradient(value: Tensor, *parts: tuple[Tensor, Pullback]) -> Tensor:
    """A tensor of the same value whose gradient with respect to each source is what its pull-back says."""
    result: Tensor = _Pull.apply(value.detach(), [pull for _, pull in parts], *(source for source, _ in parts))
    return result
