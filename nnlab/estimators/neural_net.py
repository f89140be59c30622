"""What the network estimators share: their parameters' start, the epochs, early stopping, and going on later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
)
from torch import Tensor

from nnlab.engine import NotFiniteError
from nnlab.estimators.arrays import Array, Place, numpy_dtype, to_host, validate_samples
from nnlab.estimators.callbacks import CallbackSupportMixin, epochs_of_fit
from nnlab.estimators.epoch import Data, dropout, learnt_samples
from nnlab.estimators.memory import Memory
from nnlab.estimators.objective import Objective
from nnlab.estimators.optimizers import Adam, GradientDescent, Optimizer
from nnlab.estimators.progress import progress
from nnlab.ops import ACTIVATIONS
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_not_negative, check_positive


class NeuralNet(CallbackSupportMixin, BaseEstimator):  # type: ignore[misc]
    """A network with one or more hidden layers, trained by backpropagation in mini-batches."""

    n_hidden: int | Sequence[int]
    l2: float
    epochs: int
    eta: float
    shuffle: bool
    minibatch_size: int
    seed: Any
    random_state: Any
    activation: str | Sequence[str]
    optimizer: str
    momentum: float
    dropout: float
    early_stopping: bool
    patience: int
    drop_last: bool
    verbose: bool
    device: str
    coefs_: list[Array]
    intercepts_: list[Array]
    eval_: dict[str, list[float]]
    n_features_in_: int
    _memory: Memory

    # ---- what a kind of network says about itself --------------------------------------------------------------

    def _objective(self) -> Objective:
        """What is minimised."""
        raise NotImplementedError

    def _figures(
        self, objective: Objective, parameters: list[Tensor], outputs: Tensor, data: Data, valid: Data | None
    ) -> dict[str, float]:
        """The figures of an epoch, for ``eval_``; ``outputs`` are those for the training data."""
        raise NotImplementedError

    def _merit(self, figures: dict[str, float]) -> float:
        """What early stopping seeks the largest of, from validation data."""
        raise NotImplementedError

    # ---- the network ---------------------------------------------------------------------------------------------

    def _hidden(self) -> tuple[int, ...]:
        return tuple(self.n_hidden) if isinstance(self.n_hidden, Sequence) else (self.n_hidden,)

    def _hidden_activations(self) -> tuple[str, ...]:
        if isinstance(self.activation, str):
            return (self.activation,) * len(self._hidden())
        return tuple(self.activation)

    def _check_parameters(self) -> None:
        for n in self._hidden():
            check_at_least("n_hidden", n, 1)
        if len(self._hidden_activations()) != len(self._hidden()):
            raise ArgumentError(
                "activation",
                f"must be one name, or one for each of {len(self._hidden())} hidden layers, got {self.activation!r}",
            )
        for name in self._hidden_activations():
            check_choice("activation", name, ACTIVATIONS)
        check_not_negative("l2", self.l2)
        check_at_least("epochs", self.epochs, 1)
        check_positive("eta", self.eta)
        check_at_least("minibatch_size", self.minibatch_size, 1)
        check_choice("optimizer", self.optimizer, ("sgd", "adam"))
        check_at_least("patience", self.patience, 1)
        for name in ("momentum", "dropout"):
            check_not_negative(name, getattr(self, name))
            if getattr(self, name) >= 1:
                raise ArgumentError(name, f"must be less than 1, got {getattr(self, name)!r}")

    def _start(self, n_outputs: int) -> tuple[Memory, list[NDArray[np.float64]]]:
        """A seeded stream, and from it the weights w ~ N(0, 0.1²), inputs × outputs, layer by layer."""
        rng = check_random_state(self.random_state if self.seed is None else self.seed)
        sizes = (self.n_features_in_, *self._hidden(), n_outputs)
        weights = [rng.normal(0.0, 0.1, size) for size in pairwise(sizes)]
        return Memory(rng, self._new_optimizer()), weights

    def _new_optimizer(self) -> Optimizer:
        return Adam() if self.optimizer == "adam" else GradientDescent(float(self.momentum))

    def _parameters(self, place: Place, dtype: torch.dtype) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, … of the fitted network, for the arithmetic on data of one dtype."""
        pairs = zip(self.coefs_, self.intercepts_, strict=True)
        return [place.tensor(array, dtype) for w, b in pairs for array in (w.T, b)]

    def _resume(self, place: Place, dtype: torch.dtype, n_outputs: int) -> tuple[Memory, list[Tensor]]:
        """Where the last fit left off, as copies of it."""
        sizes = [self.coefs_[0].shape[0], *(len(b) for b in self.intercepts_)]
        if sizes[1:] != [*self._hidden(), n_outputs]:
            raise ArgumentError("n_hidden", f"must stay {tuple(sizes[1:-1])} to go on, got {self.n_hidden!r}")
        memory = self._memory.to(place.device, dtype)
        if isinstance(memory.optimizer, Adam) != (self.optimizer == "adam"):
            memory.optimizer = self._new_optimizer()
        elif isinstance(memory.optimizer, GradientDescent):
            memory.optimizer.momentum = float(self.momentum)
        parameters = memory.last or self._parameters(place, dtype)
        return memory, [p.clone(memory_format=torch.contiguous_format) for p in parameters]

    # ---- training ------------------------------------------------------------------------------------------------

    def _train(
        self, place: Place, data: Data, valid: Data | None, n_outputs: int, epochs: int, resume: bool, **given: Any
    ) -> Self:
        """Train for some more epochs; the weights and figures change when all of them are over."""
        batch_size = int(self.minibatch_size)
        n_learnt = learnt_samples(len(data.x), batch_size, self.drop_last)
        objective, early = self._objective(), self.early_stopping and valid is not None
        if resume:
            memory, parameters = self._resume(place, data.x.dtype, n_outputs)
            history = {key: list(values) for key, values in self.eval_.items()}
        else:
            memory, weights = self._start(n_outputs)
            parameters, history = [], {}
            for weight in weights:
                w = place.tensor(weight.T, data.x.dtype).clone()  # in memory of torch's, laid out as a later fit's
                parameters += [w, w.new_zeros(len(w))]
        past, order = len(history.get("cost", ())), np.arange(len(data.x))
        engine = objective.engine(parameters, data, batch_size)
        update = memory.optimizer.attach(engine, parameters, float(self.eta))

        def stopped() -> bool:
            return early and memory.best is not None and past - memory.best_epoch >= self.patience

        def fitted() -> dict[str, Any]:
            chosen = memory.best if early and memory.best is not None else parameters
            kept = memory.to("cpu", data.x.dtype)
            kept.last = [p.detach().cpu().clone() for p in parameters] if chosen is not parameters else None
            return {
                "coefs_": [place.give(w.T.clone(memory_format=torch.contiguous_format)) for w in chosen[::2]],
                "intercepts_": [place.give(b.clone()) for b in chosen[1::2]],
                "eval_": history,
                "n_iter_": past,
                "best_epoch_": memory.best_epoch if early else past,
                "_memory": kept,
            }

        with progress(epochs, self.verbose) as report:
            for _ in epochs_of_fit(self, epochs, stopped, fitted, **given):
                if self.shuffle:
                    order[:] = np.arange(len(order))  # each epoch's shuffle starts from the data's own order
                    memory.rng.shuffle(order)
                masks = dropout(float(self.dropout), parameters[1:-2:2], n_learnt, batch_size, memory.rng)
                try:
                    engine.run_(place.tensor(order[:n_learnt]), update, masks)
                except NotFiniteError as error:
                    problem = f"the {error.parameter} became NaN or infinite in epoch {past + 1}"
                    raise ArgumentError("eta", f"must be smaller than {self.eta}: {problem}") from error
                figures = self._figures(objective, parameters, engine.outputs(), data, valid)
                past += 1
                if not math.isfinite(figures["cost"]):
                    raise ArgumentError(
                        "eta", f"must be smaller than {self.eta}: the cost is {figures['cost']} after epoch {past}"
                    )
                _record(history, figures, past)
                if early and self._merit(figures) > memory.best_merit:
                    memory.best_merit, memory.best_epoch = self._merit(figures), past
                    memory.best = [p.clone() for p in parameters]
                report(figures)
        for name, value in fitted().items():
            setattr(self, name, value)
        return self

    def _validate_weight(self, sample_weight: Any, X: Array) -> NDArray[Any] | None:
        """Sample weights past scikit-learn's validation, in X's dtype."""
        if sample_weight is None:
            return None
        dtype = numpy_dtype(X)
        return np.asarray(_check_sample_weight(to_host(sample_weight), X, dtype=dtype, ensure_non_negative=True))

    def _validate_validation(self, X_valid: Any, y_valid: Any) -> Array | None:
        """X_valid past scikit-learn's validation; None where there is none."""
        if (X_valid is None) != (y_valid is None):
            raise ValueError("X_valid and y_valid must be given together, got one of them")
        if X_valid is None:
            return None
        samples = validate_samples(self, X_valid, reset=False)
        check_consistent_length(samples, y_valid)
        return samples

    def _outputs(self, X: Any) -> tuple[Place, Tensor]:
        """The place and the net inputs of the output units, (N, K), for data as the user gave them."""
        check_is_fitted(self, "coefs_")
        place = Place.of(X, self.device)
        x = place.tensor(validate_samples(self, X, reset=False))
        objective = Objective((*self._hidden_activations(), "identity"), self._objective().loss, 0.0)
        return place, objective.outputs(self._parameters(place, x.dtype), x)


def _record(history: dict[str, list[float]], figures: dict[str, float], epoch: int) -> None:
    """Append an epoch's figures; one that another epoch did not have, as without validation data, is NaN there."""
    for key in {**history, **figures}:
        values = history.setdefault(key, [math.nan] * (epoch - 1))
        values.append(figures.get(key, math.nan))


def one_hidden_layer(layers: list[Array]) -> list[Array]:
    """The two layers of a network with one hidden layer.

    Raises:
        AttributeError: there are more or fewer.
    """
    if len(layers) != 2:
        raise AttributeError(
            f"w_h, b_h, w_out and b_out are of one hidden layer, here are {len(layers) - 1}: see coefs_"
        )
    return layers
