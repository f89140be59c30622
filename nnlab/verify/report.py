"""What a gradient check found: rows, findings, a table to read and a dictionary for JSON."""

import math
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from nnlab.verify.render import plain


@dataclass(frozen=True)
class Finding:
    """One likely mistake.

    Attributes:
        fault: the catalogue's id, or "unknown".
        gradients: the names of the gradients that it explains.
        words: the mistake, in a student's words.
        evidence: the numbers that say so.
        confidence: 1 where the mistake alone reproduces every wrong gradient; less where it explains some of them, or
            where another mistake would look the same.
    """

    fault: str
    gradients: tuple[str, ...]
    words: str
    evidence: str
    confidence: float

    def __str__(self) -> str:
        return f"{self.evidence}: {self.words}" if self.evidence else self.words


@dataclass(frozen=True)
class Row:
    """How far one gradient is from the right one; the errors are relative, None where there was nothing to compare."""

    name: str
    shape: tuple[int, ...]
    autograd: float | None
    central: float | None
    tolerance: float
    reason: str
    ok: bool


@dataclass(frozen=True)
class GradientReport:
    """The answer of ``check_gradients``.

    Attributes:
        name: what was checked.
        rows: one per gradient.
        findings: likely mistakes, the first guess first; empty where all is right.
        notes: what was left out, and who judged.
        seed: with which the check can be repeated.
    """

    name: str
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    seed: int = 0
    checked: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every gradient is right."""
        return not self.findings and all(row.ok for row in self.rows)

    @property
    def diagnosis(self) -> str:
        """The likely mistakes, one per line, the first guess first; empty where all is right."""
        return "\n".join(str(finding) for finding in self.findings)

    def table(self) -> str:
        """Rows, verdict and diagnosis, as text."""
        table = Table("gradient", "shape", "vs autograd", "vs differences", "tolerance", "", box=None)
        for row in self.rows:
            verdict = "ok" if row.ok else "WRONG"
            errors = (_error(row.autograd), _error(row.central))
            table.add_row(row.name, str(row.shape), *errors, f"{row.tolerance:.0e} ({row.reason})", verdict)
        lines = [f"{self.name}: {'every gradient is right' if self.ok else 'NOT RIGHT'}"]
        if self.rows:
            lines.append(plain(table))
        lines += [f"{'likely' if n == 0 else 'and'}: {finding}" for n, finding in enumerate(self.findings)]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows; a number that is not finite is None."""
        return {
            "name": self.name,
            "ok": self.ok,
            "diagnosis": self.diagnosis,
            "rows": [{k: _json(v) for k, v in vars(row).items()} for row in self.rows],
            "findings": [{k: _json(v) for k, v in vars(finding).items()} for finding in self.findings],
            "notes": list(self.notes),
            "seed": self.seed,
            **self.checked,
        }


def _error(value: float | None) -> str:
    return "–" if value is None else "not a number" if math.isnan(value) else f"{value:.1e}"


def _json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
