"""Mistakes that are a factor, a term or an entrywise change: seen from the gradients alone, whatever the function."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nnlab.verify.calls import CallError
from nnlab.verify.evidence import Evidence, Guess, only


def guesses(evidence: Evidence) -> Iterator[Guess]:
    """A constant factor, a penalty too much or too little, clipping, normalising, lost signs."""
    n = len(evidence.wanted)
    for i in sorted(evidence.wrong):
        yield from _factor(evidence, i)
        if any(bool(rest[i].any()) for rest in evidence.penalties):
            yield from _factor(evidence, i, data=True)
        yield from _penalty(evidence, i)
        name = evidence.names[i]

        def unit(k: int, i: int = i) -> list[Tensor | None]:
            right = evidence.generic[k].right[i]
            return list(only(i, n, right / right.nan_to_num().norm()))

        def lost(k: int, i: int = i) -> list[Tensor | None]:
            return list(only(i, n, evidence.generic[k].right[i].abs()))

        yield from _extra(evidence, i)
        yield Guess("normalised", f"{name} has length 1 at every point", unit)
        yield Guess("absolute", f"{name} is the absolute value of the right one", lost)
        bound = max(_most(v.claimed[i]) for v in evidence.generic)

        def clipped(k: int, i: int = i, bound: float = bound) -> list[Tensor | None]:
            return list(only(i, n, evidence.generic[k].right[i].clamp(-bound, bound)))

        yield Guess("clipped", f"{name} stops at ±{bound:.3g}", clipped)


def _extra(evidence: Evidence, i: int) -> Iterator[Guess]:
    """The right one times or over the input, the output or grad_output, entry by entry."""
    n, shape = len(evidence.wanted), evidence.generic[0].right[i].shape

    def others(k: int) -> dict[str, Tensor]:
        point = evidence.generic[k].point
        named = {evidence.arguments[i]: point.inputs[evidence.wanted[i]], "the output": point.output}
        return {name: t.double() for name, t in {**named, "grad_output": point.cotangent}.items() if t.shape == shape}

    for name in others(0):

        def times(k: int, name: str = name) -> list[Tensor | None]:
            return list(only(i, n, evidence.generic[k].right[i] * others(k)[name]))

        def over(k: int, name: str = name) -> list[Tensor | None]:
            return list(only(i, n, evidence.generic[k].right[i] / others(k)[name]))

        yield Guess("extra-factor", f"{evidence.names[i]} is the right one times {name}", times)
        yield Guess("extra-factor", f"{evidence.names[i]} is the right one over {name}", over)


def factor(evidence: Evidence, i: int, data: bool = False) -> float | None:
    """C where gradient i is c times the right one, by the point where the right one is largest; else None."""
    sizes = [float(v.right[i].double().nan_to_num().norm()) for v in evidence.generic]
    largest = sizes.index(max(sizes))
    claimed, right = evidence.generic[largest].claimed[i].double(), evidence.generic[largest].right[i].double()
    if data and claimed.shape == right.shape:
        claimed, right = claimed - evidence.penalties[largest][i], right - evidence.penalties[largest][i]
    if claimed.shape != right.shape or not bool(torch.isfinite(claimed).all()):
        return None
    known = ~right.isnan()
    length = float((right[known] ** 2).sum())
    return None if length == 0 else float((claimed[known] * right[known]).sum()) / length


def _factor(evidence: Evidence, i: int, data: bool = False) -> Iterator[Guess]:
    """A factor on the gradient, or on that part of it that is not a penalty's."""
    c = factor(evidence, i, data)
    if c is None:
        return
    n = len(evidence.wanted)

    def scaled(k: int) -> list[Tensor | None]:
        rest = evidence.penalties[k][i] if data else 0.0
        return list(only(i, n, c * (evidence.generic[k].right[i] - rest) + rest))

    if abs(c) < evidence.match:
        yield Guess("zero", f"{evidence.names[i]} is zero", scaled)
        return
    ways = _ways(evidence, i, c)
    for fault, why in ways:
        also = [f"{other}" for other_fault, other in ways if other_fault != fault and other != why]
        either = f" ({' and '.join(also)} too)" if also else ""
        which = f"{evidence.names[i]}{' without the penalty' if data else ''}"
        evidence_words = f"{which} is {c:.3f} × the right one{', and ' + why if why else ''}{either}"
        yield Guess(fault, evidence_words, scaled)


