"""What ``nnlab trace`` traces: a network or a perceptron, read from a mapping such as a YAML file holds."""

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnlab.networks import MLP
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.trace.values import (
    check_small,
    count,
    either,
    read_labels,
    read_matrix,
    read_number,
    read_numbers,
    read_samples,
    shown,
)
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_positive

MOST_NUMBERS = 2000
"""Numbers beyond which a table cannot be read."""

OWN_OUTPUT = {"binary_cross_entropy": "sigmoid", "softmax_cross_entropy": "softmax"}
"""The output activation that a loss on potentials has built in, so that y is its value and δ = y − t."""

NETWORK_KEYS = ("sizes", "activations", "weights", "seed", "inputs", "targets", "loss")
PERCEPTRON_KEYS = ("weights", "threshold", "output", "inputs", "targets", "eta")
STEPS = ("step", "bipolar_step")


@dataclass(frozen=True)
class Network:
    """A multi-layer perceptron, its samples and its error function, all in float64.

    ``weights`` has a matrix for each layer in the chapter's layout, (1 + I, O): the bias, then a row for each input.
    ``activations`` are those of ``nnlab.networks.MLP``: the last is the identity where the loss takes potentials.
    """

    weights: tuple[Tensor, ...]
    activations: tuple[str, ...]
    inputs: Tensor  # (N, I)
    targets: Tensor  # (N, K), or class labels (N,)
    loss: str

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of inputs and of the units of each layer."""
        return (len(self.weights[0]) - 1, *(w.shape[1] for w in self.weights))


@dataclass(frozen=True)
class Perceptron:
    """One unit with a threshold, its samples, and with desired outputs the rule's η; all in float64."""

    weights: Tensor  # (I,)
    threshold: float
    output: str
    inputs: Tensor  # (N, I)
    targets: Tensor | None  # (N, 1)
    eta: float


def read_description(content: object) -> Network | Perceptron:
    """The network or, where there is a key ``threshold``, the perceptron that a mapping describes.

    Raises:
        ArgumentError: a key is unknown, missing, or has a value that cannot be used; the key is named.

    >>> read_description({"sizes": [2, 3, 1], "seed": 0, "inputs": [1, 2], "targets": [1]}).activations
    ('tanh', 'identity')
    """
    if not isinstance(content, Mapping):
        raise ArgumentError("the file", f"must hold keys such as inputs: and targets:, got {shown(content)}")
    keys = PERCEPTRON_KEYS if "threshold" in content else NETWORK_KEYS
    for key in content:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, 1)
            raise ArgumentError(str(key), f"is no key: {f'did you mean {near[0]}?' if near else 'use ' + either(keys)}")
    return _perceptron(content) if "threshold" in content else _network(content)


def _network(content: Mapping[str, Any]) -> Network:
    loss = content.get("loss", "sum_of_squares")
    check_choice("loss", loss if isinstance(loss, str) else repr(loss), LOSSES)
    sizes = _sizes(content)
    activations = _activations(content, len(sizes) - 1, loss)
    weights = _weights(content, sizes, activations)
    inputs = read_samples("inputs", content.get("inputs"), sizes[0])
    if LOSSES[loss].target == "labels":
        targets = read_labels("targets", content.get("targets"), len(inputs), sizes[-1])
    else:
        targets = read_samples("targets", content.get("targets"), sizes[-1], len(inputs))
    if loss == "binary_cross_entropy" and not bool(((targets >= 0) & (targets <= 1)).all()):
        raise ArgumentError("targets", f"must lie between 0 and 1 for binary_cross_entropy, got {targets.tolist()}")
    numbers = 3 * len(inputs) * sum(sizes) + sum(w.numel() for w in weights)
    if numbers > MOST_NUMBERS:
        raise ArgumentError(
            "inputs", f"and sizes make {numbers} numbers: trace is for a small network, {MOST_NUMBERS} at most"
        )
    return Network(weights, activations, inputs, targets, loss)


