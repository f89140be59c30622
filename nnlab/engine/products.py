"""The first layer's two products on samples of which most inputs are zero, compiled by numba.

The units are divided among the threads, P at a time, in both products alike: each thread reads and writes weights that
no other one touches. Every sum is taken in one order, whatever the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from nnlab.engine.layout import Array, compiled_in_parallel
from nnlab.engine.vectors import AHEAD, fetch, scores, subtract

LANES = tuple(range(16))  # numbers of a vector: 64 bytes in float32


@compiled_in_parallel
def net_inputs(
    first: Array,
    terms: Array,
    feature: Array,
    value: Array,
    numbers: Array,
    weight: Array,
    bias: Array,
    u: Array,
    row: Any,
) -> None:
    """U = x Wᵀ + b of some samples.

    Args:
        first: of all samples' inputs without their zeros; see ``nnlab.engine.layout.Rows``.
        terms: likewise.
        feature: likewise.
        value: likewise.
        numbers: which of them, (n,).
        weight: (parts, I, P).
        bias: (O,).
        u: where it is written, (n, O).
        row: a number for each vector in a row, P in all.

    Source: chapter 3, eq. 3.1.
    """
    width = weight.shape[2]
    for part in prange(len(weight)):
        start = part * width
        stop = min(start + width, len(bias))
        net = np.empty(width, weight.dtype)
        for k in range(len(numbers)):
            if k + AHEAD < len(numbers):
                n = numbers[k + AHEAD]
                fetch(first[n], terms[n], value)
                fetch(first[n], terms[n], feature)
            n = numbers[k]
            at, end = first[n], first[n] + terms[n]
            scores(net, weight[part], feature[at:end], value[at:end], LANES, row)
            for o in range(start, stop):
                u[k, o] = net[o - start] + bias[o]


@compiled_in_parallel
def subtract_gradient(
    first: Array,
    terms: Array,
    feature: Array,
    value: Array,
    numbers: Array,
    weight: Array,
    delta: Array,
    step: Any,
    row: Any,
) -> None:
    """W ← W − s δᵀ x.

    Args:
        first: of all samples' inputs without their zeros; see ``nnlab.engine.layout.Rows``.
        terms: likewise.
        feature: likewise.
        value: likewise.
        numbers: which of them, (n,).
        weight: (parts, I, P).
        delta: (n, O).
        step: s, in the dtype of the weight.
        row: a number for each vector in a row, P in all.

    Source: chapter 3, eq. 3.18.
    """
    width = weight.shape[2]
    for part in prange(len(weight)):
        start = part * width
        stop = min(start + width, delta.shape[1])
        change = np.zeros(width, weight.dtype)
        for k in range(len(numbers)):
            n = numbers[k]
            at, end = first[n], first[n] + terms[n]
            for o in range(start, stop):
                change[o - start] = step * delta[k, o]
            subtract(change, weight[part], feature[at:end], value[at:end], LANES, row)
