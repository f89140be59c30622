"""The points at which a gradient is checked: as given, moved, drawn anew, and planted with edge values."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.verify.calls import Inputs

GENERIC = ("given", "mixed", "redrawn", "standard normal")
ZEROS = ("exact zeros", "zero rows")  # of the first input, of the others: a unit meets u = 0 by one or the other
PLANTED = (*ZEROS, "ties", "large values")
_LARGE = (1e4, -1e4, 1e-30, 30.0, -30.0)


class Point(NamedTuple):
    """One set of inputs, the output there, and the random cotangent that the gradients are asked for."""

    kind: str
    inputs: Inputs
    output: Tensor
    cotangent: Tensor

    @property
    def where(self) -> str:
        """Words for the place."""
        if self.kind == "given":
            return "the given inputs"
        return f"inputs with {self.kind}" if self.planted else f"inputs {self.kind}"

    @property
    def planted(self) -> bool:
        """Whether edge values were planted here."""
        return self.kind in PLANTED


def inputs_of(kind: str, inputs: Inputs, wanted: Sequence[int], generator: torch.Generator) -> Inputs:
    """The inputs of a point of this kind; only those that are differentiated change."""
    moved = list(inputs)
    for i in wanted:
        if moved[i].numel():
            alone = len(wanted) == 1
            moved[i] = _move(kind, moved[i], generator, alone=alone, first=i == wanted[0])
    return tuple(moved)


def normal_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape, dtype and device, the same on every device."""
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return drawn.to(tensor.device, tensor.dtype)


def _move(kind: str, x: Tensor, generator: torch.Generator, *, alone: bool, first: bool) -> Tensor:
    if kind == "mixed":  # stays within the range of the values: a domain such as x > 0 is kept
        flat = x.flatten()
        other = flat[torch.randperm(len(flat), generator=generator).to(x.device)].view_as(x)
        part = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device, x.dtype)
        return x * (0.7 + 0.3 * part) if x.numel() == 1 else x + (other - x) * (0.2 + 0.6 * part)
    if kind == "standard normal":  # whatever the values were: here nothing saturates
        return normal_like(x, generator)
    if kind == "redrawn":
        spread = x.std().item() if x.numel() > 1 else 0.0
        spread = spread if 0 < spread < float("inf") else 1.0
        return x.mean() + spread * normal_like(x, generator)
    x = x.clone(memory_format=torch.contiguous_format)
    flat = x.view(-1)
    if kind in ZEROS:
        if x.ndim < 2 and not alone:
            return torch.zeros_like(x)  # a bias
        if alone or first == (kind == "exact zeros"):
            flat[torch.rand(len(flat), generator=generator).to(x.device) < 0.2] = -0.0
            flat[0] = 0.0
            if x.ndim >= 2:
                x[0] = 0.0
    elif kind == "ties":
        if x.ndim >= 2:
            x[0] = x[0].max()
        flat[: min(2, len(flat))] = flat[0].clone()
    elif kind == "large values" and first:
        n = min(len(flat), len(_LARGE))
        flat[:n] = torch.tensor(_LARGE[:n], dtype=x.dtype, device=x.device)
    return x
