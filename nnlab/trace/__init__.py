"""``nnlab trace``: every number of a small network's forward and backward pass, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nnlab.trace.command import main

if TYPE_CHECKING:
    from nnlab.trace.network import NetworkTrace
    from nnlab.trace.perceptron import PerceptronTrace

__all__ = ["main", "trace"]


def trace(source: str | os.PathLike[str] | Mapping[str, Any], *, digits: int = 4) -> NetworkTrace | PerceptronTrace:
    """Trace a small network or, where there is a ``threshold``, a perceptron.

    What is returned holds the numbers as tensors in float64. It prints as the command's tables, also in a notebook.

    >>> found = trace({"weights": [[[0.5], [2]]], "inputs": [3], "targets": [1]})
    >>> found.y, found.delta
    (tensor([[6.5000]], dtype=torch.float64), [tensor([[5.5000]], dtype=torch.float64)])
    >>> found.rows[0].symbol, found.rows[0].origin
    ('u₁⁽¹⁾', '0.5·1 + 2·3')

    Args:
        source: the name of an example, such as "chapter"; the path of a YAML file; or a mapping with the keys of such a
            file, which ``nnlab trace --help`` lists. Numbers may be lists, NumPy arrays or tensors.
        digits: significant digits in tables and origins.

    Raises:
        ValueError: what is in the file is not YAML, or a key is unknown, missing, or has a value that cannot be used.
            For a mapping this is an ArgumentError that names the key.
    """
    # torch takes seconds to import, and the command answers --help without it
    from nnlab.trace.description import Network  # noqa: PLC0415
    from nnlab.trace.network import NetworkTrace  # noqa: PLC0415
    from nnlab.trace.perceptron import PerceptronTrace  # noqa: PLC0415
    from nnlab.trace.reading import load, read  # noqa: PLC0415
    from nnlab.trace.tables import Writer  # noqa: PLC0415

    write = Writer(digits)
    content = source if isinstance(source, Mapping) else load(source)
    try:
        given = read(content)
        return NetworkTrace(given, write) if isinstance(given, Network) else PerceptronTrace(given, write)
    except ValueError as error:
        if isinstance(source, Mapping):
            raise
        raise ValueError(f"{source}: {error}") from error
