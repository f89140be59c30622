"""The chapter's multi-layer perceptron as a scikit-learn classifier (section 3.4)."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.multiclass import _check_partial_fit_first_call
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from nnlab.estimators.arrays import Array, Place, numbers, numpy_dtype, to_host, validate_training
from nnlab.estimators.callbacks import with_callbacks
from nnlab.estimators.epoch import Data
from nnlab.estimators.labels import LabelClassifier, encode_labels, find_classes, weigh_classes
from nnlab.estimators.neural_net import NeuralNet, one_hidden_layer
from nnlab.estimators.objective import Objective
from nnlab.ops import LOSSES
from nnlab.validation import check_choice


class NeuralNetMLP(LabelClassifier, NeuralNet):
    """The chapter's network: sigmoid units, the logistic cost, and gradient descent in mini-batches.

    With its defaults it is the chapter's class, and with a seed it follows the NumPy original's random stream: one
    ``RandomState(seed)`` per cold fit gives the weights, layer by layer, and then shuffles the samples of each epoch.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> network = NeuralNetMLP(n_hidden=10, eta=0.1, minibatch_size=5, seed=1).fit(X, y)
    >>> network.w_h.shape, network.w_out.shape, network.score(X, y) > 0.95
    ((4, 10), (10, 3), True)

    Args:
        n_hidden: hidden units; a tuple for several hidden layers.
        l2: λ of the L2 penalty λ/2 Σ w² of all weights but the biases, added to each mini-batch's error.
        epochs: passes over the training data.
        eta: the learning rate η; a mini-batch's error is the sum, not the mean, over its samples.
        shuffle: learn the samples in a new random order in each epoch.
        minibatch_size: samples per update. A tail shorter than that is left out, see ``drop_last``.
        seed: of the weights, the shuffling and the dropout.
        random_state: scikit-learn's name for it, used when ``seed`` is None.
        activation: of the hidden layers, a name of ``nnlab.ops.ACTIVATIONS``; a tuple names one for each.
        loss: a name of ``nnlab.ops.LOSSES``: "binary_cross_entropy", the chapter's logistic cost, or "sum_of_squares",
            both with one sigmoid unit per class; or "softmax_cross_entropy".
        optimizer: "sgd" for gradient descent, or "adam".
        momentum: of gradient descent.
        dropout: the chance of a hidden unit to be left out of a step.
        early_stopping: stop when the accuracy on the validation data has not grown for ``patience`` epochs, and keep
            the weights of the best epoch.
        patience: see there.
        drop_last: leave a tail shorter than a mini-batch out of the epoch, as the chapter does.
        class_weight: "balanced", or a weight for each label.
        warm_start: let ``fit`` go on where the last one ended: k times one epoch is one time k epochs, bit for bit.
        verbose: show a progress bar with the figures of each epoch.
        device: "cpu", "cuda", or "auto" for CUDA where there is one; a tensor on CUDA is learnt where it is.

    Attributes:
        eval_: lists with one figure per epoch, over all training data after it: "cost", in the chapter's printed form
            with l2 Σ w²; "loss", the one whose gradient is applied, with l2/2 Σ w²; "train_acc"; and with validation
            data "valid_acc" and "valid_cost", in the form of "cost". Accuracies are plain shares, without weights.
            "cost_per_sample" and "valid_cost_per_sample" are means over the samples, without the penalty: these two
            can be compared.
        w_h, b_h, w_out, b_out: weights and biases of a network with one hidden layer, inputs × outputs.
        coefs_, intercepts_: the same, as lists, for any number of layers.
        classes_: the labels, sorted.
        n_iter_: epochs made, of all fits that went on from one another.
        best_epoch_: the epoch, counted from 1, whose weights these are.
        n_features_in_: I.

    Source: chapter 3, section 3.4, with its slips put right: no log(0), and today's NumPy.
    """

    def __init__(
        self,
        n_hidden: int | Sequence[int] = 30,
        l2: float = 0.0,
        epochs: int = 100,
        eta: float = 0.001,
        shuffle: bool = True,
        minibatch_size: int = 1,
        seed: Any = None,
        *,
        random_state: Any = None,
        activation: str | Sequence[str] = "sigmoid",
        loss: str = "binary_cross_entropy",
        optimizer: str = "sgd",
        momentum: float = 0.0,
        dropout: float = 0.0,
        early_stopping: bool = False,
        patience: int = 10,
        drop_last: bool = True,
        class_weight: Any = None,
        warm_start: bool = False,
        verbose: bool = False,
        device: str = "cpu",
    ) -> None:
        self.n_hidden = n_hidden
        self.l2 = l2
        self.epochs = epochs
        self.eta = eta
        self.shuffle = shuffle
        self.minibatch_size = minibatch_size
        self.seed = seed
        self.random_state = random_state
        self.activation = activation
        self.loss = loss
        self.optimizer = optimizer
        self.momentum = momentum
        self.dropout = dropout
        self.early_stopping = early_stopping
        self.patience = patience
        self.drop_last = drop_last
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device

    @with_callbacks
    def fit(self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None, sample_weight: Any = None) -> Self:
        """Learn from training data.

        Args:
            X: (N, I).
            y: labels of at least two classes, (N,).
            X_valid: data to measure each epoch on.
            y_valid: their labels, among those of y.
            sample_weight: wₙ >= 0, by which a sample's error counts, (N,).

        Returns:
            the estimator.

        Raises:
            ValueError: as scikit-learn's estimators, or a parameter out of range, which is named; a cost that is no
                longer finite names ``eta``.
        """
        if self.early_stopping and X_valid is None:
            raise ValueError("early_stopping needs validation data: give X_valid and y_valid to fit")
        resume = self.warm_start and hasattr(self, "coefs_")
        return self._fit(X, y, X_valid, y_valid, sample_weight, resume=resume, known=resume, epochs=self.epochs)

    @with_callbacks
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn the given samples for one more epoch; ``classes`` names all labels, in the first call at least."""
        if isinstance(self.class_weight, str):
            raise ValueError(f"class_weight {self.class_weight!r} needs all samples at once: give partial_fit a dict")
        _check_partial_fit_first_call(self, to_host(classes))
        return self._fit(X, y, None, None, sample_weight, resume=hasattr(self, "coefs_"), known=True, epochs=1)

    def _fit(
        self, X: Any, y: Any, X_valid: Any, y_valid: Any, sample_weight: Any, resume: bool, known: bool, epochs: int
    ) -> Self:
        check_choice("loss", self.loss, LOSSES)
        self._check_parameters()
        place, given = Place.of(X, self.device), {"X": X, "y": y}
        X, y = validate_training(self, X, y, reset=not resume)
        if known:
            index = encode_labels(y, self.classes_)
        else:
            self.classes_, index = find_classes(y)
        sample_weight = self._validate_weight(sample_weight, X)
        weight = weigh_classes(self.class_weight, self.classes_, index, sample_weight, numpy_dtype(X))
        X_valid = self._validate_validation(X_valid, y_valid)
        x, valid = place.tensor(X), None
        data = Data(x, self._target(place, index, x.dtype), None if weight is None else place.tensor(weight))
        if X_valid is not None:
            target = self._target(place, encode_labels(y_valid, self.classes_), x.dtype)
            valid = Data(place.tensor(X_valid, x.dtype), target, None)
        return self._train(place, data, valid, len(self.classes_), epochs, resume, **given)

    def _target(self, place: Place, index: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
        labels = place.tensor(index)
        return labels if LOSSES[self.loss].target == "labels" else one_hot(labels, len(self.classes_)).to(dtype)

    def _objective(self) -> Objective:
        output = LOSSES[self.loss].classifier_units
        return Objective((*self._hidden_activations(), output), self.loss, float(self.l2))

    def _figures(
        self, objective: Objective, parameters: list[Tensor], outputs: Tensor, data: Data, valid: Data | None
    ) -> dict[str, float]:
        measured = [*objective.measure(outputs, data), _accuracy(outputs, data.target)]
        if valid is not None:
            outputs = objective.outputs(parameters, valid.x)
            measured += [*objective.measure(outputs, valid), _accuracy(outputs, valid.target)]
        of_data, penalties = numbers([*measured, *objective.penalties(parameters)]), len(parameters) // 2
        penalty = sum(of_data[-penalties:])  # λ/2 Σ w², half of what the chapter prints
        errors, total, accuracy = of_data[:3]
        figures = {"cost": errors + 2 * penalty, "loss": errors + penalty, "cost_per_sample": errors / total}
        figures["train_acc"] = accuracy
        if valid is not None:
            errors, total, figures["valid_acc"] = of_data[3:6]
            figures |= {"valid_cost": errors + 2 * penalty, "valid_cost_per_sample": errors / total}
        return figures

    def _merit(self, figures: dict[str, float]) -> float:
        return figures["valid_acc"]

    def predict(self, X: Any) -> Array:
        """The label of each sample, that of the output unit with the largest net input, (N,)."""
        place, u = self._outputs(X)
        return place.give_labels(self.classes_, u.argmax(1))

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of ``predict_proba``, (N, K)."""
        place, u = self._outputs(X)
        return place.give(self._log_proba(u))

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, (N, K): the outputs, those of sigmoid units divided by their sum."""
        place, u = self._outputs(X)
        return place.give(self._log_proba(u).exp())

    def _log_proba(self, u: Tensor) -> Tensor:
        own = LOSSES[self.loss].log_probabilities
        return torch.log_softmax(logsigmoid(u), 1) if own is None else own(u)

    @property
    def w_h(self) -> Array:
        """Weights of the one hidden layer, (I, hidden)."""
        return one_hidden_layer(self.coefs_)[0]

    @property
    def b_h(self) -> Array:
        """Its biases, (hidden,)."""
        return one_hidden_layer(self.intercepts_)[0]

    @property
    def w_out(self) -> Array:
        """Weights of the output layer, (hidden, K)."""
        return one_hidden_layer(self.coefs_)[1]

    @property
    def b_out(self) -> Array:
        """Its biases, (K,)."""
        return one_hidden_layer(self.intercepts_)[1]


def _accuracy(outputs: Tensor, target: Tensor) -> Tensor:
    labels = target if target.ndim == 1 else target.argmax(1)
    return (outputs.argmax(1) == labels).double().mean()
