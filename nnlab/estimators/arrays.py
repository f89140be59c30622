"""Where arrays come from and go back to: NumPy in, NumPy out; torch in, torch out on the same device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_consistent_length, validate_data
from torch import Tensor

from nnlab.validation import resolve_device

Array = NDArray[Any] | Tensor

FLOATS = [np.float64, np.float32]


def to_host(value: Any) -> Any:
    """A torch tensor as a NumPy array for scikit-learn's validation, without a copy on the CPU; all else as it is.

    float16 and bfloat16 become float64, as every dtype but float32 does.
    """
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    if value.is_floating_point() and value.dtype != torch.float32:
        value = value.double()
    return value.cpu().numpy()


def validate_samples(estimator: Any, X: Any, *, reset: bool) -> Array:
    """X past scikit-learn's validation, as float32 or float64; a tensor on CUDA is checked and stays there."""
    if _fit_to_stay(X):
        x: Tensor = validate_data(estimator, X.detach(), skip_check_array=True, reset=reset)  # its width
        return x if x.dtype == torch.float32 else x.double()
    found: NDArray[Any] = validate_data(estimator, to_host(X), dtype=FLOATS, reset=reset)
    return found


def validate_training(estimator: Any, X: Any, y: Any, *, reset: bool, **of_target: bool) -> tuple[Array, NDArray[Any]]:
    """X as ``validate_samples`` gives it, and the target y on the CPU, past scikit-learn's validation."""
    if _fit_to_stay(X):
        y = validate_data(estimator, y=to_host(y), **of_target)
        check_consistent_length(X, y)
        return validate_samples(estimator, X, reset=reset), y
    X, y = validate_data(estimator, to_host(X), to_host(y), dtype=FLOATS, reset=reset, **of_target)
    return X, y


def _fit_to_stay(X: Any) -> bool:
    """Whether X is on CUDA and has nothing that scikit-learn would complain of; the host waits once.

    Where it has, the validation on the CPU says so, in scikit-learn's own words.
    """
    if not (isinstance(X, Tensor) and X.is_cuda and X.ndim == 2 and X.numel() and not X.is_complex()):
        return False
    return bool(X.sum(dtype=torch.float64).isfinite())  # a NaN or an infinity stays in a sum, at no memory


def numpy_dtype(X: Array) -> type[np.floating[Any]]:
    """The dtype of validated samples."""
    return np.float32 if X.dtype in (np.float32, torch.float32) else np.float64


def numbers(scalars: Sequence[Tensor]) -> list[float]:
    """The values of scalars on one device, for which the host waits once."""
    values: list[float] = torch.stack([scalar.double() for scalar in scalars]).tolist()
    return values


@dataclass(frozen=True)
class Place:
    """Where the arithmetic is done, and where its results belong.

    Attributes:
        device: where it is done.
        home: the device to which results go as tensors; None for NumPy.
    """

    device: torch.device
    home: torch.device | None

    @classmethod
    def of(cls, X: Any, device: str) -> Place:
        """The place for the data X: the named device, but a tensor on an accelerator is computed where it is.

        Raises:
            ArgumentError: naming ``device``, which torch does not have.
        """
        named = resolve_device(device)
        if isinstance(X, Tensor):
            return cls(named if X.device.type == "cpu" else X.device, X.device)
        return cls(named, None)

    def tensor(self, array: Array, dtype: torch.dtype | None = None) -> Tensor:
        """An array as a contiguous tensor where the arithmetic is done; shares memory with it where it can."""
        if isinstance(array, np.ndarray):  # torch takes no read-only memory, such as joblib's memory maps
            array = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return array.to(self.device, dtype).contiguous()

    def give(self, tensor: Tensor) -> Array:
        """A result as what the data were."""
        return tensor.cpu().numpy() if self.home is None else tensor.to(self.home)

    def give_labels(self, classes: NDArray[Any], index: Tensor) -> Array:
        """The labels of class numbers: a tensor for data in a tensor, unless the labels are no numbers."""
        labels: NDArray[Any] = classes[index.cpu().numpy()]
        if self.home is None or labels.dtype.kind not in "biuf":
            return labels
        return torch.from_numpy(labels).to(self.home)
