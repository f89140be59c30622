"""An activation function beside its derivative."""

from __future__ import annotations

from typing import Self

import torch
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from nnlab.displays.style import COLORS, INK, SMALL, Display, style_axes, to_array
from nnlab.ops import ACTIVATIONS
from nnlab.validation import check_at_least, check_choice, check_positive


class ActivationDisplay(Display):
    """h(u) and h'(u) over u, computed by nnlab's own forward and backward.

    >>> display = ActivationDisplay.from_name("sigmoid")
    >>> float(display.slope.max())
    0.25

    Args:
        name: of the activation, for the title.
        u: net inputs, (N,).
        z: h(u), (N,).
        slope: h'(u), (N,).
    """

    def __init__(self, *, name: str, u: ArrayLike, z: ArrayLike, slope: ArrayLike) -> None:
        self.name = name
        self.u, self.z, self.slope = to_array("u", u, 1), to_array("z", z, 1), to_array("slope", slope, 1)

    @classmethod
    def from_name(cls, name: str, *, limit: float = 6.0, n_points: int = 601, ax: Axes | None = None) -> Self:
        """Compute and draw one of ``nnlab.ops.ACTIVATIONS`` for n_points values of u from −limit to +limit.

        Raises:
            ArgumentError: an unknown name, a limit that is not positive, or fewer than two points.
        """
        check_choice("name", name, ACTIVATIONS)
        check_positive("limit", limit)
        check_at_least("n_points", n_points, 2)
        u = torch.linspace(-limit, limit, n_points, dtype=torch.float64, device="cpu")
        row = ACTIVATIONS[name]
        z = row.forward(u)
        slope = row.backward(torch.ones_like(u), u if row.saves == "u" else z)
        return cls(name=name, u=u, z=z, slope=slope).plot(ax)

    def _draw(self, ax: Axes) -> None:
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.plot(self.u, self.z, color=COLORS[0], linewidth=2.5, label="$h(u)$")
        ax.plot(self.u, self.slope, color=COLORS[1], linewidth=2.5, linestyle=(0, (4, 1.5)), label="$h'(u)$")
        ax.set_xlim(float(self.u.min()), float(self.u.max()))
        title = f"{self.name}: $h(u)$ and its derivative $h'(u)$"
        style_axes(ax, title=title, xlabel="activation potential $u$", ylabel="value", grid="both")
        ax.legend(loc="upper left", frameon=False, fontsize=SMALL)
