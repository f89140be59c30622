"""The perceptron and the multi-layer perceptron with hand-written, tested gradients, in PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING

from nnlab.versions import __version__, show_versions

if TYPE_CHECKING:
    from nnlab import autograd as autograd
    from nnlab import data as data
    from nnlab import displays as displays
    from nnlab import engine as engine
    from nnlab import estimators as estimators
    from nnlab import networks as networks
    from nnlab import ops as ops
    from nnlab import trace as trace
    from nnlab import training as training
    from nnlab import verify as verify
    from nnlab.estimators import Adaline, NeuralNetMLP, NeuralNetRegressor, Perceptron

__all__ = ["Adaline", "NeuralNetMLP", "NeuralNetRegressor", "Perceptron", "__version__", "show_versions"]

_ESTIMATORS = ("Adaline", "NeuralNetMLP", "NeuralNetRegressor", "Perceptron")
_SUBMODULES = (
    *("autograd", "data", "displays", "engine", "estimators", "networks", "ops", "trace", "training", "verify"),
)


if not TYPE_CHECKING:  # or a type checker would take every name for one of these

    def __getattr__(name: str) -> object:
        """Import what is first asked for: torch, scikit-learn and Lightning take seconds."""
        if name in _ESTIMATORS:
            return getattr(import_module("nnlab.estimators"), name)
        if name in _SUBMODULES:
            return import_module(f"nnlab.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
