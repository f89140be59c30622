"""What was measured after each epoch: a perceptron's updates, a network's cost and accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from nnlab.displays.style import COLORS, epochs, needed, new_axes, numbers, own_axes, quiet
from nnlab.validation import ArgumentError

FEW = 30  # up to so many epochs each has its marker
TRAINING: tuple[str, str, Any] = (COLORS[0], "o", "solid")  # colour, marker and dashes: two signs beside the colour
VALIDATION: tuple[str, str, Any] = (COLORS[1], "s", (0, (5, 1.2)))


class ErrorsPerEpochDisplay:
    """The updates of each epoch; a run of zeros at the end means that the classes are told apart.

    Args:
        errors: the number of updates in each epoch, (epochs,), as ``Perceptron.errors_``; or any error that falls.
        label: of the vertical axis.

    Attributes:
        ax_: the axes of the latest ``plot``.
        figure_: their figure.
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, *, errors: ArrayLike, label: str = "updates (misclassified samples)") -> None:
        self.errors = numbers("errors", errors, 1)
        if len(self.errors) == 0:
            raise ArgumentError("errors", "must have at least one epoch, got none")
        self.label = label

    @classmethod
    def from_estimator(
        cls, estimator: object, *, label: str = "updates (misclassified samples)", ax: Axes | None = None
    ) -> Self:
        """Draw ``estimator.errors_``.

        Raises:
            ArgumentError: it has none.
        """
        return cls(errors=needed(estimator, "errors_"), label=label).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the errors over the epochs."""
        ax = own_axes(ax, 6.0, 3.6)
        _line(ax, self.errors, *TRAINING, None)
        ax.set_ylabel(self.label)
        if np.issubdtype(self.errors.dtype, np.integer):
            ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if self.errors.min() >= 0:
            ax.set_ylim(0, 1.08 * max(float(self.errors.max()), 1e-12))
        quiet(ax, grid="y")
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return self


class TrainingCurvesDisplay:
    """Cost and accuracy after each epoch, training beside validation; a widening gap is overfitting.

    The two costs have a panel each: they are sums over different numbers of samples.

    Args:
        cost: of the training samples, (epochs,).
        train_acc: accuracies on the training samples, 0 to 1, (epochs,), or None.
        valid_acc: on the validation samples, or None.
        valid_cost: cost of the validation samples, or None.

    Attributes:
        ax_: the axes of the latest ``plot``, one for each panel.
        figure_: their figure.

    Raises:
        ArgumentError: no epochs, or not the same number of them everywhere.
    """

    ax_: list[Axes]
    figure_: Figure

    def __init__(
        self,
        *,
        cost: ArrayLike,
        train_acc: ArrayLike | None = None,
        valid_acc: ArrayLike | None = None,
        valid_cost: ArrayLike | None = None,
    ) -> None:
        self.cost = numbers("cost", cost, 1)
        if len(self.cost) == 0:
            raise ArgumentError("cost", "must have at least one epoch, got none")
        self.train_acc = self._series("train_acc", train_acc)
        self.valid_acc = self._series("valid_acc", valid_acc)
        self.valid_cost = self._series("valid_cost", valid_cost)

    def _series(self, name: str, values: ArrayLike | None) -> Any:
        if values is None:
            return None
        series = numbers(name, values, 1)
        if len(series) != len(self.cost):
            raise ArgumentError(name, f"must have the {len(self.cost)} epochs of cost, got {len(series)}")
        return series

    @classmethod
    def from_eval(cls, eval_: Mapping[str, Sequence[float]], *, ax: Sequence[Axes] | None = None) -> Self:
        """Draw a dictionary with "cost" and any of "train_acc", "valid_acc" and "valid_cost".

        Raises:
            ArgumentError: it has no "cost".
        """
        if "cost" not in eval_:
            raise ArgumentError("eval_", f"must have the key 'cost', got {sorted(eval_)}")
        named = {key: eval_.get(key) or None for key in ("train_acc", "valid_acc", "valid_cost")}
        return cls(cost=eval_["cost"], **named).plot(ax)

    @classmethod
    def from_estimator(cls, estimator: object, *, ax: Sequence[Axes] | None = None) -> Self:
        """Draw ``estimator.eval_``.

        Raises:
            ArgumentError: it has none.
        """
        return cls.from_eval(needed(estimator, "eval_"), ax=ax)

    @property
    def panels(self) -> list[str]:
        """The panels that ``plot`` draws."""
        panels = ["cost"]
        if self.valid_cost is not None:
            panels.append("valid_cost")
        if self.train_acc is not None or self.valid_acc is not None:
            panels.append("accuracy")
        return panels

    def plot(self, ax: Sequence[Axes] | None = None) -> Self:
        """Draw the panels side by side, into as many given axes or into a new figure.

        Raises:
            ArgumentError: not one of the given axes for each panel.
        """
        axes = new_axes(len(self.panels), 4.8, 3.6) if ax is None else list(np.ravel(np.asarray(ax, dtype=object)))
        if len(axes) != len(self.panels):
            raise ArgumentError("ax", f"must be {len(self.panels)} axes, for {', '.join(self.panels)}; got {len(axes)}")
        for panel, axis in zip(self.panels, axes, strict=True):
            if panel == "accuracy":
                self._plot_accuracy(axis)
            else:
                self._plot_cost(axis, panel)
            quiet(axis, grid="y")
        self.ax_, self.figure_ = axes, axes[0].figure  # type: ignore[assignment]
        return self

    def _plot_cost(self, ax: Axes, panel: str) -> None:
        ax.set_ylabel("cost, summed over the samples")
        if panel == "cost":
            _line(ax, self.cost, *TRAINING, None)
            ax.set_title(f"training cost: {self.cost[-1]:,.6g} at the end")
            return
        _line(ax, self.valid_cost, *VALIDATION, None)
        best = int(np.argmin(self.valid_cost))
        ax.plot(best + 1, self.valid_cost[best], marker="o", markersize=9, color=COLORS[1], markerfacecolor="white")
        ax.set_title(f"validation cost: {self.valid_cost[best]:,.6g} at best, epoch {best + 1}")

    def _plot_accuracy(self, ax: Axes) -> None:
        for values, label, look in (
            (self.train_acc, "training", TRAINING),
            (self.valid_acc, "validation", VALIDATION),
        ):
            if values is not None:
                _line(ax, 100 * values, *look, f"{label}: {values[-1]:.2%} at the end")
        ax.set(ylabel="accuracy [%]", title="accuracy")
        ax.legend(loc="lower right", frameon=False)


def _line(ax: Axes, values: Any, color: str, marker: str, dashes: Any, label: str | None) -> None:
    look: dict[str, Any] = {"color": color, "linestyle": dashes, "linewidth": 2, "clip_on": False}
    if len(values) <= FEW:
        look |= {"marker": marker, "markersize": 6}
    ax.plot(epochs(ax, len(values)), values, label=label, **look)