def _perceptron(content: Mapping[str, Any]) -> Perceptron:
    weights = torch.tensor(read_numbers("weights", content.get("weights")), dtype=torch.float64)
    check_small("weights", len(weights))
    threshold = read_number("threshold", content["threshold"])
    output = content.get("output", "step")
    check_choice("output", output if isinstance(output, str) else repr(output), STEPS)
    if content.get("inputs") is None:
        if len(weights) > 4:
            raise ArgumentError("inputs", "must be given for more than 4 weights; for fewer, all of 0 and 1 are taken")
        every = list(itertools.product((0.0, 1.0), repeat=len(weights)))
        inputs = torch.tensor(every, dtype=torch.float64)
    else:
        inputs = read_samples("inputs", content["inputs"], len(weights))
    if len(inputs) * (3 + len(weights)) > MOST_NUMBERS:
        raise ArgumentError("inputs", f"must make {MOST_NUMBERS} numbers at most, got {len(inputs)} samples")
    targets = None
    if content.get("targets") is not None:
        values = read_numbers("targets", content["targets"], len(inputs))
        low = 0 if output == "step" else -1
        if not set(values) <= {low, 1}:
            raise ArgumentError("targets", f"must hold {low} and 1 alone for the {output}, got {values}")
        targets = torch.tensor(values, dtype=torch.float64)[:, None]
    eta = read_number("eta", content.get("eta", 0.1))
    check_positive("eta", eta)
    return Perceptron(weights, threshold, output, inputs, targets, eta)


def _sizes(content: Mapping[str, Any]) -> list[int]:
    sizes, weights = content.get("sizes"), content.get("weights")
    if sizes is None:
        if not isinstance(weights, list) or not weights:
            raise ArgumentError("sizes", "must be given, such as [2, 3, 1], or weights with a matrix for each layer")
        shapes = [read_matrix(f"weights[{k}]", w) for k, w in enumerate(weights)]
        sizes = [len(shapes[0]) - 1, *(len(w[0]) for w in shapes)]
    if not isinstance(sizes, list) or len(sizes) < 2:
        raise ArgumentError("sizes", f"must list the inputs and the units of each layer, got {shown(sizes)}")
    for size in sizes:
        check_at_least("sizes", size, 1)
        check_small("sizes", size)
    return sizes


def _activations(content: Mapping[str, Any], n_layers: int, loss: str) -> tuple[str, ...]:
    own, given = OWN_OUTPUT.get(loss), content.get("activations", "tanh")
    if isinstance(given, str):
        check_choice("activations", given, ACTIVATIONS)
        given = [given] * (n_layers - 1) + ["identity"]
    if not isinstance(given, list) or len(given) != n_layers:
        layers = count(n_layers, "layer")
        raise ArgumentError("activations", f"must be one name, or one for each of {layers}, got {shown(given)}")
    for k, name in enumerate(given):
        choices = ("identity", own) if own and k == n_layers - 1 else tuple(ACTIVATIONS)
        if name not in choices:
            why = f" in the last layer with {loss}" if own and k == n_layers - 1 else ""
            raise ArgumentError("activations", f"must be {either(choices)}{why}, got {shown(name)}")
    return (*given[:-1], "identity" if own else given[-1])


def _weights(content: Mapping[str, Any], sizes: list[int], activations: tuple[str, ...]) -> tuple[Tensor, ...]:
    given, seed = content.get("weights"), content.get("seed")
    if given is None and seed is None:
        raise ArgumentError("weights", "must be given, or a seed: for random ones")
    if given is None:
        network = MLP(sizes, activations, generator=_generator(seed), dtype=torch.float64)
        parameters = [p.detach() for p in network.parameters()]
        return tuple(torch.vstack([b, w.T]) for w, b in zip(parameters[::2], parameters[1::2], strict=True))
    if seed is not None:
        raise ArgumentError("seed", "must be left out where weights are given")
    if not isinstance(given, list) or len(given) != len(sizes) - 1:
        layers = count(len(sizes) - 1, "layer")
        raise ArgumentError("weights", f"must be a list with a matrix for each of {layers}, got {shown(given)}")
    matrices = []
    for k, (matrix, n_in, n_out) in enumerate(zip(given, sizes[:-1], sizes[1:], strict=True)):
        rows, key = read_matrix(f"weights[{k}]", matrix), f"weights[{k}]"
        if (len(rows), len(rows[0])) != (1 + n_in, n_out):
            raise ArgumentError(
                key,
                f"must be {1 + n_in} × {n_out}: a row for the bias and for each input ({n_in}), "
                f"a column for each unit, got {len(rows)} × {len(rows[0])}",
            )
        matrices.append(torch.tensor(rows, dtype=torch.float64))
    return tuple(matrices)


def _generator(seed: Any) -> torch.Generator:
    check_at_least("seed", seed, 0)
    if seed >= 2**63:
        raise ArgumentError("seed", f"must be below 2⁶³, got {seed}")
    return torch.Generator().manual_seed(seed)
