"""The base class and the style of all pictures, with colours that colour-blind readers can tell apart.

The style is set on the artists of a picture, never in ``matplotlib.rcParams``: a user's other figures stay as they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nnlab.validation import ArgumentError

# Okabe and Ito (2008), "Color Universal Design", the two most distinct first
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555", "#F0E442", "#000000")
MARKERS = ("o", "X", "^", "D", "s", "v", "P", "*", "<", ">")  # classes differ in shape as well as in colour
INK, GRID = "#333333", "#dddddd"
TITLE, LABEL, SMALL = 11.0, 10.0, 9.0  # font sizes in points


class Display:
    """A picture that keeps the values it shows.

    Attributes:
        ax_: the axes of the latest ``plot``.
        figure_: their figure.
        size: width and height of a new figure, in inches.
    """

    ax_: Any  # an Axes, or a list of them where a picture has several panels
    figure_: Figure
    size: tuple[float, float] = (6.0, 3.8)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw into the given axes, or into a new figure."""
        self.ax_ = new_axes(1, *self.size)[0] if ax is None else ax
        self.figure_ = self.ax_.figure.figure  # the whole figure, also of axes in a subfigure
        self._draw(self.ax_)
        return self

    def _draw(self, ax: Axes) -> None:
        raise NotImplementedError


def new_axes(n: int, width: float, height: float) -> list[Axes]:
    """Axes side by side in a new pyplot figure, n of them, each of a width and height in inches."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - it chooses a backend, so only where a figure is asked for

    _, axes = plt.subplots(1, n, figsize=(n * width, height), layout="constrained", squeeze=False)
    return list(axes[0])


def style_axes(
    ax: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: Literal["x", "y", "both"] | None = None
) -> None:
    """Set the texts of axes in the common sizes, a light grid behind the data, and no frame at the top and right."""
    ax.set_title(title, fontsize=TITLE)
    ax.set_xlabel(xlabel, fontsize=LABEL)
    ax.set_ylabel(ylabel, fontsize=LABEL)
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(axis=grid, color=GRID, linewidth=0.8)


def save_picture(display: Display, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Write a display's figure to a file, making its folder if need be, and close the figure.

    Returns:
        the file.
    """
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    display.figure_.savefig(path, dpi=dpi)
    plt.close(display.figure_)
    return path


def to_array(name: str, value: ArrayLike, ndim: int | None = None) -> NDArray[Any]:
    """A list, a data frame, a NumPy array or a torch tensor on any device as a NumPy array.

    Raises:
        ArgumentError: it does not have ``ndim`` dimensions.
    """
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if ndim is not None and array.ndim != ndim:
        raise ArgumentError(name, f"must have {ndim} dimension{'s' * (ndim > 1)}, got the shape {array.shape}")
    return array


def fitted_attribute(estimator: object, *names: str) -> Any:
    """The first of these attributes that the estimator has.

    Raises:
        ArgumentError: it has none of them.
    """
    for name in names:
        if hasattr(estimator, name):
            return getattr(estimator, name)
    raise ArgumentError("estimator", f"must be fitted and have {' or '.join(names)}, got {type(estimator).__name__}")
