"""The ratios as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nnlab.bench.rows import Row, Spread
from nnlab.displays.style import COLORS, INK, Display, save_picture, style_axes

LINE = 0.32  # inches for a bar


class RatiosDisplay(Display):
    """How many times as long each peer takes, a bar from 1 for each row, with p20 to p80.

    Args:
        rows: with what was timed; ``scaling`` and what has no repeats are left out.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [(row, row.ratio) for row in rows if row.ratio and row.repeats and row.task != "scaling"]
        self.tasks = list(dict.fromkeys(row.task for row, _ in self.rows))
        self.size = 8.0, 0.8 + LINE * max(1, len(self.rows) + len(self.tasks))

    def _draw(self, ax: Axes) -> None:
        tasks = self.tasks
        y, places, labels = 0, [], []
        for task in tasks:
            places.append(y)
            labels.append(task)
            for row, ratio in self.rows:
                if row.task == task:
                    y += 1
                    self._bar(ax, y, ratio)
                    places.append(y)
                    labels.append(row.peer.partition(":")[0])
            y += 1
        ax.set_xscale("log")
        ax.axvline(1, color=INK, linewidth=1)
        ax.set_yticks(places, labels, fontsize=8.5)
        for label in ax.get_yticklabels():
            if label.get_text() in tasks:
                label.set_fontweight("bold")
        ax.set_ylim(y - 0.4, -0.6)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.1)
        style_axes(ax, title="Time relative to nnlab", xlabel="times as long as nnlab, p20 to p80", grid="x")
        ax.tick_params(axis="y", length=0, labelsize=8.5)
        ax.spines["left"].set_visible(False)

    @staticmethod
    def _bar(ax: Axes, y: int, ratio: Spread) -> None:
        color = COLORS[0] if ratio.median >= 1 else COLORS[7]
        ax.barh(y, ratio.median - 1, left=1, height=0.62, color=color)
        ax.plot([ratio.p20, ratio.p80], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
        text = f"{ratio.median:.2f}" if ratio.median < 10 else f"{ratio.median:.0f}"
        at = (max(ratio.p80, 1.0), y)
        ax.annotate(text, at, xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)


def save(rows: Sequence[Row], path: str) -> Path:
    """Draw, and write the file; its ending says in which format."""
    return save_picture(RatiosDisplay(rows).plot(), path)
