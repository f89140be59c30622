"""What the diagnosis has to go by, and how a guess is held against it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnlab.verify.calls import CallError, Inputs, Pair
from nnlab.verify.judge import Judge, Verdict, distance
from nnlab.verify.points import GENERIC
from nnlab.verify.reference import LEAST, gradients
from nnlab.verify.tolerances import MATCH
from nnlab.verify.trace import MATMULS, Call, Intervention, Preparation, Run, run
from nnlab.verify.twins import twin

Prediction = Sequence[Tensor | None]
"""The gradients that a mistake would give at one point, None where it says nothing; empty to pass over the point."""


class Guess(NamedTuple):
    """A mistake that would give these gradients; guesses of one fault and key, each for some gradients, are one."""

    fault: str
    evidence: str
    predict: Callable[[int], Prediction | None]
    key: str = ""


class Match(NamedTuple):
    """Which wrong gradients a guess reproduces at every point, and which right ones it would have spoilt."""

    explained: frozenset[int]
    spoilt: frozenset[int]


class Evidence:
    """The points, what came, what is right, and the means to ask what another mistake would give."""

    def __init__(
        self,
        pair: Pair,
        wanted: Sequence[int],
        inputs: Inputs,
        verdicts: Sequence[Verdict],
        judge: Judge,
        changed: Sequence[str],
    ) -> None:
        self.pair, self.wanted, self.inputs, self.judge, self.changed = pair, tuple(wanted), inputs, judge, changed
        self.verdicts = tuple(verdicts)
        self.generic = tuple(v for v in verdicts if v.point.kind in GENERIC)
        self.planted = tuple(v for v in verdicts if v.point.planted)
        self.names = tuple(f"grad_{pair.names[i]}" for i in self.wanted)
        self.arguments = tuple(pair.names[i] for i in self.wanted)
        self.wrong = frozenset(i for v in self.generic for i in v.wrong)
        self.match = MATCH[judge.dtype] if judge.reference.by_autograd else 1e-4

    # ---- sizes

    @cached_property
    def batch(self) -> int | None:
        """N: the leading size of the output; of the data, where the output is a scalar; else of the first input."""
        output = self.verdicts[0].point.output
        data = [v for i, v in enumerate(self.inputs) if isinstance(v, Tensor) and i not in self.wanted]
        for tensor in (output, *data, self.inputs[self.wanted[0]]):
            if tensor.ndim:
                return len(tensor)
        return None

    @cached_property
    def outputs(self) -> int | None:
        """K: the size beside N of the output, or of the last matrix before a scalar output."""
        output = self.verdicts[0].point.output
        if output.ndim >= 2:
            return int(output.shape[-1])
        traced = self.runs[0] if self.generic else None
        candidates = [c.output for c in traced.calls if c.output.requires_grad] if traced else []
        candidates = [*traced.leaves, *candidates] if traced else [self.inputs[i] for i in self.wanted]
        matrices = [t for t in candidates if t.ndim == 2 and len(t) == self.batch]
        return int(matrices[-1 if traced else 0].shape[1]) if matrices else None

    # ---- what another mistake would give

    def vjp(self, inputs: Inputs, cotangent: Tensor) -> tuple[Tensor, ...] | None:
        """The right gradients at other inputs, or under another cotangent."""
        return self.judge.reference(inputs, cotangent)

    @cached_property
    def runs(self) -> tuple[Run | None, ...]:
        """The forward under watch, at each generic point."""
        return tuple(self._run(k) for k in range(len(self.generic)))

    @cached_property
    def _watched(self) -> Callable[..., Any] | None:
        """What is watched: the forward, or where autograd cannot follow it a function of the same values."""
        if self.judge.reference.by_autograd:
            return self.pair.function
        return twin([v.point for v in self.generic]) if self.generic else None

    def _run(self, k: int, intervene: Intervention | None = None, prepare: Preparation | None = None) -> Run | None:
        inputs = self.judge.reference.widened(self.generic[k].point.inputs)
        return None if self._watched is None else run(self._watched, inputs, self.wanted, intervene, prepare)

    @cached_property
    def deltas(self) -> tuple[dict[int, Tensor], ...]:
        """∂E/∂(output of each call), at each generic point."""
        return tuple(
            {} if r is None else r.deltas(v.point.cotangent) for r, v in zip(self.runs, self.generic, strict=True)
        )

    def replayed(
        self, k: int, intervene: Intervention | None = None, prepare: Preparation | None = None
    ) -> Prediction | None:
        """The gradients at generic point k of a forward with an intervention in it."""
        again = self._run(k, intervene, prepare)
        if again is None:
            return None
        try:
            return gradients(again.output, again.leaves, self.generic[k].point.cotangent)
        except RuntimeError:  # the planted mistake has the wrong shape here
            return None

    @cached_property
    def penalties(self) -> tuple[tuple[Tensor, ...], ...]:
        """At each generic point, what reaches each input other than through a matrix product: a penalty's gradient."""
        found = []
        for k, verdict in enumerate(self.generic):
            first = self.runs[k]
            products = first is not None and any(c.name in MATMULS for c in first.calls)
            rest = self.replayed(k, _without_products) if products else None
            nothing = tuple(torch.zeros_like(r) for r in verdict.right)
            weights = [bool(rest) and r.ndim >= 2 for r in verdict.right]  # a bias is added after the product
            found.append(
                tuple(
                    p if w and p is not None else n for p, w, n in zip(rest or nothing, weights, nothing, strict=True)
                )
            )
        return tuple(found)

    def again(self, times: int) -> list[list[Tensor]]:
        """What the backward returns when it is called again and again with the given inputs."""
        point, answers = self.verdicts[0].point, []
        try:
            for _ in range(times):
                self.pair.forward(point.inputs)
                claim = self.pair.claim(point.cotangent, point.inputs)
                answers.append([g for i in self.wanted if (g := claim.gradients[i]) is not None])
        except CallError:
            return []
        return answers

    # ---- comparing

    def close(self, one: Tensor, other: Tensor, i: int) -> bool:
        """Whether two gradients of input i are the same but for rounding."""
        if one.shape != other.shape:
            return False
        if int((~other.isnan()).sum()) < min(LEAST // 3, other.numel() / 2):  # hardly anything is known
            return False
        size = max(float(one.double().nan_to_num().norm()), float(other.double().nan_to_num().norm()))
        return distance(one, other) <= self.match * (size + 1e-4 * self.judge.scales[i])

    def test(self, guess: Guess) -> Match:
        """Hold a guess against every generic point."""
        alive, telling, spoilt = set(self.wrong), set(), set()
        for k, verdict in enumerate(self.generic):
            predicted = guess.predict(k)
            if predicted is None:
                return Match(frozenset(), frozenset())
            for i, p in enumerate(predicted):
                if i in alive:
                    if p is None or not self.close(verdict.claimed[i], p, i):
                        alive.discard(i)
                    elif not self.close(p, verdict.right[i], i):
                        telling.add(i)
                elif i not in self.wrong and p is not None and not self.close(p, verdict.right[i], i):
                    spoilt.add(i)
            if not alive:
                break
        return Match(frozenset(alive & telling), frozenset(spoilt))

    def each(self, predict: Callable[[int, int], Tensor | None]) -> Callable[[int], Prediction]:
        """A prediction made gradient by gradient, from the point and the gradient's number."""
        return lambda k: [predict(k, i) for i in range(len(self.wanted))]


def _without_products(number: int, call: Call) -> Tensor:
    return call.output.detach() if call.name in MATMULS else call.output


def only(i: int, n: int, value: Any) -> Prediction:
    """A prediction for gradient i alone."""
    return [value if j == i else None for j in range(n)]
