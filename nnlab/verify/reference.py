"""The right gradients of a user's forward: by autograd where it can be trusted, else by central differences."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.verify.calls import CallError, Inputs, Pair
from nnlab.verify.points import normal_like
from nnlab.verify.tolerances import STEP

SAMPLE, LEAST, MOST = 24, 48, 4096
"""Entries per input that are differenced: where differences only witness; where they judge, at least and at most."""

SECONDS = 0.4
"""Time that the differences of one point may take; a slow forward has fewer of its entries differenced."""


class Differences(NamedTuple):
    """Central differences per input, NaN where not taken or across a kink; their rounding; entries across a kink."""

    values: tuple[Tensor, ...]
    noise: tuple[float, ...]
    kinks: int


class Reference:
    """Gradients of ⟨cotangent, forward(inputs)⟩ with respect to the inputs ``wanted``, in float64 where that works."""

    def __init__(self, pair: Pair, wanted: Sequence[int], inputs: Inputs) -> None:
        self.pair, self.wanted = pair, tuple(wanted)
        self.wide = torch.float64
        start = time.perf_counter()
        try:
            pair.forward(self.widened(inputs))
        except CallError:  # a constant of the function's own has the narrow dtype
            self.wide = inputs[self.wanted[0]].dtype
        calls = SECONDS / max(1e-5, time.perf_counter() - start)
        self.full = max(LEAST, min(MOST, int(calls / (4 * len(self.wanted)))))
        self.by_autograd, self.why = True, ""
        self.kinks = 0  # entries across a kink, at the last point that was differenced

    def widened(self, inputs: Inputs) -> Inputs:
        """The inputs in the dtype of the reference."""
        return tuple(v.to(self.wide) if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs)

    def distrust(self, why: str) -> None:
        """Let central differences judge."""
        self.by_autograd, self.why = False, why

    def __call__(self, inputs: Inputs, cotangent: Tensor) -> tuple[Tensor, ...] | None:
        """The right gradients, NaN where there is no telling; None where the forward fails."""
        if self.by_autograd:
            return self.autograd(inputs, cotangent)
        try:
            return self.central(inputs, cotangent, self.full).values
        except CallError:
            return None

    def autograd(self, inputs: Inputs, cotangent: Tensor) -> tuple[Tensor, ...] | None:
        """Autograd's gradients, or None where it cannot follow the forward."""
        if self.pair.uses_arrays:
            return None
        full = list(self.widened(inputs))
        leaves = [full[i].detach().clone().requires_grad_() for i in self.wanted]
        for i, leaf in zip(self.wanted, leaves, strict=True):
            full[i] = leaf
        try:
            with torch.enable_grad():
                output = self.pair.forward(tuple(full))
                if not output.requires_grad:
                    return None
                return gradients(output, leaves, cotangent)
        except (CallError, RuntimeError, ValueError, TypeError, NotImplementedError):
            return None

    @torch.no_grad()
    def central(self, inputs: Inputs, cotangent: Tensor, limit: int, seed: int = 0) -> Differences:
        """Central differences of ⟨cotangent, forward⟩, of fourth order, at up to ``limit`` entries per input."""
        inputs = self.widened(inputs)
        start = self.pair.forward(inputs)
        cotangent = cotangent.to(torch.float64)
        eps = torch.finfo(start.dtype).eps
        step = STEP if eps < 1e-15 else 10 * eps**0.5  # a float32 forward needs a coarse step
        phi_0 = (start.double() * cotangent).sum()
        rounding = eps * float((start.double() * cotangent).abs().sum() + phi_0.abs()) / step
        generator = torch.Generator().manual_seed(seed)
        values, kinks = [], 0
        for i in self.wanted:
            value = torch.full(inputs[i].shape, torch.nan, dtype=torch.float64, device=inputs[i].device)
            n = inputs[i].numel()
            chosen = range(n) if n <= limit else torch.randperm(n, generator=generator)[:limit].tolist()
            for entry in chosen:
                slope, kink = self._slope(inputs, i, entry, step, float(phi_0), rounding, cotangent)
                kinks += kink
                value.view(-1)[entry] = torch.nan if kink else slope
            values.append(value)
        self.kinks = kinks
        return Differences(tuple(values), tuple(rounding * max(1, v.numel()) ** 0.5 for v in values), kinks)

    def _slope(
        self, inputs: Inputs, i: int, entry: int, step: float, phi_0: float, noise: float, cotangent: Tensor
    ) -> tuple[float, bool]:
        """The slope along one entry, and whether there is a kink within the step."""
        moved = list(inputs)
        x = float(inputs[i].reshape(-1)[entry])
        h = step * max(1.0, abs(x))

        def phi(shift: float) -> float:
            tensor = inputs[i].contiguous().clone()
            tensor.view(-1)[entry] = x + shift
            moved[i] = tensor
            return float((self.pair.forward(tuple(moved)).double() * cotangent).sum())

        up, down, half_up, half_down = phi(h), phi(-h), phi(h / 2), phi(-h / 2)
        wide, narrow = (up - down) / (2 * h), (half_up - half_down) / h
        bend, half_bend = (up - 2 * phi_0 + down) / h, (half_up - 2 * phi_0 + half_down) / (h / 2)
        visible = 1e-3 * max(abs(wide), abs(narrow), abs(half_bend), 1e3 * noise)
        # where the function is smooth the bend halves with the step, and the two slopes agree
        kink = abs(wide - narrow) > visible or (abs(half_bend) > visible and abs(half_bend) > 0.75 * abs(bend))
        return (4 * narrow - wide) / 3, kink

    def rounding_of_inputs(self, inputs: Inputs, cotangent: Tensor, right: Sequence[Tensor]) -> tuple[float, ...]:
        """How far each gradient moves when every input is moved by one rounding: how well it is conditioned at all."""
        generator = torch.Generator().manual_seed(0)
        moved = list(inputs)
        for k, value in enumerate(inputs):
            if isinstance(value, Tensor) and value.is_floating_point():
                moved[k] = value + value * torch.finfo(value.dtype).eps * normal_like(value, generator).sign()
        other = self.autograd(tuple(moved), cotangent)
        if other is None:
            return (0.0,) * len(right)
        return tuple(float((a - b).nan_to_num().norm()) for a, b in zip(other, right, strict=True))


def gradients(output: Tensor, leaves: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    """Autograd's gradients, zeros where a leaf was not used."""
    found = torch.autograd.grad(
        output, leaves, cotangent.to(output.dtype), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return tuple(found)
