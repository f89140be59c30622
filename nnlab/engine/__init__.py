"""Epochs at speed: data that stay on the device, buffers that are reused, and steps in place."""

from nnlab.engine.descent import Descent
from nnlab.engine.mlp import MLPEngine, Run
from nnlab.engine.perceptron import PerceptronEngine
from nnlab.engine.perceptron_block import perceptron_rule_blocked

__all__ = ["Descent", "MLPEngine", "PerceptronEngine", "Run", "perceptron_rule_blocked"]
