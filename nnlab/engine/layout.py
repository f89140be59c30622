"""How compiled loops have their numbers: samples without their zeros, and units side by side."""

from __future__ import annotations

import math
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


class Known(NamedTuple):
    """What the perceptron's rule knows of each sample.

    Attributes:
        length: ‖[1, x]‖, (N,) float64.
        wanted: the unit that it is to excite, (N,) int64; −1 for none.
    """

    length: Array
    wanted: Array


class Units(NamedTuple):
    """The state of the units, P at a time, side by side.

    Attributes:
        weight: (parts, I, P).
        bias: one number for each unit, (parts P,).
        weight_lag: Σₛ s Δₛ of the weights.
        bias_lag: of the biases.
        norm: at least ‖[w, −θ]‖, float64.
    """

    weight: Array
    bias: Array
    weight_lag: Array
    bias_lag: Array
    norm: Array


class Limits(NamedTuple):
    """What x's dtype can hold: ε, the least normal number, the sum and the norms within which rounding is as said."""

    eps: float
    tiny: float
    most: float
    shortest: float
    longest: float


def compiled(function: Any, parallel: bool = False) -> Any:
    """The function compiled, and kept for the next process where there is a folder that can be written."""
    try:
        return njit(nogil=True, parallel=parallel, cache=True)(function)
    except RuntimeError:  # numba found none
        return njit(nogil=True, parallel=parallel)(function)


def compiled_in_parallel(function: Any) -> Any:
    """The same, its ``prange`` shared out among numba's threads."""
    return compiled(function, parallel=True)


def rows_of(x: Array) -> Rows:
    """Samples, (N, I), without their zeros where these are half of all numbers or more."""
    if 2 * np.count_nonzero(x) <= x.size:
        return without_zeros(x)
    n, n_features = x.shape
    return Rows(
        np.arange(n) * n_features,
        np.zeros(n, np.int64),
        np.full(n, n_features),
        np.arange(n_features, dtype=_kind(n_features)),
        x.ravel(),
    )


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


def narrow(value: Array) -> Array:
    """The same numbers in the least type that holds them."""
    for kind in (np.uint8, np.float32):
        with np.errstate(invalid="ignore", over="ignore"):
            narrower = value.astype(kind)
        if np.array_equal(narrower, value):
            return narrower
    return value


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
def measure(x: Array, length: Array) -> None:
    """‖[1, x]‖ of each sample, (N,)."""
    for n in range(x.shape[0]):
        square = 1.0
        for i in range(x.shape[1]):
            square += np.float64(x[n, i]) * np.float64(x[n, i])
        length[n] = math.sqrt(square)


@compiled
def gather(x: Array, first: Array, feature: Array, value: Array) -> None:
    """Put what is not 0 of sample n from first[n] on; the buffers have one entry to spare."""
    for n in range(x.shape[0]):
        j = first[n]
        for i in range(x.shape[1]):
            value[j] = x[n, i]
            feature[j] = i
            j += x[n, i] != 0
