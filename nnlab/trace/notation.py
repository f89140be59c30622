"""Numbers, indices and sums as the chapter writes them, in plain text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_HIGH = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def indexed(letter: str, *indices: int, layer: int | None = None) -> str:
    """A letter with its indices below and its layer above.

    >>> indexed("u", 1, layer=2), indexed("w", 1, 0, layer=1), indexed("w", 12, 3)
    ('u₁⁽²⁾', 'w₁₀⁽¹⁾', 'w₁₂,₃')
    """
    separator = "," if max(indices, default=0) > 9 else ""
    low = separator.join(str(i) for i in indices).translate(_LOW)
    return letter + low + ("" if layer is None else f"⁽{str(layer).translate(_HIGH)}⁾")


@dataclass(frozen=True)
class Writer:
    """Writes numbers to a number of significant digits.

    >>> write = Writer(4)
    >>> write.number(-0.926789), write.factor(-0.926789), write.products([(0.1, 1), (-3, 0.5)])
    ('−0.9268', '(−0.9268)', '0.1·1 + (−3)·0.5')
    """

    digits: int

    def number(self, value: float) -> str:
        """The number with a true minus sign; −0 is written 0."""
        return f"{value + 0.0:.{self.digits}g}".replace("-", "−")

    def factor(self, value: float) -> str:
        """The number, in parentheses when it has a minus sign."""
        text = self.number(value)
        return f"({text})" if text.startswith("−") else text

    def products(self, pairs: Iterable[tuple[float, float]]) -> str:
        """The sum of the products of pairs."""
        return " + ".join(f"{self.factor(a)}·{self.factor(b)}" for a, b in pairs)

    def vector(self, values: Sequence[float]) -> str:
        """The numbers in parentheses: (1, 2)."""
        return f"({', '.join(self.number(v) for v in values)})"


@dataclass(frozen=True)
class Row:
    """One number of a trace.

    Indices are the chapter's: units, inputs, layers and samples count from 1, and input 0 is the bias's constant 1.
    """

    name: str  # x, u, z, y, E, delta, dE/dw; for a perceptron also w, theta
    symbol: str
    value: float
    equation: str
    origin: str
    layer: int | None = None
    unit: int | None = None
    input: int | None = None
    sample: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields that this number has."""
        return {key: value for key, value in vars(self).items() if value is not None}
