"""scikit-learn estimators over the hand-written networks."""

from nnlab.estimators.adaline import Adaline
from nnlab.estimators.neural_net_mlp import NeuralNetMLP
from nnlab.estimators.neural_net_regressor import NeuralNetRegressor
from nnlab.estimators.perceptron import Perceptron

__all__ = ["Adaline", "NeuralNetMLP", "NeuralNetRegressor", "Perceptron"]
