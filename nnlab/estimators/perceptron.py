"""Rosenblatt's perceptron as a scikit-learn classifier (section 3.2.2)."""

from typing import Any, Self

import torch
from sklearn.utils import check_random_state

from nnlab.engine import PerceptronEngine
from nnlab.estimators.arrays import Array, Place
from nnlab.estimators.callbacks import epochs_of_fit, with_callbacks
from nnlab.estimators.linear_units import LinearUnits
from nnlab.networks import PerceptronBank
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_not_negative, check_positive


class Perceptron(LinearUnits):
    """The chapter's perceptron: one update per misclassified sample, in the order of the samples.

    Two classes of any labels are told apart by one unit; more by one unit per class against all the others, and the
    *largest* net input wins. (The chapter says largest absolute, which would choose the surest "no".) The rule runs
    on ``nnlab.engine.PerceptronEngine``, which gives the sequential rule's answer.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> perceptron = Perceptron(eta=0.1, n_iter=10).fit(X[:100, [0, 2]], y[:100])
    >>> perceptron.errors_
    [1, 3, 3, 2, 1, 0, 0, 0, 0, 0]
    >>> perceptron.w_
    array([-0.38375655, -0.70611756,  1.83471828])

    Args:
        eta: the learning rate η > 0.
        n_iter: passes over the training data.
        random_state: seed of the starting weights, and of the shuffling.
        output: the units' step function: "bipolar", −1 and +1 as in the chapter's class, or "step", 0 and 1, whose
            updates are half as large.
        average: predict with the mean of the weights as each sample left them, which is far steadier than the last.
        shuffle: meet the samples in a new random order in each epoch.
        tol: stop after an epoch with at most this many updates: 0 for the first without any. None: never.
        init_std: standard deviation of the normal starting weights; 0 to start at zero, where η is a mere scale.
        device: "cpu", "cuda", or "auto" for CUDA where there is one; a tensor on CUDA is learnt where it is.

    Attributes:
        w_: (1 + I,) for two classes, (K, 1 + I) for more, bias first.
        errors_: the number of updates, of all units, in each epoch.
        converged_: whether the last epoch made none, so that the last weights put every sample on its side.
        classes_: the labels, sorted; of two the second is the positive class.
        coef_, intercept_: ``w_`` in scikit-learn's two parts.
        n_iter_: passes made.
        n_features_in_: I.

    Source: chapter 3, section 3.2.
    """

    def __init__(
        self,
        eta: float = 0.01,
        n_iter: int = 50,
        random_state: Any = 1,
        *,
        output: str = "bipolar",
        average: bool = False,
        shuffle: bool = False,
        tol: float | None = None,
        init_std: float = 0.01,
        device: str = "cpu",
    ) -> None:
        self.eta = eta
        self.n_iter = n_iter
        self.random_state = random_state
        self.output = output
        self.average = average
        self.shuffle = shuffle
        self.tol = tol
        self.init_std = init_std
        self.device = device

    @with_callbacks
    def fit(self, X: Any, y: Any) -> Self:
        """Learn from training data.

        Args:
            X: (N, I).
            y: labels of at least two classes, (N,).

        Returns:
            the estimator.

        Raises:
            ValueError: as scikit-learn's estimators, or a parameter out of range, which is named.
        """
        check_positive("eta", self.eta)
        check_at_least("n_iter", self.n_iter, 1)
        check_choice("output", self.output, ("bipolar", "step"))
        check_not_negative("init_std", self.init_std)
        if self.tol is not None:
            check_not_negative("tol", self.tol)
        place, X_host, index = self._validate(X, y)
        x, labels = place.tensor(X_host), place.tensor(index)
        rng = check_random_state(self.random_state)
        start = torch.from_numpy(self._draw(rng, self.init_std, x.shape[1])).to(x)
        bank = PerceptronBank(
            x.shape[1], len(start), bipolar=self.output == "bipolar", dtype=x.dtype, device=place.device
        )
        bank.weight.copy_(start[:, 1:])
        bank.bias.copy_(start[:, 0])
        if not bank.weight.isfinite().all():
            raise ArgumentError("init_std", f"must be smaller than {self.init_std}: a weight to start from is infinite")
        engine, order = PerceptronEngine(bank, x, labels), torch.arange(len(x), device=place.device)
        self.errors_: list[int] = []

        def stopped() -> bool:
            return self.tol is not None and bool(self.errors_) and self.errors_[-1] <= self.tol

        for _ in epochs_of_fit(self, self.n_iter, stopped, lambda: {"w_": self._weights(place, bank)}, X=X, y=y):
            if self.shuffle:
                order = place.tensor(rng.permutation(len(x)))
            try:
                errors = engine.run_(order, float(self.eta))
            except FloatingPointError as error:
                raise ArgumentError("eta", f"must be smaller than {self.eta}: {error}") from error
            self.errors_.append(int(errors.count_nonzero()))
        self.w_ = self._weights(place, bank)
        self.n_iter_ = len(self.errors_)
        self.converged_ = self.errors_[-1] == 0
        return self

    def _weights(self, place: Place, bank: PerceptronBank) -> Array:
        return self._w(place, *(bank.averaged() if self.average else (bank.weight.detach(), bank.bias.detach())))
