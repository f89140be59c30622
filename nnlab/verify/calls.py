"""Calling a user's functions: whatever they do, the answer is a value or a ``CallError`` of one line."""

import inspect
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Inputs = tuple[Any, ...]
_OWN = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))  # their lines teach a user nothing


class CallError(Exception):
    """A user's function raised, or returned what cannot be used; ``fault`` is the catalogue's id."""

    def __init__(self, fault: str, words: str) -> None:
        super().__init__(words)
        self.fault = fault


class Claim(NamedTuple):
    """What a user's ``backward`` returned, and the names of the arguments it changed in place."""

    gradients: tuple[Tensor | None, ...]
    changed: tuple[str, ...]


def is_real(value: object) -> bool:
    """Whether a value is a floating-point tensor or array: what can be differentiated."""
    if isinstance(value, Tensor):
        return value.is_floating_point()
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


class Pair:
    """A user's forward and backward, called with fresh copies of tensors, or of arrays where arrays were given."""

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        inputs: Sequence[Any],
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.function, self._backward = forward, backward
        self._arrays = tuple(isinstance(value, np.ndarray) for value in inputs)
        self._array_output = False
        self.names = names or names_of(forward, len(inputs))

    @property
    def uses_arrays(self) -> bool:
        """Whether the functions take NumPy arrays, which autograd cannot follow."""
        return any(self._arrays)

    def forward(self, inputs: Inputs) -> Tensor:
        """``forward(*inputs)`` as a floating-point tensor.

        Raises:
            CallError: it raised, or returned something else.
        """
        value = _call("forward", self.function, self._given(inputs))
        self._array_output = not isinstance(value, Tensor)
        if isinstance(value, int | float | np.ndarray | np.generic):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor):
            raise CallError("forward", f"forward must return one tensor, got {_kind(value)}")
        if not value.is_floating_point():
            raise CallError("forward", f"forward must return a floating-point tensor, got {value.dtype}")
        return value

    def claim(self, grad_output: Tensor, inputs: Inputs) -> Claim:
        """``backward(grad_output, *inputs)`` as one tensor or None per input.

        Raises:
            CallError: it raised, or returned something else.
        """
        first = grad_output.numpy(force=True).copy() if self._array_output else grad_output.clone()
        given = self._given(inputs)
        value = _call("backward", self._backward, (first, *given))
        pairs = zip(("grad_output", *self.names), (first, *given), (grad_output, *inputs), strict=True)
        changed = tuple(name for name, now, before in pairs if not _same(now, before))
        return Claim(self._gradients(value), changed)

    def _given(self, inputs: Inputs) -> Inputs:
        return tuple(
            value.numpy(force=True).copy()
            if array and isinstance(value, Tensor)
            else value.clone()
            if isinstance(value, Tensor)
            else value
            for array, value in zip(self._arrays, inputs, strict=True)
        )

    def _gradients(self, value: Any) -> tuple[Tensor | None, ...]:
        n = len(self.names)
        if isinstance(value, Tensor | np.ndarray | np.generic | float) and n == 1:
            value = (value,)
        if not isinstance(value, tuple | list):
            raise CallError("count", f"backward must return a tuple of {n} gradients, got {_kind(value)}")
        if len(value) != n:
            raise CallError("count", f"backward must return {n} gradients, one per input, got {len(value)}")
        gradients: list[Tensor | None] = []
        for name, one in zip(self.names, value, strict=True):
            if isinstance(one, np.ndarray | np.generic | float):
                one = torch.as_tensor(one)  # noqa: PLW2901
            if one is not None and not (isinstance(one, Tensor) and one.is_floating_point()):
                what = str(one.dtype) if isinstance(one, Tensor) else _kind(one)
                raise CallError("count", f"grad_{name} must be a floating-point tensor or None, got {what}")
            gradients.append(None if one is None else one.detach())
        return tuple(gradients)


def names_of(function: Callable[..., Any], n: int) -> tuple[str, ...]:
    """The names of a function's first n parameters, or their numbers where it does not say."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = [p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}][:n]
    return (*plain, *(f"input_{i + 1}" for i in range(len(plain), n)))


def where_raised(error: BaseException) -> str:
    """The deepest line outside of torch and this package, as " at line 3 of a.py (`z = 1 / 0`)", or nothing."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_OWN)]
    frames = [f for f in frames if not f.filename.startswith("<")] or frames
    if not frames:
        return ""
    code = f" (`{frames[-1].line}`)" if frames[-1].line else ""
    return f" at line {frames[-1].lineno} of {Path(frames[-1].filename).name}{code}"


def _call(which: str, function: Callable[..., Any], arguments: Inputs) -> Any:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return function(*arguments)
    except CallError:
        raise
    except (Exception, SystemExit) as error:
        first_line = next(iter(str(error).splitlines()), "")
        fault = "raises" if which == "backward" else "forward"
        words = f"{which} raised {type(error).__name__}{where_raised(error)}: {first_line}".rstrip(": ")
        raise CallError(fault, words) from error


def _same(now: Any, before: Any) -> bool:
    if not isinstance(before, Tensor):
        return True
    now = torch.as_tensor(now)
    return bool(now.shape == before.shape and torch.equal(now.nan_to_num(), before.nan_to_num().to(now)))


def _kind(value: object) -> str:
    return f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__
