"""Numbers, lists and matrices of a YAML file, held to their shapes; every error names the key."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nnlab.validation import ArgumentError

MOST_UNITS = 16
"""Inputs, or units of one layer, beyond which a table cannot be read."""


def read_number(key: str, value: object) -> float:
    """A finite number.

    Raises:
        ArgumentError: anything else; this and all others below name the key, what is expected and what came.
    """
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        pass
    hint = " (in YAML, write 1.0e-3, not 1e-3)" if isinstance(value, str) and "e" in value.lower() else ""
    raise ArgumentError(key, f"must hold finite numbers, got {shown(value)}{hint}")


def read_numbers(key: str, value: object, n: int | None = None) -> list[float]:
    """A list of numbers, n of them where n is given."""
    if not isinstance(value, list) or not value:
        raise ArgumentError(key, f"must be a list of numbers, got {shown(value)}")
    if n is not None and len(value) != n:
        raise ArgumentError(key, f"must have {n} numbers, got {len(value)}")
    return [read_number(key, item) for item in value]


def read_matrix(key: str, value: object) -> list[list[float]]:
    """A list of lists of numbers, of one length."""
    if not isinstance(value, list) or not value:
        raise ArgumentError(key, f"must be a list of lists of numbers, got {shown(value)}")
    rows = [read_numbers(key, row) for row in value]
    if len({len(row) for row in rows}) > 1:
        raise ArgumentError(key, f"must have rows of one length, got {[len(row) for row in rows]}")
    return rows


def read_samples(key: str, value: object, width: int, n: int | None = None) -> Tensor:
    """One sample as a list of numbers, or a list of samples: (N, width) in float64."""
    flat = isinstance(value, list) and not any(isinstance(item, list) for item in value)
    rows = [read_numbers(key, value)] if flat else read_matrix(key, value)
    if len(rows[0]) != width:
        hint = "; several samples are a list of lists" if flat else ""
        raise ArgumentError(key, f"must have {count(width, 'number')} for each sample, got {len(rows[0])}{hint}")
    if n is not None and len(rows) != n:
        raise ArgumentError(key, f"must have one list for each of the {n} samples of inputs, got {len(rows)}")
    return torch.tensor(rows, dtype=torch.float64)


def read_labels(key: str, value: object, n: int, n_classes: int) -> Tensor:
    """A list of n class labels from 0 to K − 1: (N,) in int64."""
    if not isinstance(value, list) or len(value) != n:
        raise ArgumentError(key, f"must list one class label for each sample, {n} in all, got {shown(value)}")
    for label in value:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < n_classes:
            raise ArgumentError(key, f"must hold labels from 0 to {n_classes - 1}, got {shown(label)}")
    return torch.tensor(value)


def check_small(key: str, size: int) -> None:
    """Hold a number of inputs or units to what a table can show."""
    if size > MOST_UNITS:
        raise ArgumentError(key, f"must be {MOST_UNITS} at most: trace is for a small network, got {size}")


def shown(value: object) -> str:
    """A value as an error shows it.

    >>> shown(None), shown("a")
    ('nothing', "'a'")
    """
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def either(names: Sequence[str]) -> str:
    """Names as a choice.

    >>> either(["a", "b", "c"])
    'a, b or c'
    """
    return f"{', '.join(names[:-1])} or {names[-1]}"


def count(n: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "sample"), count(2, "sample")
    ('1 sample', '2 samples')
    """
    return f"{n} {noun}" + ("" if n == 1 else "s")
