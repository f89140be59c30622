"""Checks of arguments, the shapes of tensors as types, and ``@op``, which checks tensors against those types.

Every error is one sentence that names the argument, what is expected and what came.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections.abc import Callable, Collection, Iterable
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any, dict[str, Any]], None]
"""A check of one argument: its name, its value, and all arguments of the call by name."""


class ArgumentError(ValueError):
    """An argument that cannot be used; ``argument`` is its name, so that a command can name the flag to change."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument, self.problem = argument, problem

    def __reduce__(self) -> tuple[type[ArgumentError], tuple[str, str]]:
        """Pickle both arguments, so that the error can be raised in another process."""
        return type(self), (self.argument, self.problem)


# ---- tensors ---------------------------------------------------------------------------------------------------------


def check_tensors(**arguments: tuple[Tensor, str]) -> None:
    """Check that floating-point tensors have one dtype, one device, and shapes written in dimension letters.

    A letter takes its size where it first occurs and must have it everywhere after; ``"..."`` stands for one
    whole shape, which must be the same wherever it occurs; ``""`` is a scalar.

    >>> check_tensors(x=(torch.zeros(5, 3), "N I"), weight=(torch.zeros(2, 4), "O I"))
    Traceback (most recent call last):
    nnlab.validation.ArgumentError: weight must have shape (O, I) with I = 3 as in x, got (2, 4)

    Args:
        arguments: name = (tensor, shape), in the order in which letters take their sizes.

    Raises:
        ArgumentError: a value is no tensor, is not floating point, or differs in dtype, device or shape.
    """
    _check_tensors([(name, tensor, tuple(shape.split())) for name, (tensor, shape) in arguments.items()])


def _check_tensors(arguments: list[tuple[str, Any, tuple[str, ...]]]) -> None:
    sizes: dict[str, object] = {}
    dtype = device = None
    for name, tensor, letters in arguments:
        if not isinstance(tensor, Tensor):
            raise ArgumentError(name, f"must be a torch.Tensor, got {type(tensor).__name__}")
        if dtype is None:
            dtype, device = tensor.dtype, tensor.device
            if not tensor.is_floating_point():
                raise ArgumentError(name, f"must be a floating-point tensor, got {_dtype(tensor)}")
        elif tensor.dtype != dtype:
            first, like, _ = arguments[0]
            raise ArgumentError(name, f"must have the dtype of {first}, {_dtype(like)}, got {_dtype(tensor)}")
        elif tensor.device != device:
            raise ArgumentError(name, f"must be on the device of {arguments[0][0]}, {device}, got {tensor.device}")
        shape = tensor.shape
        actual: tuple[object, ...] = (shape,) if letters == ("...",) else shape
        if len(letters) != len(actual):
            raise ArgumentError(name, _shape_problem(name, arguments))
        for letter, size in zip(letters, actual):  # noqa: B905 - of equal lengths; ``strict`` takes 0.1 µs
            if sizes.setdefault(letter, size) != size:
                raise ArgumentError(name, _shape_problem(name, arguments))


def _shape_problem(name: str, arguments: list[tuple[str, Any, tuple[str, ...]]]) -> str:
    known: dict[str, tuple[Any, str]] = {}  # letter: its size, and the argument that set it
    for source, tensor, letters in arguments:
        if source == name:
            break
        for letter, size in zip(letters, (tensor.shape,) if letters == ("...",) else tensor.shape, strict=True):
            known.setdefault(letter, (size, source))
    actual = tuple(tensor.shape)
    if letters == ("...",):
        size, source = known["..."]
        return f"must have the shape of {source}, {tuple(size)}, got {actual}"
    bound = " and ".join(f"{k} = {known[k][0]} as in {known[k][1]}" for k in dict.fromkeys(letters) if k in known)
    expected = "(" + ", ".join(letters) + ("," if len(letters) == 1 else "") + ")"
    return f"must have shape {expected}{' with ' if bound else ''}{bound}, got {actual}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _readable(tensor: Tensor) -> Tensor | None:
    """A tensor whose values can be read at no cost; None on another device than a CPU, and where there are none.

    Inside ``torch.func.vmap`` it has the values of all samples, for checks only.
    """
    tensor = torch.func.debug_unwrap(tensor)
    return tensor if tensor.device.type == "cpu" and tensor.numel() else None


