"""Pictures made by script: digits drawn with a pen in five styles, and images pasted into photographs of paper."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Strokes = list[list[tuple[float, float]]]


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> list[tuple[float, float]]:
    """Points of an ellipse's arc; degrees, clockwise from the right, y downwards."""
    angles = np.radians(np.linspace(start, stop, 40))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


DIGITS: dict[int, Strokes] = {  # lines of a pen within x 0.2 to 0.8 and y 0 to 1
    0: [_arc(0.5, 0.5, 0.3, 0.5, -90, 270)],
    1: [[(0.35, 0.2), (0.55, 0.0), (0.55, 1.0)]],
    2: [[*_arc(0.5, 0.28, 0.28, 0.28, -170, 40), (0.22, 1.0), (0.82, 1.0)]],
    3: [_arc(0.45, 0.25, 0.28, 0.25, -140, 90), _arc(0.45, 0.74, 0.32, 0.26, -90, 140)],
    4: [[(0.6, 0.0), (0.2, 0.65), (0.85, 0.65)], [(0.65, 0.35), (0.65, 1.0)]],
    5: [[(0.78, 0.0), (0.32, 0.0), (0.28, 0.42), *_arc(0.46, 0.67, 0.3, 0.32, -110, 140)]],
    6: [[(0.66, 0.0), (0.4, 0.3), *_arc(0.5, 0.72, 0.26, 0.28, -180, 180)]],
    7: [[(0.2, 0.0), (0.8, 0.0), (0.4, 1.0)]],
    8: [_arc(0.5, 0.25, 0.24, 0.25, 90, 450), _arc(0.5, 0.75, 0.3, 0.25, -90, 270)],
    9: [[*_arc(0.48, 0.28, 0.27, 0.28, 0, -360), (0.75, 0.28), (0.68, 1.0)]],
}


class Style(NamedTuple):
    """How a digit is drawn."""

    pen: float  # its width in parts of the digit's height
    slant: float  # of an upright line: how far the top is to the right, in parts of the height
    photograph: bool  # on grey paper in uneven light
    inverted: bool = False
    wobble: float = 0.0


STYLES = {
    "pen": Style(0.1, 0.0, False),
    "marker": Style(0.17, 0.0, False, wobble=0.01),
    "thin pencil": Style(0.02, 0.1, True),
    "slanted": Style(0.08, 0.3, True, wobble=0.015),
    "chalk": Style(0.11, -0.1, True, inverted=True),
}


def draw(digit: int, style: Style, seed: int = 0) -> Image.Image:
    """A picture of 400 × 300 pixels with a digit in it."""
    rng = np.random.default_rng((digit, seed))
    height, left, top = rng.uniform(120, 180), rng.uniform(60, 180), rng.uniform(30, 90)
    page = Image.new("L", (1600, 1200), 0)
    pen = ImageDraw.Draw(page)
    width = style.pen * height * 4
    for line in DIGITS[digit]:
        wobble = rng.normal(0, style.wobble, (len(line), 2))
        wobble = np.cumsum(wobble, 0) / 3
        points = [
            (4 * (left + height * (x + dx + style.slant * (1 - y) * 0.7)), 4 * (top + height * (y + dy)))
            for (x, y), (dx, dy) in zip(line, wobble, strict=True)
        ]
        pen.line(points, fill=255, width=max(1, round(width)), joint="curve")
        for x, y in points:
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    ink = np.asarray(page.resize((400, 300), Image.Resampling.BOX)) / 255
    if not style.photograph:
        return Image.fromarray((255 * (1 - ink)).astype(np.uint8))
    return photograph(ink, rng, inverted=style.inverted)


def photograph(ink: NDArray, rng: np.random.Generator, *, inverted: bool) -> Image.Image:
    """Ink, (H, W) from 0 to 1, as if photographed: paper and its grain, uneven light, a shadow with an edge, noise."""
    height, width = ink.shape
    y, x = np.mgrid[:height, :width] / max(height, width)
    paper, pen = (
        (rng.uniform(25, 80), rng.uniform(170, 235))
        if inverted
        else (
            rng.uniform(170, 240),
            rng.uniform(15, 90),
        )
    )
    surface = paper * (1 - ink) + pen * ink
    angle = rng.uniform(0, 2 * math.pi)
    slope = math.cos(angle) * (x - x.mean()) + math.sin(angle) * (y - y.mean())
    light = 1 + rng.uniform(0.1, 0.5) * slope
    angle = rng.uniform(0, 2 * math.pi)
    side = math.cos(angle) * (x - rng.uniform(0.2, 0.8) * x.max()) + math.sin(angle) * (
        y - rng.uniform(0.2, 0.8) * y.max()
    )
    softness = rng.uniform(0.003, 0.1)
    light *= 1 - rng.uniform(0.15, 0.5) / (1 + np.exp(-np.clip(side / softness, -50, 50)))
    grain = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1)).repeat(2, 0).repeat(2, 1)[:height, :width]
    values = surface * light * (1 + 0.01 * grain) + rng.normal(0, rng.uniform(1, 5), ink.shape)
    tint = np.array([1.0, rng.uniform(0.93, 1.0), rng.uniform(0.8, 1.0)])
    rgb = (values[..., None] * tint).clip(0, 255).astype(np.uint8)
    return Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))


def paste(image: NDArray, rng: np.random.Generator) -> Image.Image:
    """A photograph of 640 × 480 pixels of an image, (28, 28) uint8 of light ink on black, anywhere on it."""
    side = int(rng.integers(90, 320))
    large = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    large = large.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC)
    ink = np.zeros((480, 640))
    row, column = rng.integers(0, 480 - side), rng.integers(0, 640 - side)
    ink[row : row + side, column : column + side] = np.asarray(large) / 255
    return photograph(ink, rng, inverted=bool(rng.random() < 0.3))
