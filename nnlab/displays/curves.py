"""What was measured after each epoch: a perceptron's updates, a network's cost and accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from nnlab.displays.style import COLORS, INK, SMALL, Display, fitted_attribute, new_axes, style_axes, to_array
from nnlab.validation import ArgumentError

UPDATES = "updates (misclassified samples)"
RING: dict[str, Any] = {"color": INK, "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6}
MARKED = 30  # a line of at most so many epochs has a marker at each
LOG_FROM = 10  # the cost has a logarithmic axis if it falls by this factor: the first epochs would flatten the others


class ErrorsPerEpochDisplay(Display):
    """The updates in each epoch. Zeros at the end mean that the perceptron separates the classes.

    Args:
        errors: the number of updates in each epoch, (epochs,), such as ``Perceptron.errors_``, or any error that falls.
        label: of the vertical axis.
        title: above the picture.
    """

    def __init__(self, *, errors: ArrayLike, label: str = UPDATES, title: str = "Updates in each epoch") -> None:
        self.errors = _series("errors", errors)
        self.label, self.title = label, title

    @classmethod
    def from_estimator(cls, estimator: object, *, ax: Axes | None = None, **texts: str) -> Self:
        """Draw ``estimator.errors_``; ``label`` and ``title`` as in the class.

        Raises:
            ArgumentError: it has none.
        """
        return cls(errors=fitted_attribute(estimator, "errors_"), **texts).plot(ax)

    def _draw(self, ax: Axes) -> None:
        _line(ax, np.arange(1, len(self.errors) + 1), self.errors, 0)
        if np.issubdtype(self.errors.dtype, np.integer):
            ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if self.errors.min() >= 0:
            top = max(float(self.errors.max()), 1e-12)
            ax.set_ylim(-0.04 * top, 1.08 * top)  # room below 0 for the markers of zeros
        style_axes(ax, title=self.title, xlabel="epoch", ylabel=self.label, grid="y")
        _epoch_ticks(ax, 1, len(self.errors))


class TrainingCurvesDisplay(Display):
    """Cost and accuracy after each epoch, training beside validation; a widening gap is overfitting.

    Every argument but the texts is (epochs,) or None, and NaN where an epoch was not measured. Training and validation
    share a panel, so their costs must be comparable: means over the samples, not sums. The best validation cost and
    accuracy are ringed.

    Args:
        cost: of the training samples.
        train_acc: accuracy on the training samples, 0 to 1.
        valid_acc: accuracy on the validation samples.
        valid_cost: cost of the validation samples.
        updates: the number of updates in each epoch, of a perceptron.
        epochs: the number of each epoch, counted from 1; 1, 2, … when None.
        label: of the cost's axis.
        training: what the legend calls the training lines.

    Attributes:
        ax_: a list with the axes of each panel.

    Raises:
        ArgumentError: no epochs, or not the same number of them everywhere.
    """

    ax_: list[Axes]
    size = (4.8, 3.6)  # of each panel

    def __init__(
        self,
        *,
        cost: ArrayLike | None = None,
        train_acc: ArrayLike | None = None,
        valid_acc: ArrayLike | None = None,
        valid_cost: ArrayLike | None = None,
        updates: ArrayLike | None = None,
        epochs: ArrayLike | None = None,
        label: str = "cost per sample",
        training: str = "training",
    ) -> None:
        self.cost, self.valid_cost = _series("cost", cost), _series("valid_cost", valid_cost)
        self.train_acc, self.valid_acc = _series("train_acc", train_acc), _series("valid_acc", valid_acc)
        self.updates, self.label, self.training = _series("updates", updates), label, training
        sizes = {name: len(values) for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        if not sizes:
            raise ArgumentError("cost", "must be given, or another series, got none")
        first = next(iter(sizes))
        self.epochs = np.arange(1, sizes[first] + 1) if epochs is None else to_array("epochs", epochs, 1)
        for name, size in (*sizes.items(), ("epochs", len(self.epochs))):
            if size != sizes[first]:
                raise ArgumentError(name, f"must have the {sizes[first]} epochs of {first}, got {size}")

    @classmethod
    def from_eval(cls, eval_: Mapping[str, Sequence[float]], *, ax: Sequence[Axes] | None = None) -> Self:
        """Draw a dictionary such as ``NeuralNetMLP.eval_``.

        The costs are "cost_per_sample" and "valid_cost_per_sample", or "cost" where there is none per sample.

        Raises:
            ArgumentError: it has no "cost", or "valid_cost" without the costs per sample.
        """
        kept = {key: values for key, values in eval_.items() if len(values)}  # without validation a list may be empty
        if "cost" not in eval_:
            raise ArgumentError("eval_", f"must have the key 'cost', got {sorted(eval_)}")
        if "valid_cost" in kept and not {"cost_per_sample", "valid_cost_per_sample"} <= {*kept}:
            expected = "must have 'cost_per_sample' and 'valid_cost_per_sample' to draw 'valid_cost'"
            raise ArgumentError("eval_", f"{expected}, a sum over other samples; got {sorted(eval_)}")
        per_sample = "cost_per_sample" in kept
        return cls(
            cost=kept["cost_per_sample"] if per_sample else eval_["cost"],
            train_acc=kept.get("train_acc"),
            valid_acc=kept.get("valid_acc"),
            valid_cost=kept.get("valid_cost_per_sample"),
            label="cost per sample" if per_sample else "cost, summed over the samples",
        ).plot(ax)

    @classmethod
    def from_estimator(cls, estimator: object, *, ax: Sequence[Axes] | None = None) -> Self:
        """Draw ``estimator.eval_``.

        Raises:
            ArgumentError: it has none.
        """
        return cls.from_eval(fitted_attribute(estimator, "eval_"), ax=ax)

    @property
    def panels(self) -> list[str]:
        """The panels that ``plot`` draws, of "cost", "accuracy" and "updates"."""
        return [panel.name for panel in self._panels()]

    def _panels(self) -> list[_Panel]:
        train_acc, valid_acc = (None if acc is None else 100 * acc for acc in (self.train_acc, self.valid_acc))
        panels = [
            _Panel("cost", self.label, "{:.4g}", np.argmin, self.cost, self.valid_cost),
            _Panel("accuracy", "accuracy [%]", "{:.2f}%", np.argmax, train_acc, valid_acc),
            _Panel("updates", UPDATES, "{:,.0f}", np.argmin, self.updates, None),
        ]
        return [panel for panel in panels if panel.train is not None or panel.valid is not None]

    def plot(self, ax: Any = None) -> Self:
        """Draw the panels side by side, into as many given axes or into a new figure.

        Raises:
            ArgumentError: not one of the given axes for each panel.
        """
        panels = self._panels()
        axes = new_axes(len(panels), *self.size) if ax is None else list(np.ravel(np.asarray(ax, dtype=object)))
        if len(axes) != len(panels):
            raise ArgumentError("ax", f"must be {len(panels)} axes, for {', '.join(self.panels)}; got {len(axes)}")
        for panel, axis in zip(panels, axes, strict=True):
            self._draw_panel(panel, axis)
        self.ax_, self.figure_ = axes, axes[0].figure.figure
        return self

    def _draw_panel(self, panel: _Panel, ax: Axes) -> None:
        drawn = []
        for k, (stage, values) in enumerate(((self.training, panel.train), ("validation", panel.valid))):
            known = () if values is None else np.flatnonzero(np.isfinite(values))
            if len(known) == 0:
                continue
            x, y = self.epochs[known], values[known]
            drawn.extend(y)
            _line(ax, x, y, k, f"{stage}: {panel.text.format(y[-1])} at the end")
            if k == 1:
                best = panel.best(y)
                label = f"best: {panel.text.format(y[best])} in epoch {x[best]:g}"
                ax.plot(x[best], y[best], "o", **RING, label=label)
        style_axes(ax, title=panel.label.partition(" [")[0].capitalize(), xlabel="epoch", ylabel=panel.label, grid="y")
        if panel.name == "cost" and drawn and max(drawn) > LOG_FROM * min(drawn) > 0:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        _epoch_ticks(ax, self.epochs[0], self.epochs[-1])
        if drawn:
            ax.legend(loc="best", frameon=False, fontsize=SMALL)


class _Panel(NamedTuple):
    name: str
    label: str  # of the vertical axis
    text: str  # format of one value
    best: Any  # np.argmin or np.argmax
    train: Any
    valid: Any


def _series(name: str, values: ArrayLike | None) -> Any:
    if values is None:
        return None
    array = to_array(name, values, 1)
    if len(array) == 0:
        raise ArgumentError(name, "must have at least one epoch, got none")
    return array


def _line(ax: Axes, x: NDArray[Any], y: NDArray[Any], k: int, label: str | None = None) -> None:
    """The k-th line of a panel: 0 for training, 1 for validation, which differs in colour, marker and dashes."""
    dashes: Any = ("solid", (0, (5, 1.2)))[k]
    marker = ("o", "s")[k] if len(x) <= MARKED else None
    ax.plot(x, y, color=COLORS[k], linestyle=dashes, marker=marker, linewidth=2, markersize=5.5, label=label)


def _epoch_ticks(ax: Axes, first: float, last: float) -> None:
    """Whole epochs on the horizontal axis, the first of them always."""
    ticks = MaxNLocator(10, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1).tick_values(first, last)
    gap = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    ax.set_xticks([first, *(int(t) for t in ticks if first + gap / 2 < t <= last)])
