"""Holding what a backward returned to the right gradients, point by point."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.verify.calls import CallError, Pair
from nnlab.verify.points import GENERIC, ZEROS, Point
from nnlab.verify.reference import SAMPLE, Reference
from nnlab.verify.tolerances import CENTRAL, CONDITION, RELATIVE, SATURATED
from nnlab.verify.trace import has_settled_kinks, run

WITNESSED = ("given", "redrawn")
"""Points at which central differences bear witness beside autograd."""


class Verdict(NamedTuple):
    """One point: what came, what is right (NaN where there is no telling), the errors, and what is wrong."""

    point: Point
    claimed: tuple[Tensor, ...]
    right: tuple[Tensor, ...]
    errors: tuple[float, ...]
    central: tuple[float | None, ...]
    wrong: frozenset[int]


class Judge:
    """Knows the right gradients, chooses who judges, and keeps notes of what it left out."""

    def __init__(self, pair: Pair, wanted: Sequence[int], points: Sequence[Point], dtype: torch.dtype) -> None:
        self.pair, self.wanted, self.dtype = pair, tuple(wanted), dtype
        self.reference = Reference(pair, wanted, points[0].inputs)
        self.notes: list[str] = []
        self.witness: dict[str, tuple[tuple[Tensor, ...], tuple[float, ...]]] = {}
        narrow = self.reference.wide != torch.float64 or points[0].output.dtype != dtype
        self.central_tolerance = CENTRAL if not narrow else 5e-3
        self._choose(points)
        self.settled = self._settled(points[0])
        generic = {p.kind: r for p in points if p.kind in GENERIC and (r := self.reference(p.inputs, p.cotangent))}
        near, everywhere = [r for kind, r in generic.items() if kind in GENERIC[:2]], list(generic.values())
        self.scales = [max((_norm(r[i]) for r in near), default=0.0) for i in range(len(self.wanted))]
        self.natural = [max((_norm(r[i]) for r in everywhere), default=0.0) for i in range(len(self.wanted))]

    @property
    def tolerance(self) -> float:
        """The relative error allowed."""
        return RELATIVE[self.dtype] if self.reference.by_autograd else self.central_tolerance

    def _choose(self, points: Sequence[Point]) -> None:
        """Autograd judges if it can follow the forward, and central differences agree with it."""
        if self.pair.uses_arrays or self.reference.autograd(points[0].inputs, points[0].cotangent) is None:
            self.reference.distrust("autograd cannot follow this forward, so central differences judge")
        for point in (p for p in points if p.kind in WITNESSED):
            try:
                found = self.reference.central(point.inputs, point.cotangent, SAMPLE)
            except CallError:
                continue
            self.witness[point.kind] = found.values, found.noise
            if not self.reference.by_autograd:
                continue
            right = self.reference.autograd(point.inputs, point.cotangent)
            for ours, theirs, noise in zip(right or (), found.values, found.noise, strict=False):
                room = 10 * (self.central_tolerance * _norm(theirs) + noise)
                if _norm(ours.double() - theirs) > room:
                    self.reference.distrust(
                        "autograd's gradient of this forward is not its slope (something is detached, or carries a "
                        "wrong gradient of its own), so central differences judge"
                    )
                    break
        if self.reference.why:
            self.notes.append(self.reference.why)

    def _settled(self, point: Point) -> bool:
        """Whether the slope at every kink is agreed upon: the only function with a kink is relu."""
        watched = run(self.pair.function, self.reference.widened(point.inputs), self.wanted)
        names = {call.name for call in watched.calls} if watched else set()
        return has_settled_kinks(names)

    def verdict(self, point: Point, claimed: Sequence[Tensor]) -> Verdict | None:
        """Judge one point; None, and a note, where the right gradient is not known there."""
        right = self.reference(point.inputs, point.cotangent)
        if right is None:
            self.notes.append(f"{point.where} were left out: the right gradient is not known there")
            return None
        right = self._known(point, right)
        if not self.settled and self.reference.by_autograd and point.kind in {"given", *ZEROS, "ties"}:
            right = self._without_kinks(point, claimed, right)
        errors, wrong, room = [], set(), None
        for i, (ours, theirs) in enumerate(zip(claimed, right, strict=True)):
            error = distance(ours, theirs)
            scale = max(_norm(theirs), self.scales[i])
            if not error <= self.tolerance * scale:
                if room is None:
                    room = self._room(point, right)
                if not error <= self.tolerance * scale + room[i]:
                    wrong.add(i)
                elif self.reference.by_autograd and not point.planted:
                    what = f"grad_{self.pair.names[self.wanted[i]]} is ill-conditioned at {point.where}"
                    self.notes.append(f"{what}: an error of {error / max(scale, 1e-300):.0e} is rounding there")
            scale = max(scale, 1e-6 * max(self.scales))  # beside gradients of this size it is zero but for rounding
            errors.append(0.0 if error == 0 else error / scale if scale else math.inf)
        return Verdict(point, tuple(claimed), right, tuple(errors), self._central(point, claimed), frozenset(wrong))

    def _known(self, point: Point, right: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        at = f"at {point.where} were dropped"
        lost = sum(int((~torch.isfinite(r)).sum()) for r in right)
        if self.reference.by_autograd:
            if lost:
                self.notes.append(f"{lost} entries {at}: autograd is not finite there")
        elif self.reference.kinks:
            self.notes.append(f"{self.reference.kinks} entries {at}: central differences straddle a kink there")
        if not self.reference.by_autograd and lost > self.reference.kinks:
            entries = sum(r.numel() for r in right)
            self.notes.append(f"central differences at a random {entries - lost} or so of {entries} entries")
        return tuple(torch.where(torch.isfinite(r), r, torch.nan) for r in right)

    def _without_kinks(self, point: Point, claimed: Sequence[Tensor], right: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Leave out the entries that differ across a kink, where any slope between the two sides will do."""
        close = all(distance(c, r) <= self.tolerance * _norm(r) for c, r in zip(claimed, right, strict=True))
        if close or any(c.shape != r.shape for c, r in zip(claimed, right, strict=True)):
            return right
        try:
            differences = self.reference.central(point.inputs, point.cotangent, self.reference.full)
        except CallError:
            return right
        if differences.kinks:
            self.notes.append(
                f"{differences.kinks} entries at {point.where} were dropped: central differences straddle a kink there"
            )
            return tuple(
                torch.where(d.isnan(), d.to(r), r) if r.numel() <= self.reference.full else r
                for d, r in zip(differences.values, right, strict=True)
            )
        return right

    def _room(self, point: Point, right: Sequence[Tensor]) -> tuple[float, ...]:
        """What rounding alone may change beyond the tolerance: of the inputs, or of the differences."""
        if self.reference.by_autograd:
            moved = self.reference.rounding_of_inputs(point.inputs, point.cotangent, right)
            size = max(1.0, *(_most(point.inputs[i]) for i in self.wanted))
            eps = torch.finfo(self.dtype).eps * SATURATED * size
            return tuple(CONDITION * m + eps * natural for m, natural in zip(moved, self.natural, strict=True))
        return tuple(10 * n for n in self.reference.central(point.inputs, point.cotangent, 1).noise)

    def _central(self, point: Point, claimed: Sequence[Tensor]) -> tuple[float | None, ...]:
        if point.kind not in self.witness:
            return (None,) * len(claimed)
        values, _ = self.witness[point.kind]
        return tuple(
            distance(c, v) / max(_norm(v), 1e-3 * scale) if bool((~v.isnan()).any()) and _norm(v) else None
            for c, v, scale in zip(claimed, values, self.scales, strict=True)
        )


def distance(claimed: Tensor, right: Tensor) -> float:
    """‖claimed − right‖ over the entries that are known; infinite for another shape or numbers that are not finite."""
    if claimed.shape != right.shape:
        return math.inf
    difference = (claimed.to(right.device).double() - right.double())[~right.isnan()]
    norm = float(difference.norm())
    return norm if math.isfinite(norm) else math.inf


def _most(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _norm(tensor: Tensor) -> float:
    return float(tensor.double().nan_to_num(0.0).norm())
