"""Epochs at speed: data that stay on the device, buffers that are reused, and steps in place."""

from nnlab.engine.mlp import MLPEngine
from nnlab.engine.perceptron import PerceptronEngine, rounding_bound
from nnlab.engine.updates import Adam, Descent, Masks, NotFiniteError, Run, Support, Update, supports, update_of

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
