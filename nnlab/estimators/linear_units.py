"""What the perceptron and the linear unit share: weights ``w_`` with the bias first, and labels from net inputs."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from nnlab.estimators.arrays import Array, Place, validate_samples, validate_training
from nnlab.estimators.callbacks import CallbackSupportMixin
from nnlab.estimators.labels import LabelClassifier, find_classes
from nnlab.ops import linear_forward, perceptron_predict


class LinearUnits(CallbackSupportMixin, LabelClassifier, BaseEstimator):  # type: ignore[misc]
    """One unit that tells two classes apart, or K units, each one class against all the others.

    ``w_`` is (1 + I,) for two classes and (K, 1 + I) for more, the bias first.
    """

    device: str
    w_: Array

    def _validate(self, X: Any, y: Any) -> tuple[Place, Array, NDArray[np.int64]]:
        """The place, X and the number of each sample's class; sets ``classes_``, two or more."""
        place = Place.of(X, self.device)
        X, y = validate_training(self, X, y, reset=True)
        self.classes_, index = find_classes(y)
        return place, X, index

    def _draw(self, rng: np.random.RandomState, std: float, n_features: int) -> NDArray[np.float64]:
        """Weights to start from, (units, 1 + I): one per two classes, else one per class."""
        n_units = 1 if len(self.classes_) == 2 else len(self.classes_)
        return rng.normal(0.0, std, (n_units, 1 + n_features))

    def _w(self, place: Place, weight: Tensor, bias: Tensor) -> Array:
        w = torch.cat([bias[:, None], weight], 1)
        return place.give(w[0] if len(w) == 1 else w)

    def _units(self, X: Any) -> tuple[Place, Tensor]:
        """The place and the net inputs, (N, units), of data as the user gave them."""
        check_is_fitted(self, "w_")
        place = Place.of(X, self.device)
        x = place.tensor(validate_samples(self, X, reset=False))
        w = place.tensor(self.w_, x.dtype).reshape(-1, 1 + x.shape[1])
        return place, linear_forward(x, w[:, 1:], w[:, 0])

    def net_input(self, X: Any) -> Array:
        """Net inputs u = Σ w_i x_i + w_0: (N,) for two classes, (N, K) for more."""
        place, u = self._units(X)
        return place.give(u[:, 0] if u.shape[1] == 1 else u)

    def decision_function(self, X: Any) -> Array:
        """The net inputs, by scikit-learn's name for them."""
        return self.net_input(X)

    def predict(self, X: Any) -> Array:
        """The label of each sample: whether u >= 0 for two classes, else the class of the largest net input, (N,)."""
        place, u = self._units(X)
        return place.give_labels(self.classes_, perceptron_predict(u))

    @property
    def coef_(self) -> Array:
        """The weights without the biases: (1, I) for two classes, (K, I) for more."""
        return self.w_.reshape(-1, self.w_.shape[-1])[:, 1:]

    @property
    def intercept_(self) -> Array:
        """The biases, (1,) or (K,)."""
        return self.w_.reshape(-1, self.w_.shape[-1])[:, 0]
