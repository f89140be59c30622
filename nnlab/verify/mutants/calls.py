"""Mistakes of the call rather than of the mathematics: memory, side effects, randomness, exceptions, counts."""

from typing import Any

import torch
from torch import Tensor

from nnlab.ops import LOSSES
from nnlab.verify.backprop import Backward, Steps, backward_of
from nnlab.verify.mutants.draw import Make
from nnlab.verify.subjects import Subject


def _stale(subject: Subject, draw: torch.Generator) -> Backward:
    """The inputs of the previous call are used in place of these."""
    right, memory = backward_of(subject, Steps()), list[Any]()

    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Any, ...]:
        memory.append(tuple(v.clone() if isinstance(v, Tensor) else v for v in inputs))
        return right(grad_output, *memory[max(0, len(memory) - 2)])

    return backward


def _not_zeroed(subject: Subject, draw: torch.Generator) -> Backward:
    right, total = backward_of(subject, Steps()), list[Any]()

    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Any, ...]:
        found = right(grad_output, *inputs)
        total[:] = [f if f is None else f + t for f, t in zip(found, total or [0] * len(found), strict=True)]
        return tuple(total)

    return backward


def _in_place(subject: Subject, draw: torch.Generator) -> Backward:
    right = backward_of(subject, Steps())

    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Any, ...]:
        found = right(grad_output, *inputs)
        grad_output *= 2
        return found

    return backward


def _random(subject: Subject, draw: torch.Generator) -> Backward:
    right, own = backward_of(subject, Steps()), torch.Generator().manual_seed(1)

    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Any, ...]:
        found = right(grad_output, *inputs)
        mask = (torch.rand(found[0].shape, generator=own) < 0.5).to(found[0])
        return found[0] * mask * 2 + 0.1 * mask, *found[1:]

    return backward


def _extra_factor(subject: Subject, draw: torch.Generator) -> Backward:
    """The gradient of x is multiplied by x."""
    right = backward_of(subject, Steps())

    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Any, ...]:
        found = right(grad_output, *inputs)
        return found[0] * inputs[0], *found[1:]

    return backward


def _raises(subject: Subject, draw: torch.Generator) -> Backward:
    def backward(grad_output: Tensor, *inputs: Any) -> tuple[Any, ...]:
        raise IndexError("list index out of range")

    return backward


def _count(subject: Subject, draw: torch.Generator) -> Backward:
    right = backward_of(subject, Steps())
    return lambda grad_output, *inputs: (*right(grad_output, *inputs), grad_output)


def _nothing(subject: Subject, draw: torch.Generator) -> Backward:
    return lambda grad_output, *inputs: (None,) * len(inputs)


def _updated_first(subject: Subject, draw: torch.Generator) -> Backward | None:
    """Each layer's weights take their step before δ is pulled back through them."""
    if subject.layers < 1 or subject.l2:
        return None
    lr = 0.01 + 0.1 * float(torch.rand((), generator=draw))
    return backward_of(subject, Steps(down=lambda d, layer: d @ (layer.weight - lr * d.T @ layer.o)))


def _broadcast(subject: Subject, draw: torch.Generator) -> Backward | None:
    """Y (N, 1) − t (N,) gives (N, N), averaged."""
    if subject.loss is None or LOSSES[subject.loss].target == "labels" or subject.inputs[-2].shape[1] != 1:
        return None

    def delta(loss: str, u: Tensor, t: Tensor) -> Tensor:
        return (LOSSES[loss].output(u) - t[:, 0]).mean(1, keepdim=True)

    return backward_of(subject, Steps(delta=delta))


CALL_MUTANTS: dict[str, Make] = {
    "stale-cache": _stale,
    "not-zeroed": _not_zeroed,
    "weights-updated-first": _updated_first,
    "broadcast": _broadcast,
    "extra-factor": _extra_factor,
    "in-place": _in_place,
    "random": _random,
    "raises": _raises,
    "count": _count,
    "nothing": _nothing,
}
"""How to make each of them."""
