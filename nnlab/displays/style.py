"""What all pictures share: colours that colour-blind readers can tell apart, quiet axes, numbers from any array."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from nnlab.validation import ArgumentError

# Okabe and Ito (2008), "Color Universal Design", the two most distinct first
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555", "#F0E442", "#000000")
MARKERS = ("o", "X", "^", "D", "s", "v", "P", "*", "<", ">")  # a second sign beside the colour
INK = "#333333"


def numbers(name: str, value: Any, ndim: int | None = None) -> NDArray[Any]:
    """A list, a data frame, a NumPy array or a torch tensor on any device as a NumPy array.

    Raises:
        ArgumentError: not of ``ndim`` dimensions.
    """
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if ndim is not None and array.ndim != ndim:
        raise ArgumentError(name, f"must have {ndim} dimension{'s' * (ndim > 1)}, got the shape {array.shape}")
    return array


def needed(estimator: object, *names: str) -> Any:
    """The first of the attributes that a fitted estimator has.

    Raises:
        ArgumentError: it has none of them.
    """
    for name in names:
        if hasattr(estimator, name):
            return getattr(estimator, name)
    raise ArgumentError("estimator", f"must be fitted and have {' or '.join(names)}, got {type(estimator).__name__}")


def own_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or those of a new figure of a size in inches."""
    return new_axes(1, width, height)[0] if ax is None else ax


def new_axes(n: int, width: float, height: float) -> list[Axes]:
    """Axes side by side in a new figure, n of them, each of a width and height in inches."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - it chooses a backend, so only where a figure is asked for

    _, axes = plt.subplots(1, n, figsize=(n * width, height), layout="constrained", squeeze=False)
    return list(axes[0])


def quiet(ax: Axes, *, grid: str | None = None) -> None:
    """Take away the frame's upper and right side; ``grid`` is "x", "y", "both" or None."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color="#dddddd", linewidth=0.8)  # type: ignore[arg-type]


def epochs(ax: Axes, n: int) -> list[int]:
    """Prepare the horizontal axis for epochs 1 … n, and return them."""
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    return list(range(1, n + 1))


class Drawn(Protocol):
    """A display that has been drawn."""

    figure_: Figure


def save_picture(display: Drawn, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Write a display's figure to a file, making its folder if need be, and let the figure go.

    Returns:
        the file.
    """
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    display.figure_.savefig(path, dpi=dpi)
    plt.close(display.figure_)
    return path
