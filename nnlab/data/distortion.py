"""Random distortions of images, by an affine map and a smooth displacement, the same however they are computed."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from nnlab.validation import ArgumentError, check_at_least, check_not_negative

KNOTS = 7  # of the displacement, in each direction
AT_ONCE = 2000  # images that torch takes at a time: 28 × 28 pixels take 100 MB then
Array = np.ndarray[Any, Any]
GOLD, M64 = 0x9E3779B97F4A7C15, (1 << 64) - 1


@dataclass(frozen=True)
class Distortion:
    """Random distortions of square uint8 images: pixel x of the result is pixel M (x − c) + c + t + d(x) of the image.

    c is the centre, M = R(θ) [[1/kx, s], [0, 1/ky]], t a shift, and d a displacement by uniform cubic B-splines over
    7 × 7 knots. The numbers of an image depend on seed, epoch and its index alone. Between pixels the image is
    bilinear, around it 0. Without numba, and on a CUDA device, torch computes the same but for rounding.

    Source: Simard, Steinkraus and Platt (2003) for elastic distortions of digits; B-splines in place of their filter.

    Args:
        rotation: the largest |θ|, degrees.
        scale: kx and ky are within 1 ± scale.
        shear: the largest |s|.
        shift: the largest |t| in each direction, pixels.
        elastic: standard deviation of the displacement of the knots, pixels; about half of it between them.
    """

    rotation: float = 15.0
    scale: float = 0.15
    shear: float = 0.1
    shift: float = 2.0
    elastic: float = 2.0

    def __post_init__(self) -> None:
        """Check the limits."""
        for field in fields(self):
            check_not_negative(field.name, getattr(self, field.name))
        for name, most in (("rotation", 180), ("scale", 0.9), ("shear", 2)):
            if getattr(self, name) > most:
                raise ArgumentError(name, f"must be at most {most}, got {getattr(self, name)}")

    def __call__(
        self, images: Tensor, *, seed: int, epoch: int, indices: Tensor | None = None, compiled: bool = True
    ) -> Tensor:
        """Distort images.

        Args:
            images: uint8, (N, S, S) or (N, S²).
            seed: of all epochs.
            epoch: counted from 0.
            indices: of the images to distort, (n,) int64; all when None.
            compiled: False computes by torch where the compiled loops could.

        Returns:
            their distortions, uint8, in the shape of the images.

        Raises:
            ArgumentError: an argument is not as above.
        """
        side = _side(images)
        check_at_least("seed", seed, 0)
        check_at_least("epoch", epoch, 0)
        if seed >= 1 << 64:
            raise ArgumentError("seed", f"must be below 2^64, got {seed}")
        if indices is None:
            indices = torch.arange(len(images), device=images.device)
        elif indices.dtype != torch.int64 or indices.ndim != 1:
            raise ArgumentError("indices", f"must be int64 (n,), got {indices.dtype} {tuple(indices.shape)}")
        elif len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(images):
            raise ArgumentError("indices", f"must be from 0 to {len(images) - 1}")
        flat = images.reshape(len(images), side * side)
        out = flat.new_empty(len(indices), side * side)
        if compiled and images.device.type == "cpu" and (kernel := _kernel()):
            from nnlab.compiled import threads_as_torch  # noqa: PLC0415 - needs numba

            with threads_as_torch():
                given = flat.contiguous().numpy(), indices.numpy(), side, np.uint64(seed), np.uint64(epoch)
                kernel(*given, self._limits(), _basis(side), out.numpy())
        else:
            for part in torch.split(torch.arange(len(indices)), AT_ONCE):
                out[part] = self._by_torch(flat[indices[part]], indices[part].cpu().numpy(), side, seed, epoch)
        return out.view(len(indices), *images.shape[1:])

    def _limits(self) -> Any:
        return np.array([math.radians(self.rotation), *astuple(self)[1:]], np.float32)

    def numbers(self, indices: Array, side: int, seed: int, epoch: int) -> tuple[Array, Array]:
        """The affine maps, (n, 2, 3), and the knots' displacements, (n, 2, 7, 7), of images, as the loops draw them."""
        rotation, scale, shear, shift, elastic = self._limits()
        with np.errstate(over="ignore"):
            start = _mix(_mix(np.uint64((seed + GOLD) & M64)) + np.uint64(epoch * GOLD & M64))
            keys = _mix(start + indices.astype(np.uint64) * np.uint64(GOLD))[:, None]
            bits = _mix(keys + np.arange(1, 7, dtype=np.uint64) * np.uint64(GOLD)) >> np.uint64(40)
            r = _mix(keys + np.arange(16, 16 + 2 * KNOTS**2, dtype=np.uint64) * np.uint64(GOLD))
        u: Any = (bits.astype(np.float32) * np.float32(2.0 / (1 << 24)) - np.float32(1)).T
        c, s = np.cos(np.float64(rotation * u[0])), np.sin(np.float64(rotation * u[0]))
        kx, ky, sheared = 1 / (1 + scale * u[1]), 1 / (1 + scale * u[2]), shear * u[3]
        m, centre = np.array([[c * kx, c * sheared - s * ky], [s * kx, s * sheared + c * ky]]), (side - 1) / 2
        t = centre - m.sum(1) * centre + shift * u[4:]
        uniform = [((r >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.float32) for k in range(4)]
        total = uniform[0] + uniform[1] + uniform[2] + uniform[3] - np.float32(131070)
        knots = total * np.float32(elastic * math.sqrt(3.0) / 65536)
        affine = np.concatenate((m, t[:, None]), 1).transpose(2, 0, 1)
        return affine.astype(np.float32), knots.reshape(-1, 2, KNOTS, KNOTS)

    def _by_torch(self, images: Tensor, indices: Array, side: int, seed: int, epoch: int) -> Tensor:
        """The same by ``grid_sample``, in float32."""
        affine, knots = (torch.from_numpy(part).to(images.device) for part in self.numbers(indices, side, seed, epoch))
        basis = torch.from_numpy(_basis(side)[:, :side]).to(images.device)
        at = torch.arange(side, dtype=torch.float32, device=images.device)
        places = torch.stack(
            (at.expand(side, side), at[:, None].expand(side, side), torch.ones_like(at).expand(side, side))
        )
        source = torch.einsum("nij,jyx->niyx", affine, places)
        source = source + torch.einsum("niab,ay,bx->niyx", knots, basis, basis)
        grid = (source * (2 / (side - 1)) - 1).permute(0, 2, 3, 1)
        x = images.view(-1, 1, side, side).float()
        y = grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return (y + 0.5).to(torch.uint8).view(len(images), side * side)


def _side(images: Tensor) -> int:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim not in (2, 3):
        raise ArgumentError("images", f"must be uint8, (N, S, S) or (N, S²), got {getattr(images, 'shape', images)}")
    side = math.isqrt(images[0].numel()) if len(images) else math.isqrt(math.prod(images.shape[1:]))
    if side < 2 or math.prod(images.shape[1:]) != side * side or (images.ndim == 3 and images.shape[1] != side):
        raise ArgumentError("images", f"must be square, got {tuple(images.shape[1:])}")
    return side


def _mix(z: Any) -> Any:
    """A step of splitmix64."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _basis(side: int) -> Array:
    """The weight of each knot at each pixel of a row, (7, side rounded up beyond the border), by cubic B-splines."""
    basis = np.zeros((KNOTS, -(-(side + 2) // 16) * 16), np.float32)
    for x in range(side):
        at = x / (side - 1) * (KNOTS - 3)
        first = min(int(at), KNOTS - 4)
        t = at - first
        weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
        basis[first : first + 4, x] = np.array(weights) / 6
    return basis


def _kernel() -> Any:
    """The compiled loops; None without numba, and where its threads would end the process, as in a forked one."""
    try:
        from nnlab.compiled import threads_are_safe  # noqa: PLC0415 - numba is an extra, and takes long to import
        from nnlab.data.distortion_kernel import distort  # noqa: PLC0415
    except ImportError:
        return None
    return distort if threads_are_safe() else None
