"""How the activations and the error functions are written out with their numbers."""

from collections.abc import Callable, Sequence

from torch import Tensor

from nnlab.trace.notation import Writer

Vector = Sequence[float]


def _exponential(value: float, write: Writer) -> str:
    return f"e^{write.factor(value)}"


OUTPUTS: dict[str, Callable[[Vector, int, Writer], str]] = {
    "identity": lambda u, j, write: write.number(u[j]),
    "sigmoid": lambda u, j, write: f"1 / (1 + {_exponential(-u[j], write)})",
    "tanh": lambda u, j, write: f"tanh({write.number(u[j])})",
    "relu": lambda u, j, write: f"max({write.number(u[j])}, 0)",
    "softmax": lambda u, j, write: (
        f"{_exponential(u[j], write)} / ({' + '.join(_exponential(v, write) for v in u)})"  # eq. 4.104 of Bishop (2006)
    ),
}
"""z or y of unit j from the potentials u of its layer."""

SLOPES: dict[str, Callable[[float, Writer], str]] = {
    "identity": lambda z, write: "1",
    "sigmoid": lambda z, write: f"{write.number(z)}·(1 − {write.number(z)})",
    "tanh": lambda z, write: f"(1 − {write.factor(z)}²)",
    "relu": lambda z, write: "1" if z > 0 else "0",
}
"""h'(u), written with z = h(u) as nnlab computes it."""


def _sum_of_squares(u: Vector, y: Vector, t: Vector, write: Writer) -> str:
    return " + ".join(f"½·({write.number(a)} − {write.factor(b)})²" for a, b in zip(y, t, strict=True))


def _binary_cross_entropy(u: Vector, y: Vector, t: Vector, write: Writer) -> str:
    terms = []
    for v, b in zip(u, t, strict=True):
        yes = f"{write.number(b)}·ln σ({write.number(v)})"
        no = f"(1 − {write.number(b)})·ln σ({write.number(-v)})"  # 1 − σ(u) = σ(−u), which never rounds to 0
        terms += [yes] if b == 1 else [no] if b == 0 else [yes, no]
    return f"−[{' + '.join(terms)}]"


def _softmax_cross_entropy(u: Vector, y: Vector, t: int, write: Writer) -> str:
    return f"ln({' + '.join(_exponential(v, write) for v in u)}) − {write.factor(u[t])}"


ERRORS: dict[str, tuple[str, Callable[..., str]]] = {
    "sum_of_squares": ("3.10", _sum_of_squares),
    "binary_cross_entropy": ("§3.4", _binary_cross_entropy),
    "softmax_cross_entropy": ("–", _softmax_cross_entropy),
}
"""Eₙ from u, y and the target: the equation, and the words."""


def first_delta(loss: str, activation: str, y: Vector, target: Tensor, unit: int, write: Writer) -> tuple[str, str]:
    """The equation and the origin of an output unit's δ, where backpropagation starts."""
    t = float(int(target) == unit) if target.ndim == 0 else float(target[unit])  # a label as one of K, 0 or 1
    difference = f"{write.number(y[unit])} − {write.factor(t)}"
    if loss == "sum_of_squares":
        return "3.11", f"({difference})·{SLOPES[activation](y[unit], write)}"
    return "3.7", difference  # the slope of the loss's own output activation cancels
