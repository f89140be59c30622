"""The perceptron and the multi-layer perceptron with hand-written, proved gradients, in PyTorch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnlab.estimators import Adaline, NeuralNetMLP, NeuralNetRegressor, Perceptron

__version__ = "0.1.0"
__all__ = ["Adaline", "NeuralNetMLP", "NeuralNetRegressor", "Perceptron", "__version__"]


def __getattr__(name: str) -> object:
    """Import the estimators when one is first asked for: torch and scikit-learn take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnlab import estimators  # noqa: PLC0415 - lazy

    return getattr(estimators, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