def _ways(evidence: Evidence, i: int, c: float) -> list[tuple[str, str]]:
    """Every reading of a factor, the likeliest first."""
    if _near(c, -1):
        return [("sign", "")]
    size, n, k = abs(c), evidence.batch or 1, evidence.outputs or 1
    minus = "the sign is wrong besides, and " if c < 0 else ""
    vector = evidence.inputs[evidence.wanted[i]].ndim == 1 and i > 0
    batch, outputs, both = f"the batch is {n}", f"there are {k} outputs", f"samples × outputs are {n} × {k}"
    table = [
        ("batch-mean-missing", n, batch, n > 1),
        ("batch-mean-extra", 1 / n, batch, n > 1),
        ("bias-averaged", 1 / n, batch, n > 1 and vector),
        ("factor-two", 2.0, "2 is the exponent's", True),
        ("factor-half", 0.5, "½ is half of it", True),
        ("outputs-mean-missing", k, outputs, k > 1),
        ("outputs-mean-extra", 1 / k, outputs, k > 1),
        ("batch-mean-missing", n * k, both, n > 1 and k > 1),
        ("batch-mean-extra", 1 / (n * k), both, n > 1 and k > 1),
    ]
    sizes = [("batch-mean", n, batch), ("outputs-mean", k, outputs), ("batch-mean", n * k, both)]
    for fault, value, why in sizes:  # a square's 2 or ½ besides
        table += [(f"{fault}-missing", value * f, f"{why}, and a factor of {f:g} besides", value > 2) for f in (2, 0.5)]
        table += [(f"{fault}-extra", f / value, f"{why}, and a factor of {f:g} besides", value > 2) for f in (2, 0.5)]
    ways = [(fault, minus + why) for fault, value, why, possible in table if possible and _near(size, value)]
    ways += _weighted(evidence, size)
    if len({fault for fault, _ in ways if fault != "bias-averaged"}) > 1:
        ways = _settle(evidence, i, c, ways)
    return ways or [("constant-factor", minus.removesuffix(", and "))]


def _weighted(evidence: Evidence, size: float) -> list[tuple[str, str]]:
    """Σw / N of an input that may hold sample weights."""
    for k, value in enumerate(evidence.inputs):
        if isinstance(value, Tensor) and k not in evidence.wanted and value.is_floating_point() and value.ndim == 1:
            mean = float(value.sum()) / max(1, len(value))
            if not _near(mean, 1) and mean > 0 and (_near(size, mean) or _near(size * mean, 1)):
                name = evidence.pair.names[k]
                return [("weighted-mean", f"{name} has the sum {float(value.sum()):.3f} over {len(value)} samples")]
    return []


def _settle(evidence: Evidence, i: int, c: float, ways: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Tell a factor of N from one that merely equals it: ask again with one sample less, where the function allows."""
    batch = evidence.batch or 0
    smaller = _factor_without_a_sample(evidence, i, batch) if batch > 1 else None
    if smaller is None:
        return ways
    of_batch = [w for w in ways if w[0].startswith("batch") or w[0] == "bias-averaged"]
    others = [w for w in ways if w not in of_batch]
    return others or ways if _near(smaller, c) else of_batch or ways


def _factor_without_a_sample(evidence: Evidence, i: int, batch: int) -> float | None:
    point = evidence.verdicts[0].point
    inputs = tuple(
        v[:-1] if isinstance(v, Tensor) and v.ndim and len(v) == batch and (k == 0 or k not in evidence.wanted) else v
        for k, v in enumerate(point.inputs)
    )
    try:
        output = evidence.pair.forward(inputs)
        if output.ndim and len(output) != batch - 1:
            return None
        cotangent = point.cotangent[: batch - 1] if output.ndim else point.cotangent
        claim = evidence.pair.claim(cotangent, inputs).gradients[evidence.wanted[i]]
    except CallError:
        return None
    right = evidence.vjp(inputs, cotangent)
    if claim is None or right is None or claim.shape != right[i].shape:
        return None
    known = ~right[i].isnan()
    length = float((right[i][known] ** 2).sum())
    return float((claim[known].to(right[i]) * right[i][known]).sum()) / length if length else None


def _penalty(evidence: Evidence, i: int) -> Iterator[Guess]:
    """The difference is a constant times the input itself, with or without the cotangent of a scalar."""
    generic, n = evidence.generic, len(evidence.wanted)
    values = [v.point.inputs[evidence.wanted[i]].double() for v in generic]
    first = generic[-1]
    if first.claimed[i].shape != values[-1].shape or float(values[-1].norm()) == 0:
        return
    rest = (first.claimed[i].double() - first.right[i].double()).nan_to_num()
    c = float((rest * values[-1]).sum() / (values[-1] ** 2).sum())
    scalar, vector = first.point.output.ndim == 0, values[-1].ndim == 1
    for with_cotangent in (False, True) if scalar else (False,):
        unit = c / float(first.point.cotangent) if with_cotangent else c
        fault = "penalty-missing" if unit < 0 else "penalty-on-bias" if vector else "penalty-extra"

        def shifted(k: int, unit: float = unit, with_cotangent: bool = with_cotangent) -> list[Tensor | None]:
            g = generic[k].point.cotangent.double() if with_cotangent else 1.0
            return list(only(i, n, generic[k].right[i] + unit * g * values[k]))

        words = (
            f"{evidence.names[i]} is the right one {'−' if unit < 0 else '+'} {abs(unit):.4g} × {evidence.arguments[i]}"
        )
        yield Guess(fault, words, shifted)


def _most(tensor: Tensor) -> float:
    return float(tensor.double().nan_to_num().abs().max()) if tensor.numel() else 0.0


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-5 * max(abs(one), abs(other))
