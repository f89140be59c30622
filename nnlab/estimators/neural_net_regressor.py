"""The chapter's sum-of-squares network with linear outputs as a scikit-learn regressor (eq. 3.5)."""

from collections.abc import Sequence
from typing import Any, Self

from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_array
from torch import Tensor

from nnlab.estimators.arrays import FLOATS, Array, Place, numbers, to_host, validate_training
from nnlab.estimators.callbacks import with_callbacks
from nnlab.estimators.epoch import Data
from nnlab.estimators.neural_net import NeuralNet
from nnlab.estimators.objective import Objective


class NeuralNetRegressor(RegressorMixin, MultiOutputMixin, NeuralNet):  # type: ignore[misc]
    """A network with linear outputs that minimises E = ½ Σₙ Σₖ (yₖ − tₖ)² + λ/2 Σ w², for one target or many.

    The reported ``eval_["cost"]`` is that E over all training data, and what is applied is its gradient, of each
    mini-batch: no factor is lost with the number of targets.

    >>> import numpy as np
    >>> X = np.linspace(-3, 3, 50)[:, None]
    >>> network = NeuralNetRegressor(activation="tanh", eta=0.05, seed=1).fit(X, np.sin(X[:, 0]))
    >>> network.score(X, np.sin(X[:, 0])) > 0.98
    True

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
        optimizer: "sgd" for gradient descent, or "adam".
        momentum: of gradient descent.
        dropout: the chance of a hidden unit to be left out of a step.
        early_stopping: stop when the cost on the validation data has not fallen for ``patience`` epochs, and keep the
            weights of the best epoch.
        patience: see there.
        drop_last: leave a tail shorter than a mini-batch out of the epoch.
        warm_start: let ``fit`` go on where the last one ended: k times one epoch is one time k epochs, bit for bit.
        verbose: show a progress bar with the figures of each epoch.
        device: "cpu", "cuda", or "auto" for CUDA where there is one; a tensor on CUDA is learnt where it is.

    Attributes:
        eval_: lists with one figure per epoch, after it: "cost", E over the training data; and with validation data
            "valid_cost", E over them. "cost_per_sample" and "valid_cost_per_sample" are means over the samples,
            without the penalty: these two can be compared.
        coefs_, intercepts_: weights, inputs × outputs, and biases of each layer.
        n_iter_: epochs made, of all fits that went on from one another.
        best_epoch_: the epoch, counted from 1, whose weights these are.
        n_features_in_: I.

    Source: chapter 3, eqs. 3.5 and 3.10.
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
        optimizer: str = "sgd",
        momentum: float = 0.0,
        dropout: float = 0.0,
        early_stopping: bool = False,
        patience: int = 10,
        drop_last: bool = True,
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
        self.optimizer = optimizer
        self.momentum = momentum
        self.dropout = dropout
        self.early_stopping = early_stopping
        self.patience = patience
        self.drop_last = drop_last
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device

    @with_callbacks
    def fit(self, X: Any, y: Any, X_valid: Any = None, y_valid: Any = None, sample_weight: Any = None) -> Self:
        """Learn from training data.

        Args:
            X: (N, I).
            y: targets, (N,) or (N, K).
            X_valid: data to measure each epoch on.
            y_valid: their targets.
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
        return self._fit(X, y, X_valid, y_valid, sample_weight, resume=resume, epochs=self.epochs)

    @with_callbacks
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn the given samples for one more epoch."""
        return self._fit(X, y, None, None, sample_weight, resume=hasattr(self, "coefs_"), epochs=1)

    def _fit(self, X: Any, y: Any, X_valid: Any, y_valid: Any, sample_weight: Any, resume: bool, epochs: int) -> Self:
        self._check_parameters()
        place, given = Place.of(X, self.device), {"X": X, "y": y}
        X, y = validate_training(self, X, y, multi_output=True, y_numeric=True, reset=not resume)
        if not resume:
            self._target_shape = y.shape[1:]
        weight = self._validate_weight(sample_weight, X)
        X_valid = self._validate_validation(X_valid, y_valid)
        x, valid = place.tensor(X), None
        data = Data(x, self._target(place, y, x), None if weight is None else place.tensor(weight))
        if X_valid is not None:
            y_valid = check_array(to_host(y_valid), dtype=FLOATS, ensure_2d=False, input_name="y_valid")
            valid = Data(place.tensor(X_valid, x.dtype), self._target(place, y_valid, x), None)
        return self._train(place, data, valid, data.target.shape[1], epochs, resume, **given)

    def _target(self, place: Place, y: Any, x: Tensor) -> Tensor:
        if y.shape[1:] != self._target_shape:
            raise ValueError(f"y must have shape {('N', *self._target_shape)}, got {y.shape}")
        return place.tensor(y, x.dtype).reshape(len(y), -1)

    def _objective(self) -> Objective:
        return Objective((*self._hidden_activations(), "identity"), "sum_of_squares", float(self.l2))

    def _figures(
        self, objective: Objective, parameters: list[Tensor], outputs: Tensor, data: Data, valid: Data | None
    ) -> dict[str, float]:
        measured = [*objective.measure(outputs, data)]
        if valid is not None:
            measured += objective.measure(objective.outputs(parameters, valid.x), valid)
        of_data, penalties = numbers([*measured, *objective.penalties(parameters)]), len(parameters) // 2
        penalty, errors, total = sum(of_data[-penalties:]), *of_data[:2]
        figures = {"cost": errors + penalty, "cost_per_sample": errors / total}
        if valid is not None:
            errors, total = of_data[2:4]
            figures |= {"valid_cost": errors + penalty, "valid_cost_per_sample": errors / total}
        return figures

    def _merit(self, figures: dict[str, float]) -> float:
        return -figures["valid_cost"]

    def predict(self, X: Any) -> Array:
        """The outputs, (N,) or (N, K) as the targets were."""
        place, y = self._outputs(X)
        return place.give(y.reshape(-1, *self._target_shape))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R²."""
        return float(r2_score(to_host(y), to_host(self.predict(X)), sample_weight=to_host(sample_weight)))
