"""The rows of a run, as lines on the screen, markdown, JSON, a picture, and the README's table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch

LIBRARIES = ("nnlab", "torch", "numpy", "scikit-learn", "lightning", "jax", "numba")
MARKERS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")


@dataclass
class Row:
    """One comparison. Seconds are medians, ``_p20`` and ``_p80`` their percentiles.

    ``ratio`` is the peer's median over ours: above 1, nnlab is faster. Its p20 is the peer's p20 over our p80, its p80
    the peer's p80 over our p20. ``compared`` says which results were compared before the timing, ``difference`` what
    that found. ``load`` is how many cores other programs kept busy meanwhile. ``note`` says what else there is to know,
    such as why nothing was timed. ``figures`` are written to the JSON beside the rest; a row that has some is a detail,
    which the README and the picture leave out.
    """

    task: str
    ours: str
    peer: str
    device: str
    threads: int
    versions: dict[str, str]
    ours_seconds: float | None = None
    ours_seconds_p20: float | None = None
    ours_seconds_p80: float | None = None
    peer_seconds: float | None = None
    peer_seconds_p20: float | None = None
    peer_seconds_p80: float | None = None
    ratio: float | None = None
    ratio_p20: float | None = None
    ratio_p80: float | None = None
    repeats: int = 0
    compared: str = ""
    difference: float | None = None
    load: float | None = None
    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def set_seconds(self, ours: Sequence[float], peer: Sequence[float]) -> None:
        """Take in what each repeat took. One that did not reach its goal, inf, is left out on both sides, and noted."""
        completed = list(zip(ours, peer, strict=False))  # an interrupt may leave the peer one repeat behind
        kept = [pair for pair in completed if isfinite(sum(pair))]
        if len(kept) < len(completed):
            self.add_note(f"both reached the goal in {len(kept)} of {len(completed)} repeats")
        self.repeats = len(kept)
        if kept:
            a20, a, a80 = (float(q) for q in np.percentile([pair[0] for pair in kept], [20, 50, 80]))
            b20, b, b80 = (float(q) for q in np.percentile([pair[1] for pair in kept], [20, 50, 80]))
            self.ours_seconds, self.ours_seconds_p20, self.ours_seconds_p80 = a, a20, a80
            self.peer_seconds, self.peer_seconds_p20, self.peer_seconds_p80 = b, b20, b80
            self.ratio, self.ratio_p20, self.ratio_p80 = b / a, b20 / a80, b80 / a20

    def add_note(self, text: str) -> None:
        """Add to the note."""
        self.note = "; ".join(filter(None, [self.note, text]))

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the figures in one dictionary."""
        values = asdict(self)
        figures: dict[str, float] = values.pop("figures")
        return values | figures

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the row that ``to_json`` gave."""
        names = {f.name for f in fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        return cls(**known, figures={name: value for name, value in values.items() if name not in names})


class Results(NamedTuple):
    """The rows of a run, what it ran on, and whether it was a quick one and came to its end."""

    machine: Mapping[str, str]
    quick: bool
    complete: bool
    rows: Sequence[Row]

    def to_json(self) -> str:
        """Return everything, for a program."""
        values = self._asdict() | {"rows": [row.to_json() for row in self.rows]}
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: str) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**values | {"rows": [Row.from_json(row) for row in values["rows"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} must be a file that --json wrote; {error}") from error


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """Return the name of the CUDA device, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def machine(device: torch.device) -> dict[str, str]:
    """Return what a run runs on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "device": device_name(device),
        "system": platform.system(),
    }
    with suppress(AttributeError, ValueError, OSError):  # a system that does not tell
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    return found


# The screen

HEADER = f"{'':54}{'ours, s':>9}{'peer, s':>9}{'peer / ours':>15}  p20 to p80"


def lines(row: Row, before: Row | None) -> str:
    """Return what is printed for a row, below a heading where it is the first of its task and our side."""
    seconds = "".join(f"{in_digits(value):>9}" for value in (row.ours_seconds, row.peer_seconds))
    text = f"  {row.peer:<52}{seconds}{_ratio(row):>15}  {_spread(row)}".rstrip()
    if before is None or (before.task, before.ours) != (row.task, row.ours):
        text = f"{row.task}: {row.ours}\n{text}"
    return text + (f"\n    {row.note}" if row.note else "")


def in_digits(value: float | None) -> str:
    """Return seconds in three digits."""
    return "" if value is None else f"{value:#.3g}".rstrip(".")


def _ratio(row: Row) -> str:
    return "" if row.ratio is None else f"{row.ratio:.2f}" + (" (slower)" if row.ratio < 1 else "")


def _spread(row: Row) -> str:
    return f"{row.ratio_p20:.2f} to {row.ratio_p80:.2f}" if row.ratio is not None and row.repeats > 1 else ""


# Markdown


def markdown(results: Results) -> str:
    """Return a page: what the run ran on, and all rows."""

    def cells(row: Row) -> list[str]:
        seconds = (in_digits(row.ours_seconds), in_digits(row.peer_seconds))
        return [row.task, row.ours, row.peer, *seconds, _ratio(row), _spread(row), row.note]

    headings = ["task", "ours", "peer", "ours, s", "peer, s", "peer / ours", "p20 to p80", "note"]
    parts = ["Written by `python -m benchmarks`."]
    parts += ["This run was a quick one (`--quick`)."] if results.quick else []
    parts += [] if results.complete else ["This run was interrupted."]
    return (
        "\n\n".join([" ".join(parts), _measured_on(results), table(headings, "lllrrrrl", map(cells, results.rows))])
        + "\n"
    )


def table(headings: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a table in markdown, each column aligned to the left, l, or the right, r."""
    rule = "|" + "|".join({"l": "---", "r": "--:"}[side] for side in align) + "|"
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join([f"| {' | '.join(headings)} |", rule, *(f"| {' | '.join(row)} |" for row in cells)])


