"""What a comparison found: one row for each peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The median of some figures, and the figures that a fifth of them lie below and above."""

    median: float
    p20: float
    p80: float

    @staticmethod
    def of(figures: Sequence[float]) -> Spread:
        """The spread of one figure or more, interpolated between neighbours.

        >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, p20=1.8, p80=4.2)
        """
        p20, p50, p80 = (float(q) for q in np.percentile(figures, [20, 50, 80]))
        return Spread(p50, p20, p80)


@dataclass
class Row:
    """One comparison.

    Attributes:
        task: a key of ``nnlab.bench.command.TASKS``.
        ours: what nnlab ran.
        peer: what it is held against.
        device: that nnlab ran on.
        threads: that torch used.
        versions: of the libraries.
        ours_seconds: of an epoch, or of what the task says.
        peer_seconds: likewise.
        ratio: the peer's median over ours, so that more than 1 is faster than the peer; its p20 is the peer's p20 over
            our p80, its p80 the peer's p80 over our p20, the widest that both spreads leave room for.
        repeats: how often both were timed, by turns.
        compared: what was held against each other before; empty where there is nothing to compare.
        difference: what that found.
        note: what else there is to know, such as why nothing was timed.
        figures: anything else that was measured.
    """

    task: str
    ours: str
    peer: str
    device: str
    threads: int
    versions: dict[str, str]
    ours_seconds: Spread | None = None
    peer_seconds: Spread | None = None
    ratio: Spread | None = None
    repeats: int = 0
    compared: str = ""
    difference: float | None = None
    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def time(self, ours: Sequence[float], peer: Sequence[float]) -> Row:
        """Take in the seconds of both, a pair for each repeat."""
        a, b = Spread.of(ours), Spread.of(peer)
        self.ours_seconds, self.peer_seconds, self.repeats = a, b, len(ours)
        self.ratio = Spread(b.median / a.median, b.p20 / a.p80, b.p80 / a.p20)
        return self

    def as_json(self) -> dict[str, Any]:
        """Flat: each spread as its median under its own name, and ``_p20`` and ``_p80`` beside it."""
        flat: dict[str, Any] = {}
        for key, value in asdict(self).items():
            if key in ("ours_seconds", "peer_seconds", "ratio"):
                spread: Spread | None = getattr(self, key)
                flat[key] = spread and spread.median
                flat[f"{key}_p20"], flat[f"{key}_p80"] = spread and spread.p20, spread and spread.p80
            elif key != "figures":
                flat[key] = value
        return flat | self.figures
