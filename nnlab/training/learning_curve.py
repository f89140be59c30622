"""The picture of a training run, from its CSV log."""

import csv
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_PANELS = {
    "loss": "loss per sample",
    "acc": "accuracy",
    "errors": "updates",
}
_LINES = {"train": {"color": "tab:blue", "marker": "o"}, "val": {"color": "tab:orange", "marker": "s"}}


def draw_learning_curve(log: Path, picture: Path) -> None:
    """Draw training beside validation, epoch by epoch, one panel for each kind of figure in the log.

    Args:
        log: the ``metrics.csv`` of a run, with columns ``epoch``, ``train_loss``, ``val_acc`` and so on.
        picture: the PNG to write; nothing is written for a log without figures.
    """
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    series: dict[str, dict[str, dict[int, float]]] = {}  # panel -> stage -> epoch -> value
    for row in rows:
        for name, value in row.items():
            stage, _, panel = name.partition("_")
            if value and stage in _LINES and panel in _PANELS:
                series.setdefault(panel, {}).setdefault(stage, {})[int(row["epoch"]) + 1] = float(value)
    if not series:
        return
    panels = [panel for panel in _PANELS if panel in series]
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for stage, values in sorted(series[panel].items()):
            axes.plot(list(values), list(values.values()), label=stage, markersize=4, **_LINES[stage])
        axes.set(xlabel="epoch", ylabel=_PANELS[panel])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=120)
