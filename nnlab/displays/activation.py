"""An activation function beside its derivative."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nnlab.displays.style import COLORS, INK, numbers, own_axes, quiet
from nnlab.ops import ACTIVATIONS
from nnlab.validation import check_choice, check_positive


class ActivationDisplay:
    """h(u) and h'(u) over u, through nnlab's own forward and backward.

    >>> display = ActivationDisplay.from_name("sigmoid")
    >>> float(display.slope.max())
    0.25

    Args:
        name: of the activation, for the title.
        u: activation potentials, (N,).
        z: h(u), (N,).
        slope: h'(u), (N,).

    Attributes:
        ax_: the axes of the latest ``plot``.
        figure_: their figure.
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, *, name: str, u: ArrayLike, z: ArrayLike, slope: ArrayLike) -> None:
        self.name = name
        self.u, self.z, self.slope = numbers("u", u, 1), numbers("z", z, 1), numbers("slope", slope, 1)

    @classmethod
    def from_name(cls, name: str, *, limit: float = 6.0, n_points: int = 601, ax: Axes | None = None) -> Self:
        """Compute and draw one of ``nnlab.ops.ACTIVATIONS`` for u from −limit to +limit.

        Raises:
            ArgumentError: an unknown name, or a limit that is not positive.
        """
        check_choice("name", name, ACTIVATIONS)
        check_positive("limit", limit)
        u = torch.linspace(-limit, limit, n_points, dtype=torch.float64)
        z = ACTIVATIONS[name].forward(u)
        slope = ACTIVATIONS[name].backward(torch.ones_like(u), z)
        return cls(name=name, u=u, z=z, slope=slope).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the two curves."""
        ax = own_axes(ax, 6.0, 3.8)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.plot(self.u, self.z, color=COLORS[0], linewidth=2.5, label="$h(u)$")
        ax.plot(self.u, self.slope, color=COLORS[1], linewidth=2.5, linestyle=(0, (4, 1.5)), label="$h'(u)$")
        title = f"{self.name}: $h(u)$ and its derivative $h'(u)$"
        ax.set(xlabel="activation potential $u$", ylabel="value", title=title)
        ax.set_xlim(float(np.min(self.u)), float(np.max(self.u)))
        quiet(ax, grid="both")
        ax.legend(loc="upper left", frameon=False)
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return self
