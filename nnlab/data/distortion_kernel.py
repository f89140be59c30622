"""The compiled loops of ``nnlab.data.distortion``: 450,000 images of 28 × 28 pixels a second on a core.

What makes them fast:

- The four neighbours of each place are packed into one uint32, so a pixel of the result is one load, not four.
- Around the image lie zeros, and coordinates are clamped to these, so nothing is tested.
- A row of the result is one loop that keeps all but its pixels in registers. It writes to the stack, where the compiler
  knows that no array is, and its length is not known to the compiler, which would unroll it in place of vectorising it.
- Indices are unsigned where they are sums, as a negative one would count from the end: with that test the loads are
  gathers. Arrays are flat and not sliced, because each slice is counted twice: that took 1 µs of 3.6 µs an image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, prange

from nnlab.compiled import Array, compiled, fma, inner, on_stack
from nnlab.data.distortion import KNOTS

AT_ONCE = 50  # images that a thread takes at a time
GOLD = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW, S16, S32, S48 = np.uint64(0xFFFF), np.uint64(16), np.uint64(32), np.uint64(48)
S24, S40, S30, S27, S31 = np.uint32(24), np.uint64(40), np.uint64(30), np.uint64(27), np.uint64(31)
PIECE = 64  # pixels of a row at a time; ``compiled.on_stack`` says why not fewer
BYTE, B8, B16 = np.uint32(255), np.uint32(8), np.uint32(16)


@inner
def mix(z: Any) -> Any:
    """A step of splitmix64: Steele, Lea and Flood (2014)."""
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@inner
def draw(key: Any, limits: Array, centre: Any, affine: Array, knots: Array) -> None:
    """The affine map, (6,), from a place in the result to one in the image, and the displacements, (2 KNOTS²,)."""
    u = np.empty(6, np.float32)
    for k in range(6):
        bits = mix(key + np.uint64(k + 1) * GOLD) >> S40  # 24 of them
        u[k] = np.float32(bits) * np.float32(2.0 / (1 << 24)) - np.float32(1)
    angle = np.float64(limits[0] * u[0])
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    kx, ky = np.float32(1) / (np.float32(1) + limits[1] * u[1]), np.float32(1) / (np.float32(1) + limits[1] * u[2])
    sheared = limits[2] * u[3]
    affine[0], affine[1] = c * kx, c * sheared - s * ky
    affine[3], affine[4] = s * kx, s * sheared + c * ky
    affine[2] = centre - affine[0] * centre - affine[1] * centre + limits[3] * u[4]
    affine[5] = centre - affine[3] * centre - affine[4] * centre + limits[3] * u[5]
    each = limits[4] * np.float32(math.sqrt(3.0) / 65536)
    for k in range(len(knots)):  # the sum of four uniform numbers is nearly normal
        r = mix(key + np.uint64(k + 16) * GOLD)
        total = np.int32(r & LOW) + np.int32((r >> S16) & LOW) + np.int32((r >> S32) & LOW) + np.int32(r >> S48)
        knots[k] = np.float32(total - np.int32(131070)) * each


@inner
def pack(image: Array, side: int, width: int, padded: Array, four: Array) -> None:
    """``four[(y + 1) width + x + 1]`` are the pixels (x, y), (x + 1, y), (x, y + 1) and (x + 1, y + 1), a byte each."""
    for y in range(side):
        at, given = (y + 1) * width + 1, y * side
        for x in range(side):
            padded[np.uint64(at + x)] = image[np.uint64(given + x)]
    for i in range((side + 2) * width):
        four[i] = (
            np.uint32(padded[i])
            | (np.uint32(padded[np.uint64(i + 1)]) << B8)
            | (np.uint32(padded[np.uint64(i + width)]) << B16)
            | (np.uint32(padded[np.uint64(i + width + 1)]) << S24)
        )


@inner
def seven(a: Array, at: int, step: int) -> Any:
    """As many numbers as there are knots in a row, ``step`` apart."""
    return (
        a[np.uint64(at)],
        a[np.uint64(at + step)],
        a[np.uint64(at + 2 * step)],
        a[np.uint64(at + 3 * step)],
        a[np.uint64(at + 4 * step)],
        a[np.uint64(at + 5 * step)],
        a[np.uint64(at + 6 * step)],
    )


@inner
def add(first: Any, c: Any, w: Any) -> Any:
    """The first, and the products of seven numbers and seven others, added in their order."""
    total = fma(c[0], w[0], first)
    total = fma(c[1], w[1], total)
    total = fma(c[2], w[2], total)
    total = fma(c[3], w[3], total)
    total = fma(c[4], w[4], total)
    total = fma(c[5], w[5], total)
    return fma(c[6], w[6], total)


@inner
def spread(width: int, knots: Array, basis: Array, t: Array) -> None:
    """The displacements of each knot's column at each row of pixels, in x and then in y: t is (2 KNOTS width,)."""
    p, zero = carray(on_stack(PIECE, t), PIECE), np.float32(0)
    for b in range(2 * KNOTS):
        c = seven(knots, b // KNOTS * KNOTS**2 + b % KNOTS, KNOTS)
        for start in range(0, width, PIECE):
            n = min(PIECE, width - start)
            for i in range(n):
                p[i] = add(zero, c, seven(basis, start + i, width))
            for i in range(n):
                t[np.uint64(b * width + start + i)] = p[i]


@inner
def rows(side: int, width: int, affine: Array, basis: Array, t: Array, four: Array, out: Array) -> None:
    """The result, (side²,) uint8: where each pixel lies in the image with its border of 1; bilinear, rounded."""
    last, zero, w = np.float32(side + 1), np.float32(0), np.int32(width)
    ax, ay = affine[0], affine[3]
    result = carray(on_stack(PIECE, out), PIECE)
    for y in range(side):
        from_x = fma(affine[1], np.float32(y), affine[2]) + np.float32(1)
        from_y = fma(affine[4], np.float32(y), affine[5]) + np.float32(1)
        cx, cy = seven(t, y, width), seven(t, KNOTS * width + y, width)
        for start in range(0, width, PIECE):
            n = min(PIECE, width - start)
            for i in range(n):
                x, weights = np.float32(np.int32(start + i)), seven(basis, start + i, width)
                sx, sy = add(fma(ax, x, from_x), cx, weights), add(fma(ay, x, from_y), cy, weights)
                px, py = min(max(zero, sx), last), min(max(zero, sy), last)  # in this order a NaN becomes 0
                ix, iy = np.int32(px), np.int32(py)
                u, v = px - np.float32(ix), py - np.float32(iy)
                q = four[np.uint64(np.int32(iy * w + ix))]
                p00, p01 = np.float32(np.int32(q & BYTE)), np.float32(np.int32((q >> B8) & BYTE))
                p10, p11 = np.float32(np.int32((q >> B16) & BYTE)), np.float32(np.int32(q >> S24))
                top, bottom = fma(u, p01 - p00, p00), fma(u, p11 - p10, p10)
                result[i] = np.uint8(np.int32(fma(v, bottom - top, top) + np.float32(0.5)))
            for i in range(min(n, side - start)):
                out[np.uint64(y * side + start + i)] = result[i]


def distort(
    images: Array, indices: Array, side: int, seed: int, epoch: int, limits: Array, basis: Array, out: Array
) -> None:
    """``out[k]`` is a distortion of ``images[indices[k]]``, (…, side²) uint8; limits are (5,), basis (KNOTS, width)."""
    n, width, weights = len(indices), basis.shape[1], basis.reshape(-1)
    start = mix(mix(np.uint64(seed) + GOLD) + np.uint64(epoch) * GOLD)
    for block in prange((n + AT_ONCE - 1) // AT_ONCE):
        affine, knots = np.empty(6, np.float32), np.empty(2 * KNOTS**2, np.float32)
        t = np.empty(2 * KNOTS * width, np.float32)
        four, padded = np.empty((side + 2) * width, np.uint32), np.zeros((side + 4) * width, np.uint8)
        for k in range(block * AT_ONCE, min(n, (block + 1) * AT_ONCE)):
            index = indices[k]
            draw(mix(start + np.uint64(index) * GOLD), limits, np.float32(side - 1) * np.float32(0.5), affine, knots)
            pack(images[index], side, width, padded, four)
            spread(width, knots, weights, t)
            rows(side, width, affine, weights, t, four, out[k])


distort = compiled(distort, parallel=True)
