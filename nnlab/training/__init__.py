"""Lightning modules, data modules, callbacks and optimizers."""

from nnlab.training.callbacks import BestAndLast, KeepOnInterrupt, LearningCurve
from nnlab.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from nnlab.training.datamodule import MNISTDataModule
from nnlab.training.export import DifferenceError, Export, export_model
from nnlab.training.mlp import LitMLP
from nnlab.training.perceptron import LitPerceptron, PerceptronRule

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
    "export_model",
    "read_checkpoint",
]
