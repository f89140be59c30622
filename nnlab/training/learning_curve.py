"""The picture of a training run, from its CSV log."""

import csv
import math
from pathlib import Path

from matplotlib.figure import Figure

from nnlab.files import write_whole

_COLUMNS = {  # of the log -> argument of the display
    "train_loss": "cost",
    "val_loss": "valid_cost",
    "train_acc": "train_acc",
    "val_acc": "valid_acc",
    "train_errors": "updates",
}


def draw_learning_curve(log: Path, picture: Path) -> None:
    """Draw training beside validation, epoch by epoch, as ``nnlab.displays`` does.

    Args:
        log: the ``metrics.csv`` of a run, with columns ``epoch``, ``train_loss``, ``val_acc`` and so on.
        picture: the PNG to write; nothing is written for a log without figures.
    """
    from nnlab.displays import TrainingCurvesDisplay  # noqa: PLC0415 - it takes 0.3 s, and a run draws once at its end

    found: dict[str, dict[int, float]] = {}  # argument -> epoch -> value
    with log.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, argument in _COLUMNS.items():
                if row.get(column):
                    found.setdefault(argument, {})[int(row["epoch"]) + 1] = float(row[column])
    if not found:
        return
    epochs = sorted({epoch for values in found.values() for epoch in values})
    series = {name: [values.get(epoch, math.nan) for epoch in epochs] for name, values in found.items()}
    display = TrainingCurvesDisplay(
        **series, epochs=epochs, label="loss per sample", training="training, during the epoch"
    )
    figure = Figure(figsize=(4.8 * len(display.panels), 3.6), layout="constrained")  # no window, no pyplot
    display.plot(figure.subplots(1, len(display.panels)))
    write_whole(picture, lambda file: figure.savefig(file, dpi=120, format="png"))
