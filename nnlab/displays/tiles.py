"""Images in a grid: digits that a network misreads, distorted digits, and the weights of a first layer."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from nnlab.data import Distortion
from nnlab.displays.style import COLORS, GRID, INK, LABEL, SMALL, TITLE, Display, fitted_attribute, to_array
from nnlab.validation import ArgumentError, check_at_least


class WrongDigitsDisplay(Display):
    """Misclassified images, each with its target and its prediction.

    Args:
        images: the first of the misclassified, (n, H, W).
        target: their labels, (n,).
        predicted: the labels predicted, (n,).
        n_wrong: how many images are misclassified in all.
        n_samples: how many images there are.
    """

    def __init__(
        self, *, images: ArrayLike, target: ArrayLike, predicted: ArrayLike, n_wrong: int, n_samples: int
    ) -> None:
        self.images = to_array("images", images, 3)
        self.target, self.predicted = to_array("target", target, 1), to_array("predicted", predicted, 1)
        self.n_wrong, self.n_samples = n_wrong, n_samples
        rows, columns = _grid(len(self.images))
        self.size = max(1.25 * columns + 0.3, 4.8), 1.55 * rows + 0.6  # wide enough for the title

    @classmethod
    def from_predictions(
        cls,
        images: ArrayLike,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        n_images: int = 25,
        shape: tuple[int, int] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Find the misclassified images and draw the first of them.

        Args:
            images: (N, H, W), or flat, (N, H·W).
            y_true: the targets, (N,).
            y_pred: the predictions, (N,).
            n_images: how many to show at most.
            shape: (H, W) of flat images; a square when None.
            ax: the axes to draw into; a new figure when None.

        Raises:
            ArgumentError: not as many images, targets and predictions, or pixels that do not fill the shape.
        """
        check_at_least("n_images", n_images, 1)
        array, true, said = to_array("images", images), to_array("y_true", y_true, 1), to_array("y_pred", y_pred, 1)
        if not len(array) == len(true) == len(said):
            raise ArgumentError("y_pred", f"must be one for each image, got {len(array)}, {len(true)}, {len(said)}")
        if array.ndim == 2:
            array = array.reshape(-1, *_image_shape(array.shape[1], shape))
        wrong = np.flatnonzero(true != said)
        shown = wrong[:n_images]
        counts = {"n_wrong": len(wrong), "n_samples": len(true)}
        return cls(images=array[shown], target=true[shown], predicted=said[shown], **counts).plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        n_images: int = 25,
        shape: tuple[int, int] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Let a fitted classifier predict flat images, (N, H·W); the rest as ``from_predictions``."""
        return cls.from_predictions(X, y, estimator.predict(X), n_images=n_images, shape=shape, ax=ax)

    def _draw(self, ax: Axes) -> None:
        n = len(self.images)
        rows, columns = _grid(n)
        height, width = self.images.shape[1:] if n else (1, 1)
        step_x, step_y = 1.15 * width, 1.42 * height  # room for the words above each image
        for k, image in enumerate(self.images):
            left, top = k % columns * step_x, k // columns * step_y
            ax.imshow(image, cmap="gray_r", extent=(left, left + width, top + height, top), interpolation="nearest")
            ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=GRID, linewidth=0.6))
            middle, above = left + width / 2, top - 0.04 * height
            ax.text(middle, above, f"{self.target[k]} → ", color=INK, ha="right", va="bottom", fontsize=SMALL)
            said: dict[str, Any] = {"color": COLORS[1], "weight": "bold", "fontsize": SMALL}
            ax.text(middle, above, f"{self.predicted[k]}", ha="left", va="bottom", **said)
        ax.set_xlim(-0.05 * width, columns * step_x - 0.1 * width)
        ax.set_ylim(rows * step_y - 0.37 * height, -0.36 * height)
        ax.set_aspect("equal")
        ax.axis("off")
        share = f"{self.n_wrong:,} of {self.n_samples:,} wrong ({self.n_wrong / max(1, self.n_samples):.2%})"
        shown = f"; the first {n}" if n < self.n_wrong else ""
        ax.set_title(f"{share}{shown}: target → prediction", fontsize=TITLE)


class DistortedDigitsDisplay(Display):
    """A row for each image: the image, and then distortions of it, one of each epoch.

    Args:
        images: (n, H, W).
        distorted: their distortions, (n, epochs, H, W).
    """

    def __init__(self, *, images: ArrayLike, distorted: ArrayLike) -> None:
        self.images, self.distorted = to_array("images", images, 3), to_array("distorted", distorted, 4)
        (n, height, width), shape = self.images.shape, self.distorted.shape
        if not n:
            raise ArgumentError("images", "must have at least one image")
        if (shape[0], *shape[2:]) != (n, height, width) or not shape[1]:
            raise ArgumentError("distorted", f"must be ({n}, epochs, {height}, {width}), got {shape}")
        self.size = max(0.75 * shape[1] + 1.1, 3.6), 0.75 * n * height / width + 0.7  # wide enough for the title

    @classmethod
    def from_images(
        cls,
        images: ArrayLike,
        distortion: Distortion = Distortion(),  # noqa: B008 - it is frozen
        *,
        seed: int = 0,
        n_distortions: int = 9,
        ax: Axes | None = None,
    ) -> Self:
        """Distort images as the first epochs of a training would, and draw them.

        Args:
            images: uint8, (N, S, S), or flat, (N, S²).
            distortion: what distorts them.
            seed: of the distortions.
            n_distortions: how many of each image.
            ax: the axes to draw into; a new figure when None.

        Raises:
            ArgumentError: an argument is not as above, or there is no image.
        """
        check_at_least("n_distortions", n_distortions, 1)
        given = torch.tensor(to_array("images", images))
        found = torch.stack([distortion(given, seed=seed, epoch=epoch) for epoch in range(n_distortions)], 1)
        if given.ndim == 2:
            side = math.isqrt(given.shape[1])
            given, found = given.view(-1, side, side), found.view(-1, n_distortions, side, side)
        return cls(images=given, distorted=found).plot(ax)

    def _draw(self, ax: Axes) -> None:
        n, n_epochs, height, width = self.distorted.shape
        step_x, step_y, apart = 1.08 * width, 1.08 * height, 0.2 * width  # the images stand apart from the rest
        for k in range(n_epochs + 1):
            left = k * step_x + apart * (k > 0)
            column = self.distorted[:, k - 1] if k else self.images
            for row, image in enumerate(column):
                extent = left, left + width, row * step_y + height, row * step_y
                ax.imshow(image, cmap="gray_r", vmin=0, vmax=255, extent=extent, interpolation="nearest")
                color = GRID if k else COLORS[0]
                ax.add_patch(Rectangle((left, row * step_y), width, height, fill=False, edgecolor=color, linewidth=0.8))
            heading = f"epoch {k - 1}" if k else "image"
            ax.text(left + width / 2, -0.06 * height, heading, color=INK, ha="center", va="bottom", fontsize=SMALL)
        ax.set_xlim(-0.05 * width, n_epochs * step_x + apart + 1.05 * width)
        ax.set_ylim((n - 1) * step_y + 1.05 * height, -0.36 * height)
        ax.set_aspect("equal")
        ax.axis("off")
        ax.set_title(f"{n} image{'s' * (n > 1)}, distorted anew in each epoch", fontsize=TITLE)


class WeightTilesDisplay(Display):
    """The weights into each unit as an image: red where ink raises the unit's net input, blue where it lowers it.

    Args:
        tiles: the weights of each unit, (units, H, W).

    Attributes:
        limit: the weight that has the fullest colour; the scale runs from −limit to +limit, so white is 0. It is the
            99.5th percentile of |w|, so that a few large weights do not make all others pale.
    """

    def __init__(self, *, tiles: ArrayLike) -> None:
        self.tiles = to_array("tiles", tiles, 3)
        self.limit = float(np.percentile(np.abs(self.tiles), 99.5)) or 1.0
        rows, columns = _grid(len(self.tiles))
        self.size = min(8.0, max(0.68 * columns + 1.6, 5.2)), min(7.0, 0.68 * rows + 0.6)  # wide enough for the title

    @classmethod
    def from_weights(cls, weights: ArrayLike, *, shape: tuple[int, int] | None = None, ax: Axes | None = None) -> Self:
        """Draw weights in the chapter's layout, (pixels, units).

        Raises:
            ArgumentError: not two dimensions, or pixels that do not fill the shape.
        """
        matrix = to_array("weights", weights, 2)
        return cls(tiles=matrix.T.reshape(-1, *_image_shape(len(matrix), shape))).plot(ax)

    @classmethod
    def from_estimator(cls, estimator: object, *, shape: tuple[int, int] | None = None, ax: Axes | None = None) -> Self:
        """Draw a network's ``w_h``, or ``coefs_[0]``, (pixels, hidden units), or a linear model's ``coef_``.

        Raises:
            ArgumentError: it has none of these, or as ``from_weights``.
        """
        if not hasattr(estimator, "w_h") and hasattr(estimator, "coef_"):
            return cls.from_weights(to_array("coef_", estimator.coef_, 2).T, shape=shape, ax=ax)
        weights = fitted_attribute(estimator, "w_h", "coefs_")
        return cls.from_weights(weights if hasattr(estimator, "w_h") else weights[0], shape=shape, ax=ax)

    def _draw(self, ax: Axes) -> None:
        n, height, width = self.tiles.shape
        rows, columns = _grid(n)
        gap = max(1, round(0.07 * width))
        mosaic: NDArray[Any] = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
        for k, tile in enumerate(self.tiles):
            top, left = k // columns * (height + gap), k % columns * (width + gap)
            mosaic[top : top + height, left : left + width] = tile
        image = ax.imshow(mosaic, cmap="RdBu_r", vmin=-self.limit, vmax=self.limit, interpolation="nearest")
        beyond = bool(np.abs(self.tiles).max() > self.limit)
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02, extend="both" if beyond else "neither")
        bar.set_label("weight", fontsize=LABEL)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)
        ax.axis("off")
        ax.set_title(f"Weights into each of the {n} units of the first layer", fontsize=TITLE)


def _grid(n: int) -> tuple[int, int]:
    """Rows and columns of a grid of n images that is about square."""
    columns = max(1, math.ceil(math.sqrt(n)))
    return max(1, math.ceil(n / columns)), columns


def _image_shape(n_pixels: int, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of an image of so many pixels: those given, or a square's.

    Raises:
        ArgumentError: the pixels do not fill the shape, or no square.
    """
    side = math.isqrt(n_pixels)
    if shape is None and side * side != n_pixels:
        raise ArgumentError("shape", f"must be given: {n_pixels} pixels make no square")
    height, width = shape or (side, side)
    if height * width != n_pixels:
        raise ArgumentError("shape", f"must have {n_pixels} pixels, got {height} × {width}")
    return height, width
