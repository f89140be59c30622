"""The threads that compiled loops share with torch."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


def safe() -> bool:
    """Whether numba's threads may be used at all.

    Its last resort, workqueue, ends the process if two of Python's threads ask for them, and OpenMP ends one that was
    forked from the process that started them.
    """
    return _started_in() == os.getpid() and numba.threading_layer() != "workqueue"


@functools.cache
def _started_in() -> int:
    """Start numba's threads; the process that did, 0 where that is not known.

    OpenMP then has a default of one thread for each core, and torch goes by that default: what it was is set again.
    """
    try:
        numba.threading_layer()
    except ValueError:  # they are not started yet
        pass
    else:
        if multiprocessing.parent_process():  # which may have started them before it forked
            return 0
    threads = torch.get_num_threads()
    numba.get_num_threads()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return os.getpid()


@contextmanager
def as_torch() -> Iterator[int]:
    """Let numba use as many threads as torch does, one where that is not safe; how many these are.

    Where numba's are OpenMP's they are the same threads, which do not stand in one another's way.
    """
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if safe() else 1
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield threads
    finally:
        numba.set_num_threads(before)
