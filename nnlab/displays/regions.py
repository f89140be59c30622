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

from nnlab.displays.style import COLORS, INK, MARKERS, SMALL, Display, style_axes, to_array
from nnlab.validation import ArgumentError


class DecisionRegionsDisplay(Display):
    """A scatter plot with the decision regions of a classifier behind it; misclassified samples are ringed.

    Args:
        X: samples of two features, (N, 2).
        y: their labels, (N,).
        classes: every label, (K,); those in y when None.
        xx0, xx1: the grid's features, (rows, columns); None for samples alone.
        response: the index in ``classes`` of the class predicted at each point of the grid, (rows, columns).
        wrong: whether a sample is misclassified, (N,); None for samples alone.
        feature_names: of the two axes, with their units; a data frame's columns when None.
        class_names: for the legend, one for each class.

    Raises:
        ArgumentError: not two features, not one known label for each sample, or more than ten classes.
    """

    size = (5.6, 4.2)

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
        columns = [str(c) for c in X.columns] if hasattr(X, "columns") else ["feature 0", "feature 1"]
        self.X, self.y = to_array("X", X, 2), to_array("y", y, 1)
        if self.X.shape[1] != 2:
            raise ArgumentError("X", f"must have two features, got {self.X.shape[1]}")
        if len(self.y) != len(self.X):
            raise ArgumentError("y", f"must have a label for each of the {len(self.X)} samples, got {len(self.y)}")
        self.classes = np.unique(self.y) if classes is None else to_array("classes", classes, 1)
        if len(self.classes) > len(COLORS):
            raise ArgumentError("y", f"must have {len(COLORS)} classes at most, got {len(self.classes)}")
        self._index = _class_index("y", "have", self.y, self.classes)
        self.xx0, self.xx1, self.response = xx0, xx1, response
        self.wrong = np.zeros(len(self.y), dtype=bool) if wrong is None else to_array("wrong", wrong, 1)
        self.feature_names = list(feature_names or columns)
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
        """Draw samples alone; the arguments as in the class."""
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
            feature_names: as in the class.
            class_names: as in the class.
            grid_resolution: points of the grid in each direction.
            eps: how far the grid reaches beyond the samples, in units of the features.
            ax: the axes to draw into; a new figure when None.

        Raises:
            ArgumentError: as the class, or what is predicted is not one label for each sample.
            sklearn.exceptions.NotFittedError: by the estimator's ``predict``, if it is not fitted.
        """
        classes = getattr(estimator, "classes_", None)
        display = cls(X=X, y=y, classes=classes, feature_names=feature_names, class_names=class_names)
        predictor = _Predictor(estimator, display.classes)
        display.wrong = predictor.predict(X) != display._index
        grid = DecisionBoundaryDisplay.from_estimator(
            predictor,
            X if hasattr(X, "columns") else display.X,
            response_method="predict",
            plot_method="pcolormesh",
            grid_resolution=grid_resolution,
            eps=eps,
            ax=Figure().subplots(),  # scikit-learn's draws at once; this one is thrown away
        )
        display.xx0, display.xx1, display.response = grid.xx0, grid.xx1, grid.response
        return display.plot(ax)

    def _draw(self, ax: Axes) -> None:
        title = f"{len(self.X):,} samples"
        if self.response is not None and self.xx0 is not None and self.xx1 is not None:
            title = f"{self.wrong.sum():,} of {title} misclassified"
            pale = ListedColormap([tuple(0.22 * c + 0.78 for c in to_rgb(color)) for color in COLORS])
            last = len(COLORS) - 0.5  # from −0.5 to there, colour k is class k's
            ax.pcolormesh(self.xx0, self.xx1, self.response, cmap=pale, vmin=-0.5, vmax=last, rasterized=True)
        for k, name in enumerate(self.class_names):
            samples = self.X[self._index == k]
            look: dict[str, Any] = {"color": COLORS[k], "marker": MARKERS[k], "edgecolors": "white", "linewidths": 0.7}
            ax.scatter(samples[:, 0], samples[:, 1], s=46, label=name, **look)
        if self.wrong.any():
            rings = self.X[self.wrong]
            name = f"misclassified ({len(rings)})"
            ax.scatter(rings[:, 0], rings[:, 1], s=130, facecolors="none", edgecolors=INK, linewidths=1.4, label=name)
        style_axes(ax, title=title, xlabel=self.feature_names[0], ylabel=self.feature_names[1])
        ax.legend(loc="best", framealpha=0.9, edgecolor="none", fontsize=SMALL)


class _Predictor(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """As much of a scikit-learn classifier as its display asks for, around anything that predicts."""

    def __init__(self, estimator: Any, labels: NDArray[Any]) -> None:
        self.estimator, self.labels, self.classes_ = estimator, labels, np.arange(len(labels))

    def fit(self, X: Any, y: Any) -> Self:
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        return _class_index("estimator", "predict", self.estimator.predict(X), self.labels)


def _class_index(argument: str, verb: str, labels: ArrayLike, classes: NDArray[Any]) -> NDArray[np.int64]:
    """The index of each label in ``classes``.

    Raises:
        ArgumentError: not one label for each sample, or a label that is not in ``classes``.
    """
    array = to_array(argument, labels)
    if array.ndim != 1:
        raise ArgumentError(argument, f"must {verb} one label for each sample, got the shape {array.shape}")
    index = {label: k for k, label in enumerate(classes.tolist())}
    unknown = next((label for label in array.tolist() if label not in index), None)
    if unknown is not None:
        raise ArgumentError(argument, f"must {verb} the labels {', '.join(map(repr, index))}, got {unknown!r}")
    return np.array([index[label] for label in array.tolist()], dtype=np.int64)
