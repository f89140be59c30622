"""The one place that raises for shapes, dtypes, devices, labels and ranges.

Every error is one sentence that names the argument, what is expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real

import torch
from torch import Tensor


class ArgumentError(ValueError):
    """An argument that cannot be used; ``argument`` is its name, so that a command can name the flag to change."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument, self._problem = argument, problem

    def __reduce__(self) -> tuple[type[ArgumentError], tuple[str, str]]:
        """To be raised in another process than the one that found it."""
        return type(self), (self.argument, self._problem)


def check_tensors(**arguments: tuple[Tensor, str]) -> None:
    """Hold floating-point tensors to one dtype, one device, and shapes written in dimension letters.

    A letter takes its size where it first occurs and must have it everywhere after; ``"..."`` stands for one
    whole shape, which must be the same wherever it occurs; ``""`` is a scalar.

    >>> check_tensors(x=(torch.zeros(5, 3), "N I"), weight=(torch.zeros(2, 4), "O I"))
    Traceback (most recent call last):
    nnlab.validation.ArgumentError: weight must have shape (O, I) with I = 3 as in x, got (2, 4)

    Args:
        arguments: name = (tensor, shape), in the order in which letters are bound.

    Raises:
        ArgumentError: a tensor is no tensor, not floating point, or differs in dtype, device or shape.
    """
    sizes: dict[str, tuple[int | torch.Size, str]] = {}  # letter -> (size, the argument that set it)
    first: tuple[str, Tensor] | None = None
    for name, (tensor, shape) in arguments.items():
        if not isinstance(tensor, Tensor):
            raise ArgumentError(name, f"must be a torch.Tensor, got {type(tensor).__name__}")
        if first is None:
            first = name, tensor
            if not tensor.is_floating_point():
                raise ArgumentError(name, f"must be a floating-point tensor, got {_dtype(tensor)}")
        elif tensor.dtype != first[1].dtype:
            raise ArgumentError(name, f"must have the dtype of {first[0]}, {_dtype(first[1])}, got {_dtype(tensor)}")
        elif tensor.device != first[1].device:
            raise ArgumentError(name, f"must be on the device of {first[0]}, {first[1].device}, got {tensor.device}")
        letters = shape.split()
        actual: tuple[int | torch.Size, ...] = (tensor.shape,) if shape == "..." else tuple(tensor.shape)
        if len(letters) != len(actual) or any(
            sizes.setdefault(k, (n, name))[0] != n for k, n in zip(letters, actual, strict=True)
        ):
            raise ArgumentError(name, _shape_problem(name, letters, tuple(tensor.shape), sizes))


def _shape_problem(
    name: str, letters: list[str], actual: tuple[int, ...], sizes: dict[str, tuple[int | torch.Size, str]]
) -> str:
    known = {k: sizes[k] for k in letters if k in sizes and sizes[k][1] != name}
    if letters == ["..."]:
        size, source = sizes["..."]
        return f"must have the shape of {source}, {_tuple(size)}, got {_tuple(actual)}"
    bound = " and ".join(f"{k} = {size} as in {source}" for k, (size, source) in known.items())
    expected = "(" + ", ".join(letters) + ("," if len(letters) == 1 else "") + ")"
    return f"must have shape {expected}{' with ' if bound else ''}{bound}, got {_tuple(actual)}"


def _tuple(shape: object) -> str:
    return str(tuple(shape)) if isinstance(shape, tuple) else str(shape)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def check_labels(target: Tensor, like: Tensor, n_classes: int, name: str = "target", everywhere: bool = False) -> None:
    """Hold class labels to int64, shape (N,), N and device being those of ``like`` (N, …), and the range 0 … K−1.

    The range is read on the CPU only, unless ``everywhere``: on CUDA it would stop the stream, and there the gather
    of a loss refuses by itself.

    Raises:
        ArgumentError: naming the argument, what came and what is expected.
    """
    if not isinstance(target, Tensor):
        raise ArgumentError(name, f"must be a torch.Tensor, got {type(target).__name__}")
    if target.dtype != torch.int64:
        raise ArgumentError(name, f"must hold class labels as int64, got {_dtype(target)}")
    if target.device != like.device:
        raise ArgumentError(name, f"must be on {like.device}, got {target.device}")
    if tuple(target.shape) != (len(like),):
        raise ArgumentError(name, f"must have shape (N,) with N = {len(like)}, got {tuple(target.shape)}")
    if (everywhere or target.device.type == "cpu") and len(target) > 0:
        low, high = (int(v) for v in torch.aminmax(target))
        if low < 0 or high >= n_classes:
            raise ArgumentError(name, f"must hold labels from 0 to {n_classes - 1}, got {low if low < 0 else high}")


def check_sample_weight(sample_weight: Tensor) -> None:
    """Refuse sample weights that are negative, not finite, or sum to zero (read on the CPU only, as labels are).

    Raises:
        ArgumentError: naming ``sample_weight``.
    """
    if sample_weight.device.type == "cpu" and sample_weight.numel() > 0:
        low, high = torch.aminmax(sample_weight)
        if not (low >= 0 and torch.isfinite(high)):
            raise ArgumentError("sample_weight", "must be finite and not negative")
        if high == 0:
            raise ArgumentError("sample_weight", "must not be zero for every sample")


def check_range(name: str, tensor: Tensor, low: float, high: float) -> None:
    """Hold every entry of a tensor to low … high (read on the CPU only, as labels are).

    Raises:
        ArgumentError: an entry is outside, or NaN.
    """
    if tensor.device.type == "cpu" and tensor.numel() > 0:
        least, most = torch.aminmax(tensor)
        if not (least >= low and most <= high):
            raise ArgumentError(name, f"must hold values from {low} to {high}, got {least:g} to {most:g}")


def check_values(name: str, tensor: Tensor, allowed: Tensor) -> None:
    """Hold every entry of a tensor to one of the allowed values (read on the CPU only, as labels are).

    Raises:
        ArgumentError: an entry is another value.
    """
    if tensor.device.type == "cpu":
        other = tensor[~torch.isin(tensor, allowed)]
        if len(other):
            values = " and ".join(f"{v:g}" for v in allowed.tolist())
            raise ArgumentError(name, f"must hold {values} alone, got {other[0]:g}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Hold ``value`` to one of ``choices``.

    Raises:
        ArgumentError: naming the argument and every choice.
    """
    if value not in tuple(choices):
        raise ArgumentError(name, f"must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_at_least(name: str, value: object, minimum: int) -> None:
    """Hold a whole number to a minimum.

    Raises:
        ArgumentError: not an int, or below the minimum.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ArgumentError(name, f"must be a whole number of at least {minimum}, got {value!r}")


def _is_finite(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def check_positive(name: str, value: float) -> None:
    """Hold a number to be finite and greater than zero.

    Raises:
        ArgumentError: no number, zero, negative, NaN or infinite.
    """
    if not (_is_finite(value) and value > 0):
        raise ArgumentError(name, f"must be a number greater than 0, got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Hold a number to be finite and at least zero.

    Raises:
        ArgumentError: no number, negative, NaN or infinite.
    """
    if not (_is_finite(value) and value >= 0):
        raise ArgumentError(name, f"must be a number of at least 0, got {value!r}")


def resolve_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one, else the CPU.

    Raises:
        ArgumentError: no device of torch's, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError("device", f"must be 'auto' or a device as torch names it, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("device", f"must be 'cpu' or 'auto' where torch finds no CUDA device, got {name!r}")
    return device
