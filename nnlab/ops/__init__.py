"""The mathematics: pure functions on tensors, each ``x_forward`` directly above its ``x_backward``."""

from nnlab.ops.activations import *
from nnlab.ops.linear import *
from nnlab.ops.losses import *
from nnlab.ops.perceptron import *

# fmt: off
__all__ = [
    "ACTIVATIONS", "LOSSES", "Activation", "Loss", "Reduction", "StepFunction",
    "binary_cross_entropy_backward", "binary_cross_entropy_forward", "bipolar_step",
    "dropout_backward", "dropout_forward",
    "gelu_backward", "gelu_forward", "gradient_descent",
    "identity_backward", "identity_forward",
    "l2_penalty_backward", "l2_penalty_forward",
    "leaky_relu_backward", "leaky_relu_forward",
    "linear_backward", "linear_backward_parameters", "linear_forward",
    "perceptron_loss_backward", "perceptron_loss_forward", "perceptron_predict", "perceptron_rule",
    "relu_backward", "relu_forward",
    "sigmoid_backward", "sigmoid_forward",
    "softmax_cross_entropy_backward", "softmax_cross_entropy_forward", "step",
    "sum_of_squares_backward", "sum_of_squares_forward",
    "tanh_backward", "tanh_forward",
]
# fmt: on
