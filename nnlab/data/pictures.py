"""Pictures of handwritten digits from anywhere, made into what MNIST's images are."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage  # type: ignore[import-untyped]

MOST_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # no EPS, for which Pillow starts Ghostscript
SIDE = 640  # pixels of the longer side in which a digit is looked for
LEAST_CONTRAST = 0.12  # of ink to its background, both as light from 0 to 1
THINNEST, THICKEST = 0.09, 0.33  # a stroke's width in parts of the digit's longer side

Gray = NDArray[np.float32]  # (H, W), from 0 to 255
Mask = NDArray[np.bool_]


class PictureError(ValueError):
    """A picture that cannot be read, or that does not hold exactly one digit; its message is one sentence."""


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture in grey, "L", upright as its EXIF data says, on white where it is transparent.

    A side is at most twice ``SIDE`` long, or a few pixels more: a larger picture is made smaller.

    Raises:
        PictureError: there is no such file, Pillow cannot read it, or it has too many pixels.
    """
    path = Path(path)
    if path.is_dir():
        raise PictureError(f"is a folder: name the pictures in it, {path / '*.png'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about data that it repairs
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                image.draft("L", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at a fraction of its size
                return _in_gray(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise PictureError("does not exist") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"has more than {MOST_PIXELS // 10**6} million pixels: make it smaller") from error
    except UnidentifiedImageError as error:
        kinds = "PNG, JPEG, GIF, BMP, TIFF or WebP"
        raise PictureError(f"is no picture in a format that is read: save it as {kinds}") from error
    except Exception as error:  # a damaged file can make Pillow's decoders raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise PictureError(f"cannot be read ({' '.join(str(reason).split())[:100]})") from error


def _in_gray(image: Image.Image) -> Image.Image:
    """A picture of any mode in grey, with sides of at most about twice ``SIDE``."""
    if image.mode[0] in "IF":  # more than 8 bits, which Pillow would cut off at 255
        values = np.asarray(image)
        top = 65535 if image.mode[0] == "I" else max(float(values.max()), 1e-9)
        step = max(1, max(values.shape) // (2 * SIDE))
        image = Image.fromarray((values[::step, ::step] * (255.0 / top)).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    image = image.reduce(max(1, max(image.size) // (2 * SIDE)))  # first, to use little memory
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L")


def prepare(image: Any, side: int = 28, digit: int | None = None) -> NDArray[np.uint8]:
    """Make a picture of one digit into an image as MNIST's are.

    Shadows are removed and the ink becomes white on black; the digit is cut out, made 20 pixels high or wide, and
    placed with its centre of mass in the middle of 28 × 28 pixels.

    Args:
        image: a picture of Pillow, or what NumPy can make into an array (H, W) or (H, W, 3) from 0 to 255.
        side: of the image, in pixels.
        digit: the longer side of the digit; 20/28 of the image's when None.

    Returns:
        (side, side), 0 for no ink and 255 for full ink.

    Raises:
        PictureError: there is no digit, or there are several.
    """
    gray = _gray(image)
    found = _one_digit(*_ink(gray))
    return _placed(found, side, digit or max(1, round(side * 20 / 28)))


def as_is(image: Any, side: int = 28) -> NDArray[np.uint8]:
    """The whole picture, only made grey and (side, side) pixels large."""
    gray = image if isinstance(image, Image.Image) else Image.fromarray(_gray(image).round().astype(np.uint8))
    return np.asarray(gray.convert("L").resize((side, side), Image.Resampling.BOX))


def _gray(image: Any) -> Gray:
    if not isinstance(image, Image.Image):
        array = np.asarray(image, np.float32)
        if array.ndim not in (2, 3) or not array.size:
            raise PictureError(f"must have the shape (height, width) or (height, width, 3), got {array.shape}")
        return array if array.ndim == 2 else array[..., :3].mean(-1)
    return np.asarray(image.convert("L"), np.float32)


def _ink(gray: Gray) -> tuple[Gray, Mask]:
    """How much darker than its background each pixel is, or lighter where the background is dark, and where ink is."""
    height, width = gray.shape
    if min(height, width) < 8:
        raise PictureError(f"has {width} × {height} pixels, too few to see a digit")
    if (factor := SIDE / max(height, width)) != 1:
        gray = np.asarray(
            Image.fromarray(gray).resize(
                (max(8, round(width * factor)), max(8, round(height * factor))),
                Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX,
            )
        )
    light: Gray = ndimage.gaussian_filter(np.clip(gray, 0, 255) / 255, 1.5)
    window = max(gray.shape) // 4  # wider than a stroke; a shadow is wider than the window
    contrast = _above(light if _ink_is_dark(light) else 1 - light, window)
    ink = contrast > _otsu(contrast) if np.ptp(contrast) > LEAST_CONTRAST else np.zeros_like(contrast, bool)
    if not ink.any() or contrast[ink].mean() - contrast[~ink].mean() < LEAST_CONTRAST:
        raise PictureError("shows no digit: its ink must differ clearly from its background")
    return contrast, ink


def _above(light: Gray, window: int) -> Gray:
    """The part of the background's light that dark ink takes away; the background is the light without narrow ink."""
    background = ndimage.grey_closing(light, size=(window, window))
    return np.asarray((background - light) / np.maximum(background, 0.1), np.float32)


def _ink_is_dark(light: Gray) -> bool:
    """Whether what differs from its surroundings is darker than they are; a median keeps the edges of shadows."""
    small = np.asarray(Image.fromarray(light).reduce(10))
    surroundings = ndimage.median_filter(small, size=max(small.shape) // 3)
    return bool((np.log((small + 0.05) / (surroundings + 0.05)) ** 3).sum() <= 0)  # a shadow is a factor of the light


def _otsu(values: Gray) -> float:
    """The level that parts values into two classes of the largest variance between them (Otsu, 1979)."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    n, above = below[-1], below[-1] - below
    with np.errstate(all="ignore"):
        between = (total[-1] * below / n - total) ** 2 / (below * above)
    return float(middles[np.nanargmax(between[:-1])])


def _one_digit(contrast: Gray, ink: Mask) -> Gray:
    """The contrast of the only digit, cut out, 0 around it."""
    labels, _ = ndimage.label(ink, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    sizes = np.array([max(b.stop - b.start for b in box) for box in boxes])
    areas = np.bincount(labels.ravel())[1:]
    height, width = ink.shape
    inner = np.array([r.start > 0 and c.start > 0 and r.stop < height and c.stop < width for r, c in boxes])
    if sizes[inner].max(initial=0) >= 0.06 * max(ink.shape):
        sizes = np.where(inner, sizes, 0)  # what runs into the margin is the edge of the paper, or a line on it
    kept = (sizes >= 0.12 * sizes.max()) & (areas >= 0.02 * areas[sizes > 0].max())  # the rest is dust
    ink = np.isin(labels, np.flatnonzero(kept) + 1)
    near = ndimage.distance_transform_edt(~ink, sampling=(0.4, 1)) <= 0.05 * sizes.max()
    groups, n = ndimage.label(near)  # a digit may be of strokes that do not touch, such as the hat of a 5
    boxes = ndimage.find_objects(np.where(ink, groups, 0), n)
    sizes = np.array([max(b.stop - b.start for b in box) for box in boxes])
    large = int((sizes >= 0.5 * sizes.max()).sum())
    if large > 1:
        raise PictureError(f"shows {large} separate shapes: cut out one digit")
    chosen = int(sizes.argmax())
    (rows, columns), group = boxes[chosen], groups == chosen + 1
    if columns.stop - columns.start > 2.2 * (rows.stop - rows.start):
        raise PictureError("shows a shape too wide for a digit: cut out one digit")
    full = np.percentile(contrast[ink & group], 75)
    digit = np.where(ndimage.binary_dilation(ink & group, iterations=3), contrast, 0) / full
    return np.asarray(digit[rows, columns].clip(0, 1), np.float32)


def _placed(digit: Gray, side: int, inner: int) -> NDArray[np.uint8]:
    """A digit, from 0 to 1, with the size and the place that MNIST's have, in an image of a side of so many pixels."""
    longest = max(digit.shape)
    stroke = 4 * float(ndimage.distance_transform_edt(np.pad(digit > 0.5, 1))[1:-1, 1:-1][digit > 0.5].mean())
    if stroke > THICKEST * longest:
        raise PictureError("shows a blot or a shadow, not a digit written with a pen")
    if (missing := THINNEST * longest - stroke) > 1:  # a thin pen's stroke would be lost
        grown = round(missing / 2)
        digit = ndimage.grey_dilation(np.pad(digit, grown), footprint=_disk(grown))
        longest = max(digit.shape)
    height, width = (max(1, round(n * inner / longest)) for n in digit.shape)
    small = np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BOX))
    small = small / max(float(small.max()), 1e-6)
    image = np.zeros((side, side), np.float32)
    middle = ndimage.center_of_mass(small)
    row, column = (min(max(0, round(side / 2 - c)), side - n) for c, n in zip(middle, small.shape, strict=True))
    image[row : row + height, column : column + width] = small
    return (255 * image).round().astype(np.uint8)


def _disk(radius: int) -> Mask:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius)
