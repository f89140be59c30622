"""The compiled loops of ``nnlab.data.distortion``: half a million images of 28 × 28 pixels a second on two cores.

Three things make them fast. The four neighbours of each place are packed into one uint32, so a pixel of the result is
one load, not four. Around the image lie zeros, and coordinates are clamped to these, so nothing is tested. Rows are
longer than the image, and the compiler does not know how long: it would unroll the loops, and vectorises them so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from nnlab.compiled import Array, compiled, fma, inner

AT_ONCE = 50  # images that a thread takes at a time
GOLD = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW, S16, S32, S48 = np.uint64(0xFFFF), np.uint64(16), np.uint64(32), np.uint64(48)
S24, S40, S30, S27, S31 = np.uint32(24), np.uint64(40), np.uint64(30), np.uint64(27), np.uint64(31)
BYTE, B8, B16 = np.uint32(255), np.uint32(8), np.uint32(16)


@inner
def mix(z: Any) -> Any:
    """A step of splitmix64: Steele, Lea and Flood (2014)."""
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@inner
def draw(key: Any, limits: Array, centre: Any, affine: Array, knots: Array) -> None:
    """The affine map, (6,), from a place in the result to one in the image, and the displacements, (2, G, G)."""
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
    each, flat = limits[4] * np.float32(math.sqrt(3.0) / 65536), knots.reshape(-1)
    for k in range(len(flat)):  # the sum of four uniform numbers is nearly normal
        r = mix(key + np.uint64(k + 16) * GOLD)
        total = np.int32(r & LOW) + np.int32((r >> S16) & LOW) + np.int32((r >> S32) & LOW) + np.int32(r >> S48)
        flat[k] = np.float32(total - np.int32(131070)) * each


@inner
def pack(image: Array, side: int, width: int, padded: Array, four: Array) -> None:
    """``four[(y + 1) width + x + 1]`` are the pixels (x, y), (x + 1, y), (x, y + 1) and (x + 1, y + 1), a byte each."""
    for y in range(side):
        at = (y + 1) * width + 1
        for x in range(side):
            padded[at + x] = image[y * side + x]
    for i in range((side + 2) * width):
        four[i] = (
            np.uint32(padded[i])
            | (np.uint32(padded[i + 1]) << B8)
            | (np.uint32(padded[i + width]) << B16)
            | (np.uint32(padded[i + width + 1]) << S24)
        )


@inner
def places(
    side: int, width: int, affine: Array, knots: Array, basis: Array, tx: Array, ty: Array, sx: Array, sy: Array
) -> None:
    """Where in the image, with its border of 1, each pixel of the result lies: sx and sy, (side, width)."""
    n_knots = len(basis)
    for b in range(n_knots):
        p, q = tx[b], ty[b]
        p[:], q[:] = 0, 0
        for a in range(n_knots):
            u, v, row = knots[0, a, b], knots[1, a, b], basis[a]
            for y in range(width):
                p[y] = fma(u, row[y], p[y])
                q[y] = fma(v, row[y], q[y])
    for y in range(side):
        r, s = sx[y], sy[y]
        from_x = fma(affine[1], np.float32(y), affine[2]) + np.float32(1)
        from_y = fma(affine[4], np.float32(y), affine[5]) + np.float32(1)
        for x in range(width):
            r[x] = fma(affine[0], np.float32(np.int32(x)), from_x)
            s[x] = fma(affine[3], np.float32(np.int32(x)), from_y)
        for b in range(n_knots):
            u, v, row = tx[b, y], ty[b, y], basis[b]
            for x in range(width):
                r[x] = fma(u, row[x], r[x])
                s[x] = fma(v, row[x], s[x])


@inner
def look_up(n: int, side: int, width: int, sx: Array, sy: Array, at: Array, four: Array, result: Array) -> None:
    """The result's n pixels, (n,) uint8: bilinear, rounded."""
    last = np.float32(side + 1)
    for i in range(n):
        px = min(max(sx[i], np.float32(0)), last)
        py = min(max(sy[i], np.float32(0)), last)
        ix, iy = np.int32(px), np.int32(py)
        sx[i], sy[i] = px - np.float32(ix), py - np.float32(iy)
        at[i] = iy * np.int32(width) + ix
    for i in range(n):
        q, u, v = four[at[i]], sx[i], sy[i]
        p00, p01 = np.float32(np.int32(q & BYTE)), np.float32(np.int32((q >> B8) & BYTE))
        p10, p11 = np.float32(np.int32((q >> B16) & BYTE)), np.float32(np.int32(q >> S24))
        top, bottom = fma(u, p01 - p00, p00), fma(u, p11 - p10, p10)
        result[i] = np.uint8(np.int32(fma(v, bottom - top, top) + np.float32(0.5)))


def distort(
    images: Array, indices: Array, side: int, seed: int, epoch: int, limits: Array, basis: Array, out: Array
) -> None:
    """``out[k]`` is a distortion of ``images[indices[k]]``, (…, side²) uint8; limits are (5,), basis (G, width)."""
    n, width, n_knots = len(indices), basis.shape[1], len(basis)
    start = mix(mix(np.uint64(seed) + GOLD) + np.uint64(epoch) * GOLD)
    for block in prange((n + AT_ONCE - 1) // AT_ONCE):
        affine, knots = np.empty(6, np.float32), np.empty((2, n_knots, n_knots), np.float32)
        tx, ty = np.empty((n_knots, width), np.float32), np.empty((n_knots, width), np.float32)
        sx, sy = np.empty((side, width), np.float32), np.empty((side, width), np.float32)
        at, result = np.empty(side * width, np.int32), np.empty(side * width, np.uint8)
        four, padded = np.empty((side + 2) * width, np.uint32), np.zeros((side + 4) * width, np.uint8)
        for k in range(block * AT_ONCE, min(n, (block + 1) * AT_ONCE)):
            index = indices[k]
            draw(mix(start + np.uint64(index) * GOLD), limits, np.float32(side - 1) * np.float32(0.5), affine, knots)
            pack(images[index], side, width, padded, four)
            places(side, width, affine, knots, basis, tx, ty, sx, sy)
            look_up(side * width, side, width, sx.reshape(-1), sy.reshape(-1), at, four, result)
            for y in range(side):
                for x in range(side):
                    out[k, y * side + x] = result[y * width + x]


distort = compiled(distort, parallel=True)
