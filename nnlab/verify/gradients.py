"""``check_gradients``: is this backward the gradient of this forward, and if not, what is wrong with it?"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnlab.validation import ArgumentError
from nnlab.verify.calls import CallError, Claim, Inputs, Pair, is_real
from nnlab.verify.diagnosis import diagnose
from nnlab.verify.evidence import Evidence
from nnlab.verify.judge import Judge, Verdict
from nnlab.verify.points import GENERIC, PLANTED, Point, inputs_of, normal_like
from nnlab.verify.report import Finding, GradientReport, Row
from nnlab.verify.tolerances import CENTRAL_REASON, REASONS
from nnlab.verify.zeros import zeros_for_every_relu


def check_gradients(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    name: str | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> GradientReport:
    """Check a hand-written gradient against its function, and say what is wrong with it.

    The inputs are used as given, moved, drawn anew in the same shapes, and planted with exact zeros, ties and large
    values, each time with another random incoming gradient. The reference is autograd where it can follow ``forward``
    and central differences agree with it; else central differences (NumPy, ``.item()`` or in-place code in
    ``forward``).

    >>> def backward(grad_output, u):
    ...     return grad_output
    >>> report = check_gradients(torch.tanh, backward, [torch.tensor([0.5, -1.0, 2.0])])
    >>> report.ok, report.findings[0].fault
    (False, 'derivative-missing')

    Args:
        forward: ``forward(*inputs) -> y``, a tensor of any shape.
        backward: ``backward(grad_output, *inputs)``, a tuple of gradients in the order of the inputs, None for what is
            not differentiated; a lone tensor for a lone input. ``forward`` is called just before it with the same
            inputs, so the two may share a cache.
        inputs: floating-point tensors, or NumPy arrays for functions of arrays, are cast to ``dtype`` and
            differentiated; everything else is passed as it is.
        name: of what is checked, for the report; the backward's own name when None.
        dtype: in which the backward is run; the right gradients are found in float64 wherever that works.
        seed: of the random numbers; torch's own generators are left alone.

    Returns:
        the report; it says so, rather than raises, when one of the functions raises or returns nonsense.

    Raises:
        ValueError: there is nothing to differentiate among the inputs, or the dtype is no floating-point dtype.
    """
    if not dtype.is_floating_point:
        raise ArgumentError("dtype", f"must be a floating-point dtype, got {dtype}")
    if not any(is_real(value) for value in inputs):
        raise ArgumentError("inputs", "must hold at least one floating-point tensor or array")
    name = name or str(getattr(backward, "__name__", type(backward).__name__))
    return check_pair(Pair(forward, backward, inputs), inputs, name, dtype, seed)


def check_pair(pair: Pair, inputs: Sequence[Any], name: str, dtype: torch.dtype, seed: int) -> GradientReport:
    """``check_gradients`` for a pair whose inputs have names of their own."""
    with torch.no_grad():
        check = _Check(pair, tuple(_prepared(value, dtype) for value in inputs), dtype, seed)
        rows, findings = check.report()
    return GradientReport(name, rows, findings, tuple(dict.fromkeys(check.notes)), seed, {"dtype": str(dtype)[6:]})


def _prepared(value: Any, dtype: torch.dtype) -> Any:
    if not is_real(value):
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) and value.dtype.kind in "iub" else value
    return (value.detach() if isinstance(value, Tensor) else torch.tensor(value)).to(dtype, copy=True)


class _Check:
    """One check: first every call of the backward, in order, then the right gradients, then the verdict."""

    def __init__(self, pair: Pair, inputs: Inputs, dtype: torch.dtype, seed: int) -> None:
        self.pair, self.inputs, self.dtype = pair, inputs, dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.notes: list[str] = []
        self.changed: set[str] = set()
        self.points: list[Point] = []
        self.claims: list[Claim] = []
        self.wanted: tuple[int, ...] = ()

    def report(self) -> tuple[tuple[Row, ...], tuple[Finding, ...]]:
        try:
            self._observe()
        except CallError as error:
            return (), (Finding(error.fault, (), str(error), "", 1.0),)
        judge = Judge(self.pair, self.wanted, self.points, self.dtype)
        verdicts = []
        for point, claim in zip(self.points, self.claims, strict=True):
            claimed = [claim.gradients[i] for i in self.wanted]
            verdict = judge.verdict(point, [c for c in claimed if c is not None])
            if verdict is not None:
                verdicts.append(verdict)
        self.notes += judge.notes
        rows = tuple(self._row(k, judge, verdicts) for k in range(len(self.wanted)))
        if not verdicts:
            return rows, (Finding("forward", (), "forward could not be judged at any point", "", 1.0),)
        if all(row.ok for row in rows) and not self.changed:
            return rows, ()
        evidence = Evidence(self.pair, self.wanted, self.inputs, verdicts, judge, tuple(sorted(self.changed)))
        return rows, diagnose(evidence)

    def _observe(self) -> None:
        """Call forward and backward at every point."""
        everything = tuple(i for i, value in enumerate(self.inputs) if is_real(value))
        for kind in (*GENERIC, *PLANTED):
            self._at(kind, inputs_of(kind, self.inputs, self.wanted or everything, self.generator))
        for kind, inputs in zeros_for_every_relu(self.pair, self.inputs, self.wanted, self.generator):
            self._at(kind, inputs)

    def _at(self, kind: str, inputs: Inputs) -> None:
        """Call forward and backward at one point, and keep what came."""
        try:
            output = self.pair.forward(inputs)
            if not bool(torch.isfinite(output).all()):
                raise CallError("forward", "forward is not finite")
        except CallError as error:
            if kind == "given":
                cast = f" (the inputs are cast to {self.dtype}: dtype= changes that)"
                raise CallError(
                    "forward", f"{error}{' at the given inputs' if 'finite' in str(error) else cast}"
                ) from error
            self.notes.append(f"inputs with {kind} were dropped: {error} there")
            return
        if kind == "given" and not torch.equal(output, self.pair.forward(inputs)):
            raise CallError("random-forward", "forward gives another result every time: fix its random numbers")
        cotangent = normal_like(output, self.generator)
        try:
            claim = self.pair.claim(cotangent, inputs)
        except CallError as error:
            at = "" if kind == "given" else f" (for inputs with {kind}; it did not for the given ones)"
            raise CallError(error.fault, f"{error}{at}") from error
        self.changed.update(claim.changed)
        if kind == "given":
            real = (i for i, value in enumerate(self.inputs) if is_real(value))
            self.wanted = tuple(i for i in real if claim.gradients[i] is not None)
            if not self.wanted:
                raise CallError("nothing", "backward returned None for every input that can be differentiated")
        if missing := [self.pair.names[i] for i in self.wanted if claim.gradients[i] is None]:
            raise CallError("count", f"grad_{missing[0]} is None at one point and not at another")
        self.points.append(Point(kind, inputs, output, cotangent))
        self.claims.append(claim)

    def _row(self, k: int, judge: Judge, verdicts: Sequence[Verdict]) -> Row:
        i = self.wanted[k]
        worst = max((v.errors[k] for v in verdicts), default=0.0)
        central = [c for v in verdicts if (c := v.central[k]) is not None]
        by_autograd = judge.reference.by_autograd
        return Row(
            name=f"grad_{self.pair.names[i]}",
            shape=tuple(self.inputs[i].shape),
            autograd=worst if by_autograd else None,
            central=max(central, default=None) if by_autograd else worst,
            tolerance=judge.tolerance,
            reason=REASONS[self.dtype] if by_autograd else CENTRAL_REASON,
            ok=bool(verdicts) and not any(k in v.wrong for v in verdicts),
        )