def _measured_on(results: Results) -> str:
    return measured_on(results.machine, results.rows[0].versions if results.rows else versions())


def measured_on(machine: Mapping[str, str], used: Mapping[str, str]) -> str:
    """Return what a run ran on, and the versions that it used, in two sentences."""
    parts = (", ".join(f"{name} {value}" for name, value in part.items()) for part in (machine, used))
    return f"Machine: {next(parts)}. Versions: {next(parts)}."


def check_markers(text: str, markers: tuple[str, str] = MARKERS) -> None:
    """Raise a ValueError unless a README has the two markers, once each and in their order."""
    start, end = markers
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"the file of --readme must have {start} and {end}, once each, in this order")


def between_markers(text: str, new: str, markers: tuple[str, str] = MARKERS) -> str:
    """Return a README's text with something new between its two markers."""
    check_markers(text, markers)
    start, end = markers
    return f"{text[: text.index(start)]}{start}\n\n{new}\n\n{text[text.index(end) :]}"


def update_readme(text: str, results: Results) -> str:
    """Return a README's text with the table of these results between its two markers.

    Raises:
        ValueError: the markers are not there; or the run was a quick one or not complete.
    """
    check_markers(text)
    if results.quick or not results.complete:
        raise ValueError("--readme needs the rows of a run that was complete and not --quick")
    rows: list[list[str]] = []
    task = ""
    for row in results.rows:
        if not row.figures:
            name = f"`{row.task}`" if row.task != task else ""
            rows.append([name, row.peer.partition(":")[0], _ratio(row) or row.note, _spread(row)])
            task = row.task
    shown = table(["task", "peer", "the peer's time over ours", "p20 to p80"], "llrr", rows)
    return between_markers(text, f"{shown}\n\n{_measured_on(results)}")


# A picture


def plot(results: Results, path: str) -> None:
    """Draw each ratio as a bar from 1, with p20 to p80, below the name of its task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes a second, often not wanted
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: PLC0415

    from nnlab.displays.style import COLORS, INK, style_axes  # noqa: PLC0415

    shown = [row for row in results.rows if row.ratio is not None and not row.figures]
    height = len(shown) + len({row.task for row in shown})
    figure = Figure((8.0, 0.8 + 0.32 * max(1, height)), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    y, labels, before = -1, {}, ""
    for row in shown:
        if row.task != before:
            y, before = y + 1, row.task
            labels[y] = row.task
        y += 1
        labels[y] = row.peer.partition(":")[0]
        ratio, p20, p80 = row.ratio or 0, row.ratio_p20 or 0, row.ratio_p80 or 0
        ax.barh(y, ratio - 1, left=1, height=0.62, color=COLORS[ratio < 1])
        ax.plot([p20, p80], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
        text, at = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}", (max(p80, 1.0), y)
        ax.annotate(text, at, xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.axvline(1, color=INK, linewidth=1)
    ax.set_xscale("log")
    style_axes(ax, title="Time relative to nnlab", xlabel="the peer's time over ours, p20 to p80", grid="x")
    ax.set_yticks(list(labels), list(labels.values()), fontsize=8.5)
    for label in ax.get_yticklabels():
        if label.get_text() in {row.task for row in shown}:
            label.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(y + 0.6, -0.6)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.1)
    figure.savefig(path, dpi=150)
