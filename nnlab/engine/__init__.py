"""Epochs at speed: data that stay on the device, buffers that are reused, and steps in place."""

from nnlab.engine.mlp import Adam, Descent, Masks, MLPEngine, NotFiniteError, Run, Support, Update, supports, update_of
from nnlab.engine.perceptron import PerceptronEngine, rounding_bound

__all__ = [
    "Adam",
    "Descent",
    "MLPEngine",
    "Masks",
    "NotFiniteError",
    "PerceptronEngine",
    "Run",
    "Support",
    "Update",
    "rounding_bound",
    "supports",
    "update_of",
]
