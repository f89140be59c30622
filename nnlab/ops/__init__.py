"""The mathematics: pure functions on tensors, each ``x_forward`` directly above its ``x_backward``."""

from nnlab.ops.activations import (
    ACTIVATIONS,
    Activation,
    identity_backward,
    identity_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    tanh_backward,
    tanh_forward,
)
from nnlab.ops.linear import linear_backward, linear_backward_input, linear_backward_parameters, linear_forward
from nnlab.ops.losses import (
    LOSSES,
    Loss,
    binary_cross_entropy_backward,
    binary_cross_entropy_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    sum_of_squares_backward,
    sum_of_squares_forward,
)
from nnlab.ops.penalties import l2_penalty_backward, l2_penalty_forward
from nnlab.ops.perceptron import (
    bipolar_step,
    perceptron_loss_backward,
    perceptron_loss_forward,
    perceptron_net_input,
    perceptron_predict,
    perceptron_rule,
    step,
)
from nnlab.ops.perceptron_block import perceptron_rule_blocked
from nnlab.ops.perceptron_sample import StepFunction
from nnlab.ops.reduction import Reduction
from nnlab.ops.updates import gradient_descent, gradient_descent_

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "Activation",
    "Loss",
    "Reduction",
    "StepFunction",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "bipolar_step",
    "gradient_descent",
    "gradient_descent_",
    "identity_backward",
    "identity_forward",
    "l2_penalty_backward",
    "l2_penalty_forward",
    "linear_backward",
    "linear_backward_input",
    "linear_backward_parameters",
    "linear_forward",
    "perceptron_loss_backward",
    "perceptron_loss_forward",
    "perceptron_net_input",
    "perceptron_predict",
    "perceptron_rule",
    "perceptron_rule_blocked",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "step",
    "sum_of_squares_backward",
    "sum_of_squares_forward",
    "tanh_backward",
    "tanh_forward",
]
