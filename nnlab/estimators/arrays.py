"""Where arrays come from and go back to: NumPy in, NumPy out; torch in, torch out on the same device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnlab.validation import resolve_device

Array = NDArray[Any] | Tensor


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
