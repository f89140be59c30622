"""How a trace is written: numbers, formulas with numbers in them, and rich's tables of both."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.jupyter import JupyterMixin
from rich.table import Table
from rich.text import Text
from torch import Tensor

from nnlab.validation import ArgumentError

_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_HIGH = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LETTER = re.compile(r"(?<![^(])\{(\w+)\}(?=[ ,)]|$)|\{(\w+)\}")  # where the first stands, −2 needs no parentheses
_TWICE_MINUS = re.compile(r"(?<=\()−\(−([^()]+)\)")


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
    """Writes numbers to a number of significant digits, from 1 to 17.

    >>> write = Writer(4)
    >>> write.number(-0.926789), write.factor(-0.926789), write.products([(0.1, 1), (-3, 0.5)])
    ('−0.9268', '(−0.9268)', '0.1·1 + (−3)·0.5')
    >>> write.fill("max({u}, 0)", u=-2), write.fill("({z}² − {z})", z=-2), write.fill("e^(−{u})", u=-2)
    ('max(−2, 0)', '((−2)² − (−2))', 'e^(2)')
    """

    digits: int

    def __post_init__(self) -> None:
        if isinstance(self.digits, bool) or self.digits not in range(1, 18):
            raise ArgumentError("digits", f"must be a whole number from 1 to 17, got {self.digits!r}")

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

    def column(self, values: Iterable[float]) -> str:
        """The numbers below one another."""
        return "\n".join(self.number(v) for v in values)

    def matrix(self, rows: Sequence[Sequence[float]]) -> str:
        """Rows of numbers, each column as wide as its widest."""
        texts = [[self.number(v) for v in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        return "\n".join("  ".join(t.rjust(w) for t, w in zip(row, widths, strict=True)) for row in texts)

    def fill(self, template: str, **values: float | str) -> str:
        """A formula of ``nnlab.ops`` with numbers, or other letters, in the places of its letters."""

        def value(letter: re.Match[str]) -> str:
            found = values[letter[1] or letter[2]]
            return found if isinstance(found, str) else self.number(found) if letter[1] else self.factor(found)

        return _TWICE_MINUS.sub(r"\1", _LETTER.sub(value, template))


@dataclass(frozen=True)
class Entry:
    """One number of a trace, with its equation and where it comes from.

    Indices are the chapter's: units, inputs, layers and samples count from 1, and input 0 is the bias's constant 1.
    """

    name: str  # u, z, y, E, delta, dE/dw; for a perceptron also w, theta
    symbol: str
    value: float
    equation: str
    origin: str
    layer: int | None = None
    unit: int | None = None
    input: int | None = None
    sample: int | None = None


class Trace(JupyterMixin, ABC):
    """The numbers of a trace as attributes; it prints as tables, also in a notebook."""

    kind: ClassVar[str]
    rows: list[Entry]
    activations: Sequence[str] = ()

    @abstractmethod
    def tables(self) -> Iterator[RenderableType]:
        """The tables of vectors, and those of single numbers."""

    @abstractmethod
    def legend(self) -> dict[str, str]:
        """The chapter's equations by their numbers, and the activations by their names, in one line each."""

    def to_dict(self) -> dict[str, Any]:
        """Everything in full precision as plain lists and numbers, for JSON."""
        found = {key: _plain(value) for key, value in vars(self).items() if not key.startswith("_")}
        found = {"dE/dW" if key == "gradients" else key: value for key, value in found.items() if value is not None}
        return {"kind": self.kind, **found}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from self.tables()
        yield title("The equations")
        numbers, table = {entry.equation for entry in self.rows}, Table(box=None, show_header=False, pad_edge=False)
        for key, formula in self.legend().items():
            if key in numbers or key in self.activations:
                table.add_row(f"({key})" if key in numbers else key, Text(formula))
        yield table

    def __repr__(self) -> str:
        console = Console(color_system=None, force_jupyter=False)
        with console.capture() as text:
            console.print(self)
        return text.get().rstrip()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Entry):
        return {key: field for key, field in vars(value).items() if field is not None}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def title(text: str) -> Text:
    """A heading, with an empty line below."""
    return Text(f"{text}\n", style="bold")


def table(*columns: str) -> Table:
    """An empty table with these headings."""
    empty = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        empty.add_column(column, justify="right", no_wrap=True)
    return empty


def vectors(columns: Iterable[tuple[str, str]]) -> Table:
    """Vectors and matrices side by side, each below its name."""
    names, texts = zip(*columns, strict=True)
    filled = table(*names)
    filled.add_row(*texts)
    filled.add_row()
    return filled


def details(entries: Iterable[Entry], write: Writer, group: Callable[[Entry], object]) -> Table:
    """Each number as an equation with its origin; a gap between groups."""
    filled = Table(box=box.SIMPLE, pad_edge=False, show_header=False, show_edge=False)
    filled.add_column(no_wrap=True)
    filled.add_column(overflow="fold")
    filled.add_column(no_wrap=True)
    filled.add_column(no_wrap=True, justify="right")
    for n, (_, members) in enumerate(groupby(entries, group)):
        if n:
            filled.add_row()
        for e in members:
            filled.add_row(Text(e.symbol), Text(f"= {e.origin}"), f"= {write.number(e.value)}", f"({e.equation})")
    filled.add_row()
    return filled
