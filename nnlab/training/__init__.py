"""Lightning modules, data modules, callbacks and optimizers, and the predictions for pictures."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnlab.training.callbacks import AtomicCheckpointIO, BestAndLast, KeepOnInterrupt, LearningCurve
    from nnlab.training.checkpoints import read_checkpoint
    from nnlab.training.datamodule import MNISTDataModule
    from nnlab.training.export import DifferenceError, Export, export_model
    from nnlab.training.mlp import LitMLP
    from nnlab.training.perceptron import LitPerceptron, PerceptronRule
    from nnlab.training.pictures import PicturePrediction, predict_pictures

__all__ = [
    "AtomicCheckpointIO",
    "BestAndLast",
    "DifferenceError",
    "Export",
    "KeepOnInterrupt",
    "LearningCurve",
    "LitMLP",
    "LitPerceptron",
    "MNISTDataModule",
    "PerceptronRule",
    "PicturePrediction",
    "export_model",
    "predict_pictures",
    "read_checkpoint",
]

_MODULES = {
    "callbacks": ("AtomicCheckpointIO", "BestAndLast", "KeepOnInterrupt", "LearningCurve"),
    "checkpoints": ("read_checkpoint",),
    "datamodule": ("MNISTDataModule",),
    "export": ("DifferenceError", "Export", "export_model"),
    "mlp": ("LitMLP",),
    "perceptron": ("LitPerceptron", "PerceptronRule"),
    "pictures": ("PicturePrediction", "predict_pictures"),
}

if not TYPE_CHECKING:  # or a type checker would take every name for one of these

    def __getattr__(name: str) -> object:
        """Import what is first asked for: Lightning takes seconds, and pictures are predicted without it."""
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"nnlab.training.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
