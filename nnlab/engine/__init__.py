"""Epochs at speed: data that stay on the device, buffers that are reused, and steps in place."""

from nnlab.engine.descent import Descent
from nnlab.engine.mlp import MLPEngine, Run
from nnlab.engine.perceptron import PerceptronEngine, rounding_bound

__all__ = ["Descent", "MLPEngine", "PerceptronEngine", "Run", "rounding_bound"]
