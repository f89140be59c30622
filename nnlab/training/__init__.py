"""Lightning modules, data modules, callbacks and optimizers."""

from nnlab.training.callbacks import BestAndLast, KeepOnInterrupt, LearningCurve
from nnlab.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from nnlab.training.datamodule import MNISTDataModule
from nnlab.training.mlp import LitMLP
from nnlab.training.perceptron import LitPerceptron, PerceptronRule

__all__ = [
    "AtomicCheckpointIO",
    "BestAndLast",
    "KeepOnInterrupt",
    "LearningCurve",
    "LitMLP",
    "LitPerceptron",
    "MNISTDataModule",
    "PerceptronRule",
    "read_checkpoint",
]
