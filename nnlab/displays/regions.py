"""Samples of two features, and the regions in which a classifier predicts each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import DecisionBoundaryDisplay

from nnlab.displays.style import COLORS, INK, MARKERS, numbers, own_axes, quiet
from nnlab.validation import ArgumentError


class DecisionRegionsDisplay:
    """A scatter plot, with the decision regions of a classifier behind it and its mistakes ringed.

    Args:
        X: samples of two features, (N, 2).
        y: their labels, (N,).
        classes: every label, sorted, (K,); those in y when None.
        xx0, xx1: the grid's features, (rows, columns); None for samples alone.
        response: the number of the class predicted at each point of the grid, (rows, columns).
        wrong: whether a sample is misclassified, (N,).
        feature_names: of the two axes, with their units.
        class_names: for the legend, one for each class.

    Attributes:
        ax_: the axes of the latest ``plot``.
        figure_: their figure.

    Raises:
        ArgumentError: not two features, not a label for each sample, or more than ten classes.
    """

    ax_: Axes
    figure_: Figure

    def __init__(
        self,
        *,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        xx0: NDArray[Any] | None = None,
        xx1: NDArray[Any] | None = None,
        response: NDArray[Any] | None = None,
        wrong: ArrayLike | None = None,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        named = [str(c) for c in X.columns] if hasattr(X, "columns") else ["feature 0", "feature 1"]
        self.X, self.y = numbers("X", X, 2), numbers("y", y, 1)
        if self.X.shape[1] != 2:
            raise ArgumentError("X", f"must have two features, got {self.X.shape[1]}")
        if len(self.y) != len(self.X):
            raise ArgumentError("y", f"must have a label for each of the {len(self.X)} samples, got {len(self.y)}")
        self.classes = np.unique(self.y) if classes is None else numbers("classes", classes, 1)
        if len(self.classes) > len(COLORS):
            raise ArgumentError("y", f"must have {len(COLORS)} classes at most, got {len(self.classes)}")
        self.xx0, self.xx1, self.response = xx0, xx1, response
        self.wrong = np.zeros(len(self.y), dtype=bool) if wrong is None else numbers("wrong", wrong, 1)
        self.feature_names = list(feature_names or named)
        self.class_names = [str(c) for c in (self.classes if class_names is None else class_names)]
        if len(self.feature_names) != 2:
            raise ArgumentError("feature_names", f"must be two names, got {len(self.feature_names)}")
        if len(self.class_names) != len(self.classes):
            raise ArgumentError("class_names", f"must be {len(self.classes)} names, got {len(self.class_names)}")

    @classmethod
    def from_samples(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        *,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw samples alone; arguments and errors as those of the class."""
        return cls(X=X, y=y, feature_names=feature_names, class_names=class_names).plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        feature_names: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        grid_resolution: int = 400,
        eps: float = 0.5,
        ax: Axes | None = None,
    ) -> Self:
        """Let a fitted classifier predict over a grid, by scikit-learn's display, and draw it with the samples.

        Args:
            estimator: anything fitted with ``predict``, such as the chapter's own class; ``classes_`` is used if there.
            X: (N, 2).
            y: (N,).
            feature_names: as in the class; a data frame's columns when None.
            class_names: as in the class.
            grid_resolution: points of the grid in each direction.
            eps: how far the grid reaches beyond the samples, in units of the features.
            ax: the axes to draw into; a new figure when None.

        Raises:
            ArgumentError: as the class.
            sklearn.exceptions.NotFittedError: by the estimator's ``predict``, if it is not fitted.
        """
        samples = cls(X=X, y=y, classes=getattr(estimator, "classes_", None), class_names=class_names)
        grid = DecisionBoundaryDisplay.from_estimator(
            _Predictor(estimator, samples.classes),
            X if hasattr(X, "columns") else samples.X,
            response_method="predict",
            plot_method="pcolormesh",
            grid_resolution=grid_resolution,
            eps=eps,
            ax=Figure().subplots(),  # scikit-learn's draws at once; this one is thrown away
        )
        return cls(
            X=X,
            y=y,
            classes=samples.classes,
            xx0=grid.xx0,
            xx1=grid.xx1,
            response=grid.response,
            wrong=numbers("predict", estimator.predict(X), 1) != samples.y,
            feature_names=feature_names,
            class_names=class_names,
        ).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw regions, samples and rings."""
        ax = own_axes(ax, 5.6, 4.2)
        if self.response is not None and self.xx0 is not None and self.xx1 is not None:
            pale = ListedColormap([_pale(c) for c in COLORS[: len(self.classes)]])
            ax.pcolormesh(
                self.xx0, self.xx1, self.response, cmap=pale, vmin=-0.5, vmax=len(self.classes) - 0.5, rasterized=True
            )
        for k, (label, name) in enumerate(zip(self.classes, self.class_names, strict=True)):
            mine = self.X[self.y == label]
            style: dict[str, Any] = {"color": COLORS[k], "marker": MARKERS[k], "edgecolors": "white", "linewidths": 0.7}
            ax.scatter(mine[:, 0], mine[:, 1], s=46, label=name, **style)
        if self.wrong.any():
            rings = self.X[self.wrong]
            name = f"misclassified ({len(rings)})"
            ax.scatter(rings[:, 0], rings[:, 1], s=130, facecolors="none", edgecolors=INK, linewidths=1.4, label=name)
        ax.set(xlabel=self.feature_names[0], ylabel=self.feature_names[1])
        quiet(ax)
        ax.legend(loc="best", framealpha=0.9, edgecolor="none")
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        return self


class _Predictor(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """As much of a scikit-learn classifier as its display asks for, around anything that predicts."""

    def __init__(self, estimator: Any, classes: NDArray[Any]) -> None:
        self.estimator, self.classes_ = estimator, classes

    def fit(self, X: Any, y: Any) -> Self:
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        return numbers("predict", self.estimator.predict(X), 1)


def _pale(color: str) -> tuple[float, ...]:
    return tuple(0.22 * c + 0.78 for c in to_rgb(color))
