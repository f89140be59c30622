"""How compiled loops have their numbers: samples without their zeros, and units side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from torch import Tensor

Array = np.ndarray[Any, Any]


class Rows(NamedTuple):
    """Samples: number n is value[first[n] + j] at feature[where[n] + j], j < terms[n].

    Attributes:
        first: (N,) int64.
        where: (N,) int64, all 0 where every sample has every feature.
        terms: (N,) int64.
        feature: uint16 or uint32.
        value: uint8, float32 or x's dtype, the least that holds them all: what is read sets the pace.
    """

    first: Array
    where: Array
    terms: Array
    feature: Array
    value: Array


def compiled(function: Any, parallel: bool = False) -> Any:
    """The function compiled, and kept for the next process where there is a folder that can be written."""
    try:
        return njit(nogil=True, parallel=parallel, cache=True)(function)
    except RuntimeError:  # numba found none
        return njit(nogil=True, parallel=parallel)(function)


def compiled_in_parallel(function: Any) -> Any:
    """The same, its ``prange`` shared out among numba's threads."""
    return compiled(function, parallel=True)


def without_zeros(x: Array) -> Rows:
    """Samples, (N, I), without their zeros, so that a value and its feature stand at the same place."""
    terms = np.empty(len(x), np.int64)
    count(x, terms)
    first = np.cumsum(terms) - terms
    feature, value = np.empty(terms.sum() + 1, _kind(x.shape[1])), np.zeros(terms.sum() + 1, x.dtype)
    gather(x, first, feature, value)
    return Rows(first, first, terms, feature, value)


def _kind(n_features: int) -> Any:
    """The least type of a feature's number."""
    return np.uint16 if n_features <= 1 << 16 else np.uint32


def to_lanes(tensor: Tensor, width: int) -> Tensor:
    """(K, I) as (parts, I, P), or (K,) as (parts P,); what is left over of the last P is 0."""
    padded = tensor.new_zeros(-(-len(tensor) // width) * width, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    return padded if tensor.ndim == 1 else padded.view(-1, width, padded.shape[1]).transpose(1, 2).contiguous()


def from_lanes(tensor: Tensor, n_units: int) -> Tensor:
    """The reverse."""
    return (tensor if tensor.ndim == 1 else tensor.transpose(1, 2).flatten(0, 1))[:n_units]


@compiled
def count(x: Array, terms: Array) -> None:
    """How many features of each sample are not 0, (N,)."""
    for n in range(x.shape[0]):
        nonzero = 0
        for i in range(x.shape[1]):
            nonzero += x[n, i] != 0
        terms[n] = nonzero


@compiled
def gather(x: Array, first: Array, feature: Array, value: Array) -> None:
    """Put what is not 0 of sample n from first[n] on; the buffers have one entry to spare."""
    for n in range(x.shape[0]):
        j = first[n]
        for i in range(x.shape[1]):
            value[j] = x[n, i]
            feature[j] = i
            j += x[n, i] != 0
