"""Contestants that are timed by turns, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nnlab.bench.rows import Row

REST = 0.1  # seconds before each lap, for the threads of whoever ran before go on spinning for a while


@dataclass(eq=False)
class Contestant:
    """One who is timed.

    Attributes:
        name: what the progress display shows.
        epoch: learns the samples in an order, and returns None, or the seconds if it has a clock of its own.
        device: that it runs on, waited for before the clock is read.
        part: how many samples of the order it is given; all when None. Its seconds are scaled up to all.
    """

    name: str
    epoch: Callable[[Tensor], float | None]
    device: torch.device
    part: int | None = None
    seconds: list[float] = field(default_factory=list)

    def lap(self, order: Tensor) -> float:
        """The seconds of an epoch."""
        some = order[: self.part]
        synchronise(self.device)
        time.sleep(REST)
        start = time.perf_counter()
        own = self.epoch(some)
        synchronise(self.device)
        seconds = time.perf_counter() - start if own is None else own
        return seconds * len(order) / len(some)


def synchronise(device: torch.device) -> None:
    """Wait for what the device has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Pair = tuple[Row, Contestant, Contestant]
"""A row to fill, who stands for ours in it, and the peer."""


def race(pairs: Sequence[Pair], repeats: int, order: Callable[[int], Tensor], tell: Callable[[str], object]) -> None:
    """Time all contestants by turns, everyone once per repeat, on one order of the samples per repeat.

    An interrupt leaves the rows filled with the repeats that were completed.

    Args:
        pairs: who is held against whom; a contestant may be in several pairs, and is timed once per repeat.
        repeats: how often.
        order: that of the samples in a repeat, given its number.
        tell: is told what is going on.
    """
    contestants = list(dict.fromkeys(c for _, ours, peer in pairs for c in (ours, peer)))
    try:
        for repeat in range(repeats):
            samples = order(repeat)
            for contestant in contestants:
                tell(f"{contestant.name}, {repeat + 1} of {repeats}")
                contestant.seconds.append(contestant.lap(samples))
    finally:
        for row, ours, peer in pairs:
            n = min(len(ours.seconds), len(peer.seconds))
            if n:
                row.time(ours.seconds[:n], peer.seconds[:n])
