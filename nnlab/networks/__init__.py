"""Parameters and the order of operations."""

from nnlab.networks.mlp import MLP, Gradients, mlp_backward, mlp_forward
from nnlab.networks.perceptron import PerceptronBank

__all__ = ["MLP", "Gradients", "PerceptronBank", "mlp_backward", "mlp_forward"]
