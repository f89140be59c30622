"""The threads that compiled loops share with torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


def safe() -> bool:
    """Whether numba's threads may be used at all: its last resort ends the process if two of Python's ask for them."""
    numba.get_num_threads()  # starts them
    return bool(numba.threading_layer() != "workqueue")


@contextmanager
def as_torch() -> Iterator[int]:
    """Let numba use as many threads as torch does; how many these are.

    Where numba's are OpenMP's they are the same threads, which do not stand in one another's way.
    """
    before = numba.get_num_threads()
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if safe() else 1
    numba.set_num_threads(threads)
    try:
        yield threads
    finally:
        numba.set_num_threads(before)
