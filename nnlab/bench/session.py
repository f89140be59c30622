"""One run of ``nnlab bench``: what is measured on what, and who is admitted to the race."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from nnlab.bench.apart import Apart
from nnlab.bench.compare import hold, words
from nnlab.bench.machine import device_name, versions
from nnlab.bench.problem import Images, Learner, load_images, scale
from nnlab.bench.rows import Row
from nnlab.bench.stopwatch import Contestant, Pair, race, synchronise

QUICK = 3  # repeats where little is to be measured
STEPS = 30  # made by all before anything is timed
TOLERANCE = 1e-3  # of the way that the weights came in them: rounding is a thousand times finer, a mistake coarser


@dataclass(frozen=True)
class Peer:
    """Who is held against us.

    Attributes:
        name: of the row.
        variants: ways to use it, in words, and what makes each: the quickest is timed.
        part: samples that it is timed on; all when None.
        learns: whether it learns what we learn, so that weights can be compared.
        check: what else to compare; raises a ``SomethingElseError``.
    """

    name: str
    variants: Mapping[str, Callable[[], Learner]]
    part: int | None = None
    learns: bool = True
    check: Callable[[Learner], None] | None = None


@dataclass(frozen=True)
class Ours:
    """Our side of some rows, and what it came to on the samples on which results are compared."""

    name: str
    contestant: Contestant
    start: Sequence[Tensor]
    expected: Sequence[Tensor]


@dataclass
class Session:
    """What the tasks share.

    Attributes:
        device: the one for all who can use it.
        quick: measure less, within two minutes.
        tell: is told what is going on.
        rows: what was measured.
    """

    device: torch.device
    quick: bool
    tell: Callable[[str], object] = lambda text: None
    rows: list[Row] = field(default_factory=list)

    @cached_property
    def images(self) -> Images:
        """The images and labels as they lie in the files."""
        return load_images()

    @cached_property
    def x(self) -> Tensor:
        """The training images as float32 from 0 to 1, (N, I), on the device."""
        return scale(self.images.train_pixels, self.device)

    @cached_property
    def labels(self) -> Tensor:
        """Their labels, (N,), on the device."""
        return self.images.train_labels.to(self.device)

    def apart(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """What makes a learner in a process of its own; a CUDA device serves all of them one by one anyway."""
        return partial(Apart, make) if self.device.type == "cpu" else make

    def row(self, task: str, ours: str, peer: str) -> Row:
        """A row with nothing measured yet."""
        return Row(task, ours, peer, device_name(self.device), torch.get_num_threads(), versions())

    def ours(self, name: str, make: Callable[[], Learner], steps: Tensor, order: Tensor) -> Ours:
        """Make our side, note its results on ``steps``, and warm it up on ``order``."""
        self.tell(f"{name}, warm-up")
        learner = self.apart(make)()
        start = _copies(learner)
        learner.train(steps)
        expected = _copies(learner)
        learner.train(order)
        return Ours(name, Contestant(name, _epoch(learner), self.device), start, expected)

    def admit(
        self,
        task: str,
        ours: Ours,
        peers: Sequence[Peer],
        steps: Tensor,
        order: Tensor,
        tolerance: float = TOLERANCE,
        compared: str = f"weights after {STEPS} steps",
    ) -> list[Pair]:
        """Hold each peer's results to ours, warm up those that agree, and keep the quickest way to use each.

        One that is not installed, fails, or computes something else gets a row that says so, and is not timed.

        Args:
            task: of the rows.
            ours: our side.
            peers: who wants in.
            steps: samples to compare the results on.
            order: of the samples of an epoch, to warm up on.
            tolerance: see ``compare.difference``.
            compared: what is compared, in words.
        """
        pairs: list[Pair] = []
        for peer in peers:
            self.tell(f"{peer.name}, warm-up")
            row = self.row(task, ours.name, peer.name)
            made: list[tuple[float, str, Learner]] = []
            for way, make_here in peer.variants.items():
                make = self.apart(make_here)
                try:
                    if peer.learns:
                        learner, row.difference = hold(make, steps, ours.expected, ours.start, tolerance)
                        row.compared = compared
                    else:
                        learner = make()
                    if peer.check:
                        peer.check(learner)
                    made.append((_warm(learner, order[: peer.part], len(peer.variants) > 1), way, learner))
                except Exception as error:  # a peer's own trouble is told in its row, and ends nothing
                    row.note = words(error)
            if made:
                _, row.note, learner = min(made, key=lambda m: m[0])
                if peer.part is not None and peer.part < len(order):
                    row.note = "; ".join(filter(None, [row.note, f"timed on {peer.part:,} of {len(order):,} samples"]))
                pairs.append((row, ours.contestant, Contestant(peer.name, _epoch(learner), self.device, peer.part)))
            self.rows.append(row)
        return pairs

    def race(self, pairs: Sequence[Pair], repeats: int, order: Callable[[int], Tensor]) -> None:
        """Time all by turns, see there; at most ``QUICK`` times where little is to be measured."""
        race(pairs, min(repeats, QUICK) if self.quick else repeats, order, self.tell)


def _warm(learner: Learner, order: Tensor, timed: bool) -> float:
    """The seconds of a second epoch, where they matter."""
    learner.train(order)
    synchronise(order.device)
    start = perf_counter()
    if timed:
        learner.train(order)
        synchronise(order.device)
    return perf_counter() - start


def _epoch(learner: Learner) -> Callable[[Tensor], float | None]:
    """What is timed: a learner with a clock of its own has a method ``epoch`` that returns its seconds."""
    epoch: Callable[[Tensor], float | None] = getattr(learner, "epoch", learner.train)
    return epoch


def _copies(learner: Learner) -> list[Tensor]:
    return [p.detach().clone() for p in learner.parameters()]
