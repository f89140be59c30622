"""A progress bar over the epochs, with the figures of the last one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Report = Callable[[Mapping[str, float]], None]


@contextmanager
def progress(epochs: int, shown: bool) -> Iterator[Report]:
    """Show a bar on standard error while the block runs, if it is to be shown.

    Yields:
        a function to call with the figures of each epoch when it is over.
    """
    if not shown:
        yield lambda figures: None
        return
    from rich.console import Console  # noqa: PLC0415 - only where it is asked for
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=epochs)

        def report(figures: Mapping[str, float]) -> None:
            bar.update(task, advance=1, description=_line(figures))

        yield report


def _line(figures: Mapping[str, float]) -> str:
    """One line of figures that fits a terminal of 80 columns.

    >>> _line({"cost": 12.3456, "loss": 12.3, "train_acc": 0.5, "valid_acc": 0.25, "valid_cost": 3.0})
    'cost 12.346  train 50.00%  valid 25.00%'
    """
    shown = {"cost", "train_acc", "valid_acc"} if "train_acc" in figures else {"cost", "valid_cost"}
    return "  ".join(
        f"{key.removesuffix('_acc')} {value:.2%}" if key.endswith("_acc") else f"{key} {value:.5g}"
        for key, value in figures.items()
        if key in shown
    )
