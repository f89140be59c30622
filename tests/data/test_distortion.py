"""Distorted images: the map that the docstring states, from numbers that depend on seed, epoch and index alone."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from nnlab.data import Distortion
from nnlab.validation import ArgumentError

NONE = Distortion(0, 0, 0, 0, 0)


def images(n: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def spline(x: float) -> float:
    """The uniform cubic B-spline around 0, as in the books: Horner's form of its two pieces."""
    x = abs(x)
    return (4 - 6 * x**2 + 3 * x**3) / 6 if x < 1 else max(0.0, 2 - x) ** 3 / 6


def exactly(distortion: Distortion, x: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """The distortion in float64, before it is rounded, by ``grid_sample``."""
    side = x.shape[1]
    affine, knots = (
        torch.from_numpy(part).double() for part in distortion.numbers(np.arange(len(x)), side, seed, epoch)
    )
    at = torch.arange(side, dtype=torch.float64)
    weights = torch.tensor([[spline(p / (side - 1) * 4 - (k - 1)) for p in range(side)] for k in range(7)]).double()
    source = torch.einsum("nij,jyx->niyx", affine[:, :, :2], torch.stack(torch.meshgrid(at, at, indexing="xy")))
    source += affine[:, :, 2, None, None] + torch.einsum("niab,ay,bx->niyx", knots, weights, weights)
    grid = (source * 2 / (side - 1) - 1).permute(0, 2, 3, 1)
    return grid_sample(x[:, None].double(), grid, align_corners=True)[:, 0]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("side", "distortion"), [(28, Distortion()), (8, Distortion(30, 0.3, 0.2, 1, 0.5))])
def test_it_is_the_map_that_it_says(side, distortion, compiled):
    x = images(200, side)
    found = distortion(x, seed=3, epoch=5, compiled=compiled)
    expected = exactly(distortion, x, 3, 5)
    assert (found.double() - expected).abs().max() <= 0.5 + 1e-2  # rounded; neighbours differ by up to 255
    assert found.shape == x.shape


def test_its_numbers_have_the_limits_and_the_spread_that_it_says():
    n = np.arange(4000)
    affine, knots = Distortion(20, 0, 0, 0, 1.5).numbers(n, 28, 0, 0)
    angles = np.degrees(np.arctan2(affine[:, 1, 0], affine[:, 0, 0]))
    assert np.allclose(affine[:, 0, 0] ** 2 + affine[:, 1, 0] ** 2, 1, atol=1e-6)
    assert (angles.min() < -19, angles.max() > 19, np.abs(angles).max() <= 20 + 1e-3) == (True, True, True)
    assert abs(angles.mean()) < 1
    assert abs(knots.std() - 1.5) < 0.01
    scaled = Distortion(0, 0.2, 0, 0, 0).numbers(n, 28, 0, 0)[0]
    assert (1 / scaled[:, 0, 0]).min() == pytest.approx(0.8, abs=1e-3)
    assert (1 / scaled[:, 1, 1]).max() == pytest.approx(1.2, abs=1e-3)
    sheared = Distortion(0, 0, 0.3, 0, 0).numbers(n, 28, 0, 0)[0]
    assert np.abs(sheared[:, 0, 1]).max() == pytest.approx(0.3, abs=1e-3)
    shifted = Distortion(0, 0, 0, 4, 0).numbers(n, 28, 0, 0)[0]
    assert np.abs(shifted[:, :, 2]).max() == pytest.approx(4, abs=1e-2)
    assert abs(np.corrcoef(shifted[:, 0, 2], shifted[:, 1, 2])[0, 1]) < 0.05


@pytest.mark.parametrize("compiled", [True, False])
def test_an_image_depends_on_seed_epoch_and_index_alone(compiled):
    x, distortion = images(300, 28), Distortion()
    whole = distortion(x, seed=1, epoch=2, compiled=compiled)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:120]
    assert torch.equal(distortion(x, seed=1, epoch=2, indices=order, compiled=compiled), whole[order])
    for other in (distortion(x, seed=1, epoch=3, compiled=compiled), distortion(x, seed=2, epoch=2, compiled=compiled)):
        assert (other != whole).flatten(1).any(1).all()
    same = distortion(x[:1].expand(300, 28, 28), seed=1, epoch=2, compiled=compiled)
    assert len(same.flatten(1).unique(dim=0)) == 300


def test_the_number_of_threads_does_not_matter():
    x, threads, found = images(200, 28), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(Distortion()(x, seed=0, epoch=0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("compiled", [True, False])
def test_without_limits_nothing_changes(compiled):
    x = images(50, 28)
    assert torch.equal(NONE(x.flatten(1), seed=0, epoch=0, compiled=compiled), x.flatten(1))


@pytest.mark.parametrize("side", [2, 3, 15, 62, 70])
def test_rows_may_be_shorter_and_longer_than_a_piece(side):
    x = images(20, side)
    difference = Distortion()(x, seed=0, epoch=0).int() - Distortion()(x, seed=0, epoch=0, compiled=False).int()
    assert difference.abs().max() <= 1


def test_places_that_overflow_are_read_from_the_border():
    limits = Distortion(shift=3e38, elastic=3e38)  # ∞ − ∞ is no number
    assert limits(images(200, 28), seed=0, epoch=0).float().mean() < 255


def test_on_a_device_torch_computes_the_same(device):
    x = images(100, 28)
    found = Distortion()(x.to(device), seed=0, epoch=0)
    assert found.device.type == device.type
    difference = (found.cpu().int() - Distortion()(x, seed=0, epoch=0, compiled=False).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).double().mean() < 1e-3


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Distortion(rotation=-1), "rotation"),
        (lambda: Distortion(rotation=181), "rotation"),
        (lambda: Distortion(scale=1), "scale"),
        (lambda: Distortion(shear=math.nan), "shear"),
        (lambda: Distortion(shift=math.inf), "shift"),
        (lambda: Distortion(elastic="2"), "elastic"),
        (lambda: NONE(torch.zeros(2, 28, 28), seed=0, epoch=0), "images"),
        (lambda: NONE(images(2, 28)[:, :14], seed=0, epoch=0), "images"),
        (lambda: NONE(images(2, 28), seed=-1, epoch=0), "seed"),
        (lambda: NONE(images(2, 28), seed=1 << 64, epoch=0), "seed"),
        (lambda: NONE(images(2, 28), seed=0, epoch=0, indices=torch.tensor([2])), "indices"),
        (lambda: NONE(images(2, 28), seed=0, epoch=0, indices=torch.tensor([0.5])), "indices"),
    ],
)
def test_a_wrong_argument_is_named(make, argument):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert caught.value.argument == argument
