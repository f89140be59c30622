"""The keys of the files that ``nnlab trace`` reads, with their types, and nnlab's own files.

Importing this module does not import torch: the docstrings of the two classes are what ``nnlab trace --help`` shows.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

Vector = list[float]
Matrix = list[Vector]
Samples = list[int] | Vector | Matrix

VALUES: dict[Any, tuple[str, tuple[int, ...], str]] = {
    int: ("iu", (0,), "a whole number from 0 to 2⁶³ − 1"),
    float: ("iuf", (0,), "a number"),
    str: ("U", (0,), "a name"),
    list[int]: ("iu", (1,), "a list of whole numbers"),
    str | list[str]: ("U", (0, 1), "a name or a list of names"),
    Vector: ("iuf", (1,), "a list of numbers"),
    Matrix: ("iuf", (2,), "a list of rows of numbers, all of one length"),
    Samples: ("iuf", (1, 2), "a list of numbers, or such a list for each sample"),
    list[Matrix]: ("", (), "a list of a matrix for each layer"),
}
"""For each type: NumPy's letters for the allowed kinds, the allowed numbers of dimensions, and its name in an error."""

_FILES = {file.name.removesuffix(".yaml"): file for file in files("nnlab.trace").joinpath("examples").iterdir()}
EXAMPLES = dict(sorted(_FILES.items()))


@dataclass(frozen=True, kw_only=True)
class Network:
    """The keys of a network's file.

    sizes: [2, 3, 1]           inputs, then the units of each layer; may be left out where weights are given
    activations: tanh          one name for the hidden layers, the last then being linear, or a list with a name for
                               each layer; where the loss has an output of its own, that is the last
    seed: 0                    random weights, or weights: a matrix for each layer, its rows the bias and the inputs,
                               its columns the units, such as [[0.1, 0.2], [0.3, 0.4]] for one input and two units
    inputs: [[0, 1], [1, 1]]   a list for each sample; for one sample its numbers alone will do
    targets: [[1], [0]]        likewise; where the loss takes class labels, one of 0, 1 … for each sample
    loss: sum_of_squares       or another; a wrong name, here or above, is answered by all that there are
    """

    sizes: list[int] | None = None
    activations: str | list[str] = "tanh"
    weights: list[Matrix] | None = None
    seed: int | None = None
    inputs: Samples
    targets: Samples
    loss: str = "sum_of_squares"


@dataclass(frozen=True, kw_only=True)
class Perceptron:
    """The keys of a perceptron's file, which has a threshold.

    weights: [0.3, 0.3, 0.3]
    threshold: 0.4
    output: step               or bipolar_step
    inputs: [[1, 0, 1]]        left out: every combination of 0 and 1
    targets: [1]               desired outputs; left out, nothing is learnt
    eta: 0.1                   the learning rate
    """

    weights: Vector
    threshold: float
    output: str = "step"
    inputs: Samples | None = None
    targets: Vector | None = None
    eta: float | None = None
