"""The rows as a table on the screen, as markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nnlab.bench.rows import Row, Spread

HEADINGS = ("task", "ours", "peer", "ours, s", "peer, s", "peer / ours", "p20 to p80", "note")


def table(rows: Sequence[Row]) -> Table:
    """For the screen: each task with its peers below it, and what there is to know below each of them."""
    shown = Table("", *HEADINGS[3:7], box=None, header_style="bold", pad_edge=False)
    for column in shown.columns[1:]:
        column.justify, column.no_wrap = "right", True
    task, ours = "", ""
    for row in rows:
        if row.task != task:
            task, ours = row.task, row.ours
            shown.add_row(Text.assemble((task, "bold"), f"  {ours}"))
        known = "; ".join(filter(None, [row.ours if row.ours != ours else "", row.note]))
        peer = Text.assemble(row.peer, (f"\n{known}" if known else "", "dim"))
        shown.add_row(Padding(peer, (0, 0, 0, 2)), *_cells(row)[3:7])
    return shown


def markdown(rows: Sequence[Row], machine: Mapping[str, str], versions: Mapping[str, str], command: str) -> str:
    """A page: what it ran on, and the table."""
    lines = [f"`{command}`", "", ", ".join(f"{key}: {value}" for key, value in machine.items()) + ".", ""]
    lines += [", ".join(f"{name} {version}" for name, version in versions.items()) + ".", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|---|---|---|--:|--:|--:|--:|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_json(rows: Sequence[Row], machine: Mapping[str, str], quick: bool, complete: bool) -> str:
    """Everything, for a program."""
    data = {
        "machine": dict(machine),
        "quick": quick,
        "complete": complete,
        "rows": [row.as_json() for row in rows],
    }
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)


def _cells(row: Row) -> tuple[str, ...]:
    spread = row.ratio and row.repeats > 1
    return (
        row.task,
        row.ours,
        row.peer,
        _seconds(row.ours_seconds),
        _seconds(row.peer_seconds),
        _ratio(row.ratio),
        f"{row.ratio.p20:.2f} to {row.ratio.p80:.2f}" if row.ratio and spread else "",
        row.note,
    )


def _seconds(spread: Spread | None) -> str:
    """Three digits.

    >>> _seconds(Spread(0.12345, 0.1, 0.2)), _seconds(Spread(12.345, 12, 13)), _seconds(None)
    ('0.123', '12.3', '')
    """
    return f"{spread.median:#.3g}".rstrip(".") if spread else ""


def _ratio(spread: Spread | None) -> str:
    """The ratio; one below 1 the other way round as well.

    >>> _ratio(Spread(2.345, 2, 3)), _ratio(Spread(0.8, 0.7, 0.9))
    ('2.35', '0.80 = 1 / 1.25')
    """
    if spread is None:
        return ""
    return f"{spread.median:.2f}" + (f" = 1 / {1 / spread.median:.2f}" if spread.median < 1 else "")
