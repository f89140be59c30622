"""torchvision's distortions of images."""

from __future__ import annotations

import time

from torch import Tensor
from torchvision.transforms import v2

from benchmarks.problems import Problem
from benchmarks.process import Contestant


def transforms(problem: Problem, *, samples: int) -> Contestant:
    """Limits as in ours, Simard's elastic displacement. A call draws once for all that it is given, so it is given one.

    So many images are distorted, and the seconds scaled up to all.
    """
    images = problem.x.view(-1, 1, 28, 28)
    limits = {"translate": (2 / 28, 2 / 28), "scale": (0.85, 1.15), "shear": (-5.7, 5.7)}
    bilinear = v2.InterpolationMode.BILINEAR
    distort = v2.Compose([v2.ElasticTransform(34.0, 4.0), v2.RandomAffine(15, **limits, interpolation=bilinear)])

    def train(order: Tensor) -> None:
        for k in order[:samples].tolist():
            distort(images[k])

    def seconds(order: Tensor) -> float:
        start = time.perf_counter()
        train(order)
        return (time.perf_counter() - start) * len(order) / len(order[:samples])

    return Contestant(train, seconds=seconds)
