"""The grade of one function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Call = Callable[..., list[Array]]
"""Calls a function of the learner's, by name; its results are always a list."""


class Grade(NamedTuple):
    """The answer for one function: whether it is right, in a sentence, and what is wrong."""

    function: str
    ok: bool
    words: str
    line: int | None = None
    fault: str = ""