def check_labels(target: Tensor, like: Tensor, n_classes: int, name: str = "target", everywhere: bool = False) -> None:
    """Check that class labels are int64, (N,), from 0 to K − 1, N and device being those of ``like``, (N, …).

    Values are read on a CPU only, unless ``everywhere``: reading them on another device would wait for its stream, and
    the gather of a loss fails there by itself.

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
    values = target if everywhere and target.numel() else _readable(target)
    if values is not None:
        low, high = (int(v) for v in torch.aminmax(values))
        if low < 0 or high >= n_classes:
            raise ArgumentError(name, f"must hold labels from 0 to {n_classes - 1}, got {low if low < 0 else high}")


def check_sample_weight(sample_weight: Tensor, name: str = "sample_weight") -> None:
    """Check that sample weights are finite, not negative, and not all zero (on a CPU only, as for labels).

    Raises:
        ArgumentError: naming the argument.
    """
    values = _readable(sample_weight)
    if values is not None:
        low, high = torch.aminmax(values)
        if not (low >= 0 and torch.isfinite(high)):
            raise ArgumentError(name, "must be finite and not negative")
        if high == 0:
            raise ArgumentError(name, "must not be zero for every sample")


class Between(NamedTuple):
    """A check that every entry of a tensor lies between two numbers (on a CPU only, as for labels)."""

    low: float
    high: float

    def __call__(self, name: str, tensor: Tensor, arguments: dict[str, Any]) -> None:
        """Raise an ArgumentError for an entry outside, or NaN."""
        values = _readable(tensor)
        if values is not None:
            least, most = torch.aminmax(values)
            if not (least >= self.low and most <= self.high):
                raise ArgumentError(name, f"must hold values from {self.low} to {self.high}, got {least:g} to {most:g}")


def check_values(name: str, tensor: Tensor, allowed: Tensor) -> None:
    """Check that every entry of a tensor is one of the allowed values (on a CPU only, as for labels).

    Raises:
        ArgumentError: an entry is another value.
    """
    values = _readable(tensor)
    if values is not None:
        other = values[~torch.isin(values, torch.func.debug_unwrap(allowed))]
        if len(other):
            named = " and ".join(f"{v:g}" for v in allowed.tolist())
            raise ArgumentError(name, f"must hold {named} alone, got {other[0]:g}")


# ---- other values ----------------------------------------------------------------------------------------------------


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Check that ``value`` is one of ``choices``.

    Raises:
        ArgumentError: naming the argument and every choice.
    """
    if value not in tuple(choices):
        raise ArgumentError(name, f"must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_at_least(name: str, value: object, minimum: int) -> None:
    """Check that ``value`` is a whole number of at least ``minimum``.

    Raises:
        ArgumentError: not an int, or below the minimum.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ArgumentError(name, f"must be a whole number of at least {minimum}, got {value!r}")


def _is_finite(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def check_positive(name: str, value: float) -> None:
    """Check that ``value`` is a finite number greater than zero.

    Raises:
        ArgumentError: no number, zero, negative, NaN or infinite.
    """
    if not (_is_finite(value) and value > 0):
        raise ArgumentError(name, f"must be a number greater than 0, got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Check that ``value`` is a finite number of at least zero.

    Raises:
        ArgumentError: no number, negative, NaN or infinite.
    """
    if not (_is_finite(value) and value >= 0):
        raise ArgumentError(name, f"must be a number of at least 0, got {value!r}")


def resolve_device(name: str) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one, else the CPU.

    Raises:
        ArgumentError: not a device of torch's, one that nnlab does not run on, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError("device", f"must be 'auto' or a device as torch names it, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ArgumentError("device", f"must be 'cpu', 'cuda' or 'auto', got {name!r}: nnlab runs on no other device")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError("device", f"must be 'cpu' or 'auto' where torch finds no CUDA device, got {name!r}")
    return device


# ---- shapes as types: N samples, I inputs, O outputs of a layer, K outputs of the network ----------------------------

Scalar = Annotated[Tensor, ""]
N = Annotated[Tensor, "N"]
O = Annotated[Tensor, "O"]  # noqa: E741 - the letter of the shape
K = Annotated[Tensor, "K"]
NI = Annotated[Tensor, "N I"]
NO = Annotated[Tensor, "N O"]
NK = Annotated[Tensor, "N K"]
OI = Annotated[Tensor, "O I"]
KI = Annotated[Tensor, "K I"]
AnyShape = Annotated[Tensor, "..."]
Labels = Annotated[
    Tensor, lambda name, t, arguments: check_labels(t, arguments["logits"], arguments["logits"].shape[1])
]
SampleWeight = Annotated[Tensor, "N", lambda name, weight, arguments: check_sample_weight(weight, name)]
Positive = Annotated[float, lambda name, value, arguments: check_positive(name, value)]
NotNegative = Annotated[float, lambda name, value, arguments: check_not_negative(name, value)]


# ---- the decorator ---------------------------------------------------------------------------------------------------


class _Call(threading.local):
    inside = False


_call = _Call()


def op(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of each outermost call against the annotations (4 µs for three tensors).

    An annotation is ``Annotated[Tensor, "N I"]``, a shape in dimension letters as in ``check_tensors``, with further
    checks after it, ``check(name, value, arguments)``; or ``Literal[…]``, the allowed values. Under ``torch.compile``
    and ``torch.export``, which could not follow them, the checks are left out.

    Raises:
        ArgumentError: at a call, for the first argument that does not fit.
    """
    parameters = inspect.signature(function).parameters
    names = tuple(parameters)
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    hints = get_type_hints(function, include_extras=True)
    shapes, checks = _declared(names, hints)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or _call.inside:
            return function(*args, **kwargs)
        arguments = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}  # too many: the call raises
        _call.inside = True
        try:
            _check_tensors(
                [
                    (name, arguments[name], letters)
                    for name, letters, optional in shapes
                    if name in arguments and not (optional and arguments[name] is None)
                ]
            )
            for name, check, optional in checks:
                if name in arguments and not (optional and arguments[name] is None):
                    check(name, arguments[name], arguments)
            return function(*args, **kwargs)
        finally:
            _call.inside = False

    return checked


def _check_literal(choices: tuple[str, ...], name: str, value: str, arguments: dict[str, Any]) -> None:
    check_choice(name, value, choices)


def _declared(
    names: Iterable[str], hints: dict[str, Any]
) -> tuple[list[tuple[str, tuple[str, ...], bool]], list[tuple[str, Check, bool]]]:
    """The shapes and the further checks that a signature declares, with whether None is allowed."""
    shapes: list[tuple[str, tuple[str, ...], bool]] = []
    checks: list[tuple[str, Check, bool]] = []
    for name in names:
        hint, optional = hints[name], False
        if type(None) in get_args(hint):
            (hint,), optional = [part for part in get_args(hint) if part is not type(None)], True
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            checks.append((name, functools.partial(_check_literal, choices), optional))
        for part in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
            if isinstance(part, str):
                shapes.append((name, tuple(part.split()), optional))
            else:
                checks.append((name, part, optional))
    return shapes, checks
