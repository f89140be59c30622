"""The linear unit as a classifier (ADALINE): mean square error and gradient descent over all samples at once."""

import math
from typing import Any, Self

import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor
from torch.nn.functional import one_hot

from nnlab.estimators.arrays import numpy_dtype, to_host
from nnlab.estimators.callbacks import epochs_of_fit, with_callbacks
from nnlab.estimators.linear_units import LinearUnits
from nnlab.ops import (
    gradient_descent,
    linear_backward_parameters,
    linear_forward,
    perceptron_predict,
    sum_of_squares_backward,
    sum_of_squares_forward,
)
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_not_negative, check_positive


class Adaline(LinearUnits):
    """The linear unit, trained to answer −1 and +1, and read by the sign of its answer.

    It descends E = 1/N Σₙ ½ Σₖ (yₖ − tₖ)², half the mean square error, over all samples at once from a random start,
    until a step is shorter than ``tol`` or the iterations are used up. More than two classes have one unit each, that
    class against all the others.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> unit = Adaline().fit(X[:100, [0, 2]], y[:100])
    >>> unit.errors_[-1], unit.score(X[:100, [0, 2]], y[:100])
    (0, 1.0)

    Args:
        eta: the learning rate η; "auto" is 1 / λ, λ being the largest eigenvalue of the second derivative of E, which
            is the mean of [1, x][1, x]ᵀ. Descent on E converges for every η < 2 / λ.
        n_iter: the largest number of iterations.
        random_state: seed of the starting weights.
        tol: ε, the length ‖ΔW‖ of a step below which the descent has ended.
        init_std: standard deviation of the normal starting weights.
        device: "cpu", "cuda", or "auto" for CUDA where there is one; a tensor on CUDA is learnt where it is.

    Attributes:
        w_: (1 + I,) for two classes, (K, 1 + I) for more, bias first.
        cost_: E after each iteration.
        errors_: the number of training samples predicted wrong after each iteration.
        converged_: whether the last step was shorter than ``tol``.
        eta_: the η used.
        classes_: the labels, sorted; of two the second is the positive class.
        coef_, intercept_: ``w_`` in scikit-learn's two parts.
        n_iter_: iterations made.
        n_features_in_: I.

    Source: chapter 3, the hand-written page on the linear unit; eq. 3.5; Widrow and Hoff (1960).
    """

    def __init__(
        self,
        eta: float | str = "auto",
        n_iter: int = 1000,
        random_state: Any = 1,
        *,
        tol: float = 1e-5,
        init_std: float = 0.01,
        device: str = "cpu",
    ) -> None:
        self.eta = eta
        self.n_iter = n_iter
        self.random_state = random_state
        self.tol = tol
        self.init_std = init_std
        self.device = device

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from training data.

        Args:
            X: (N, I).
            y: labels of at least two classes, (N,).
            sample_weight: wₙ >= 0, by which a sample's error counts, (N,); the mean is then over their sum.

        Returns:
            the estimator.

        Raises:
            ValueError: as scikit-learn's estimators, or a parameter out of range, which is named; a cost that grows
                names ``eta``, and the values of it for which the descent converges.
        """
        if isinstance(self.eta, str):
            check_choice("eta", self.eta, ("auto",))
        else:
            check_positive("eta", self.eta)
        check_at_least("n_iter", self.n_iter, 1)
        check_not_negative("tol", self.tol)
        check_not_negative("init_std", self.init_std)
        given = {"X": X, "y": y}
        place, X, index = self._validate(X, y)
        x, labels, weights = place.tensor(X), place.tensor(index), None
        if sample_weight is not None:
            dtype = numpy_dtype(X)
            sample_weight = _check_sample_weight(to_host(sample_weight), X, dtype=dtype, ensure_non_negative=True)
            weights = place.tensor(sample_weight, x.dtype)
        high = labels[:, None] if len(self.classes_) == 2 else one_hot(labels, len(self.classes_))
        target = (2 * high - 1).to(x.dtype)
        start = torch.from_numpy(self._draw(check_random_state(self.random_state), self.init_std, x.shape[1])).to(x)
        w, b = start[:, 1:].clone(), start[:, 0].clone()
        curvature = _largest_curvature(x, weights)
        eta = 1 / curvature if isinstance(self.eta, str) else float(self.eta)
        one, steps = x.new_ones(()), [math.inf]
        u = linear_forward(x, w, b)
        first = lowest = sum_of_squares_forward(u, target, "mean", weights).item()
        rounding = first * torch.finfo(x.dtype).eps ** 0.5
        self.cost_: list[float] = []
        self.errors_: list[int] = []

        def stopped() -> bool:
            return steps[-1] < self.tol

        for n in epochs_of_fit(self, self.n_iter, stopped, lambda: {"w_": self._w(place, w, b)}, **given):
            gradients = linear_backward_parameters(sum_of_squares_backward(one, u, target, "mean", weights), x)
            for parameter, gradient in zip((w, b), gradients, strict=True):
                parameter.copy_(gradient_descent(parameter, gradient, eta))
            steps.append(eta * math.hypot(*(gradient.norm().item() for gradient in gradients)))  # ‖ΔW‖
            u = linear_forward(x, w, b)
            cost = sum_of_squares_forward(u, target, "mean", weights).item()
            if not cost <= lowest + rounding:  # a NaN is not
                raise ArgumentError(
                    "eta",
                    f"must be less than {2 / curvature:.3g} for these data, got {eta:g}: the descent diverges, "
                    f"the cost rose from {lowest:.3g} to {cost:.3g} in iteration {n + 1}",
                )
            lowest = min(lowest, cost)
            self.cost_.append(cost)
            self.errors_.append(int((perceptron_predict(u) != labels).sum()))
        self.w_ = self._w(place, w, b)
        self.eta_, self.n_iter_, self.converged_ = eta, len(self.cost_), stopped()
        return self


def _largest_curvature(x: Tensor, weights: Tensor | None) -> float:
    """The largest eigenvalue of the mean of [1, x][1, x]ᵀ, the second derivative of E."""
    extended = torch.cat([x.new_ones(len(x), 1), x], 1)
    share = x.new_full((len(x),), 1 / len(x)) if weights is None else weights / weights.sum()
    return float(torch.linalg.eigvalsh(extended.T @ (extended * share[:, None]))[-1])
