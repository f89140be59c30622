"""A network's forward and backward pass: every number with its equation and its origin."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from rich.console import RenderableType
from rich.text import Text
from torch import Tensor
from torch.nn.functional import one_hot

from nnlab.networks import MLP, Linear
from nnlab.ops import ACTIVATIONS, LOSSES
from nnlab.trace.description import Network
from nnlab.trace.reading import check_finite, check_small, count, samples, shown
from nnlab.trace.tables import Entry, Trace, Writer, details, indexed, title, vectors
from nnlab.validation import ArgumentError, check_at_least, check_choice, check_labels

LINEAR = "identity"
"""The last activation of a network whose loss has an output of its own."""


class NetworkTrace(Trace):
    """Every number of one forward and one backward pass, in float64.

    Lists have an item for each layer, from the first to the last. Weights and gradients have the chapter's layout,
    (1 + I, O): a row for the bias and for each input, a column for each unit. An ArgumentError names a key whose value
    does not fit the others'.
    """

    kind = "network"

    def __init__(self, given: Network, write: Writer) -> None:
        check_choice("loss", given.loss, LOSSES)
        self._loss, self._write = LOSSES[given.loss], write
        self._own = self._loss.output_name != LINEAR  # whether the loss has an output of its own: no slope in its δ
        self.sizes, weights = _layers(given)
        self.activations = _activations(given, len(self.sizes) - 1)  # with the loss's own output as the last
        self.loss = given.loss
        network = MLP(
            self.sizes,
            [*self.activations[:-1], LINEAR] if self._own else self.activations,
            generator=torch.Generator().manual_seed(given.seed or 0),
            dtype=torch.float64,
        )
        linears = [layer for layer in network if isinstance(layer, Linear)]
        for layer, weight in zip(linears, weights, strict=bool(weights)):
            layer.weight.data, layer.bias.data = weight[1:].T.contiguous(), weight[0]
        self.weights = [torch.vstack([layer.bias, layer.weight.T]).detach() for layer in linears]
        self.x = samples("inputs", given.inputs, self.sizes[0])  # (N, I)
        check_small("inputs", self.sizes, len(self.x))
        self.targets = _targets(given, self.x, self.sizes[-1])  # (N, K), or class labels (N,)

        passes = network.propagate(self.x)
        logits, one = passes[-1].z, torch.ones((), dtype=torch.float64)
        parameters, deltas = network.backward(self._loss.backward(one, logits, self.targets), passes)[1:]
        self.u = [p.u for p in passes]  # (N, O) each
        self.z = [p.z for p in passes[:-1]]  # of the hidden layers, (N, O) each
        self.y = self._loss.output(logits)  # (N, K)
        self.errors = self._loss.errors(logits, self.targets)  # Eₙ, (N,)
        self.E = self._loss.forward(logits, self.targets)
        self.delta = list(deltas)  # (N, O) each
        pairs = zip(parameters[::2], parameters[1::2], strict=True)
        self.gradients = [torch.vstack([b, w.T]) for w, b in pairs]  # ∂E/∂W
        check_finite(*self.u, *self.z, self.y, self.E, *self.delta, *self.gradients)

        self._o = [self.x, *self.z, self.y]  # what the inputs and each layer put out
        t = self.targets if self.targets.ndim == 2 else one_hot(self.targets, self.sizes[-1])
        self._output = [  # of each sample and output unit, the letters in the formulas of the loss
            [dict(zip("uyt", values, strict=True)) for values in zip(*columns, strict=True)]
            for columns in zip(self.u[-1].tolist(), self.y.tolist(), t.tolist(), strict=True)
        ]
        self.rows = [entry for n in range(len(self.x)) for entry in (*self._forward(n), *self._backward(n))]
        self.rows += self._gradients()

    def _forward(self, n: int) -> Iterator[Entry]:
        loss, write, last = self._loss, self._write, len(self.u)
        for k, (weight, name) in enumerate(zip(self.weights, self.activations, strict=True), 1):
            below, u = [1.0, *self._o[k - 1][n].tolist()], self.u[k - 1][n].tolist()
            number = "3.3" if k == last > 1 else "3.1"
            for j, value in enumerate(u, 1):
                origin = write.products(zip(weight[:, j - 1].tolist(), below, strict=True))
                yield Entry("u", indexed("u", j, layer=k), value, number, origin, k, j, sample=n + 1)
            letter, number = ("y", "3.4") if k == last else ("z", "3.2")
            formula = loss.output_formula if k == last and self._own else ACTIVATIONS[name].formula
            exponentials = " + ".join(write.fill("e^{u}", u=v) for v in u)
            for j, value in enumerate(self._o[k][n].tolist(), 1):
                origin = write.fill(formula, u=u[j - 1], exponentials=exponentials)
                yield Entry(letter, indexed(letter, j, layer=k), value, number, origin, k, j, sample=n + 1)
        origin = " + ".join(write.fill(loss.term, **letters) for letters in self._output[n]).replace("+ −", "− ")
        yield Entry("E", indexed("E", n + 1), self.errors[n].item(), loss.equation, origin, sample=n + 1)

    def _backward(self, n: int) -> Iterator[Entry]:
        write, last = self._write, len(self.u)
        for k in range(last, 0, -1):
            values = zip(*(t[n].tolist() for t in (self.delta[k - 1], self.u[k - 1], self._o[k])), strict=True)
            for j, (value, u, z) in enumerate(values, 1):
                if k == last:
                    number, origin = "3.7", write.fill(self._loss.delta, **self._output[n][j - 1])
                else:
                    pairs = list(zip(self.weights[k][j].tolist(), self.delta[k][n].tolist(), strict=True))
                    origin = write.products(pairs) if len(pairs) == 1 else f"[{write.products(pairs)}]"
                if k < last or not self._own:
                    slope = write.fill(ACTIVATIONS[self.activations[k - 1]].slope, u=u, z=z)
                    number, origin = ("3.11", f"({origin})·{slope}") if k == last else ("3.17", f"{slope}·{origin}")
                yield Entry("delta", indexed("δ", j, layer=k), value, number, origin, k, j, sample=n + 1)

    def _gradients(self) -> Iterator[Entry]:
        if len(self.x) > 1:
            origin = " + ".join(self._write.factor(e) for e in self.errors.tolist())
            yield Entry("E", "E", self.E.item(), "3.5", origin)
        for k, gradient in enumerate(self.gradients, 1):
            below = torch.hstack([torch.ones_like(self.errors)[:, None], self._o[k - 1]]).T.tolist()  # input, sample
            delta = self.delta[k - 1].T.tolist()  # unit, sample
            for i, line in enumerate(gradient.tolist()):
                for j, value in enumerate(line, 1):
                    origin = self._write.products(zip(delta[j - 1], below[i], strict=True))
                    yield Entry("dE/dw", indexed("∂E/∂w", j, i, layer=k), value, "3.9", origin, k, j, i)

    def tables(self) -> Iterator[RenderableType]:
        """The vectors of each sample forward and backward, and the gradient; below each, its single numbers."""
        write, layers = self._write, range(1, len(self.u) + 1)

        def single(sample: int | None, *names: str) -> RenderableType:
            entries = [entry for entry in self.rows if entry.sample == sample and entry.name in names]
            return details(entries, write, lambda entry: (entry.layer, entry.name == "E"))

        def matrices(letter: str, values: list[Tensor]) -> RenderableType:
            return vectors((indexed(letter, layer=k), write.matrix(values[k - 1].tolist())) for k in layers)

        described = (
            f"{' → '.join(map(str, self.sizes))} of {count(len(layers), 'layer')}: {', '.join(self.activations)}"
        )
        yield Text(f"A network {described}; error: {self.loss}\n")
        yield title("Weights: a row for the bias and for each input, a column for each unit")
        yield matrices("W", self.weights)
        for n, target in enumerate(self.targets):
            shown_target = write.vector(target.tolist()) if target.ndim else f"class {int(target)}"
            yield title(f"Sample {n + 1} forward: x = {write.vector(self.x[n].tolist())}, t = {shown_target}")
            columns = [("x⁽⁰⁾", [1.0, *self.x[n].tolist()])]
            for k in layers:
                columns.append((indexed("u", layer=k), self.u[k - 1][n].tolist()))
                o = self._o[k][n].tolist()
                columns.append((indexed("y", layer=k), o) if k == len(layers) else (indexed("z", layer=k), [1.0, *o]))
            yield vectors((name, write.column(values)) for name, values in columns)
            yield single(n + 1, "u", "z", "y", "E")
            yield title(f"Sample {n + 1} backward: δ is the sensitivity of the error to a potential, ∂E/∂u")
            delta = [(indexed("δ", layer=k), self.delta[k - 1][n].tolist()) for k in reversed(layers)]
            yield vectors((name, write.column(values)) for name, values in delta)
            yield single(n + 1, "delta")
        yield title("Gradient" + (f", summed over the {len(self.x)} samples" if len(self.x) > 1 else ""))
        yield matrices("∂E/∂W", self.gradients)
        yield single(None, "E", "dE/dw")

    def legend(self) -> dict[str, str]:
        """The chapter's equations by their numbers, and the activations by their names."""
        loss, fill, functions = self._loss, self._write.fill, {}
        delta = fill(loss.delta, u="uⱼ", y="yⱼ", t="tⱼ")
        if self._own:
            functions[loss.output_name] = f"yₖ = {fill(loss.output_formula, u='uₖ', exponentials='Σₗ e^uₗ')}"
        for name in self.activations[: -1 if self._own else None]:
            formula, slope = (fill(text, u="u", z="z") for text in (ACTIVATIONS[name].formula, ACTIVATIONS[name].slope))
            functions[name] = f"h(u) = {formula}, h′(u) = {slope}"
        return {
            "3.1": "uⱼ = Σᵢ wⱼᵢ xᵢ, from the bias (i = 0, x₀ = 1) to the last input; a later layer takes z for x",
            "3.2": "zⱼ = h(uⱼ)",
            "3.3": "uₖ = Σⱼ wₖⱼ zⱼ, from the bias (j = 0, z₀ = 1) to the last hidden unit",
            "3.4": "yₖ = g(uₖ), all layers put together",
            loss.equation: loss.formula,
            "3.5": "E = Σₙ Eₙ",
            "3.7": f"δⱼ = ∂E/∂uⱼ; with this error and its own output function the slope cancels, and it is {delta}",
            "3.11": f"δⱼ = ({delta}) g′(uⱼ)",
            "3.17": "δⱼ = h′(uⱼ) Σₗ wₗⱼ δₗ, l over the units of the layer above",
            "3.9": "∂E/∂wⱼᵢ = δⱼ oᵢ, summed over the samples; oᵢ is what unit i below puts out, o₀ = 1",
            **functions,
        }


def _layers(given: Network) -> tuple[list[int], list[Tensor]]:
    """The sizes, and the weights where they are given."""
    weights = [torch.tensor(matrix, dtype=torch.float64) for matrix in given.weights or ()]
    sizes = given.sizes or ([len(weights[0]) - 1, *(matrix.shape[1] for matrix in weights)] if weights else [])
    if len(sizes) < 2:
        problem = "must list the inputs and the units of each layer, such as [2, 3, 1], or weights be given"
        raise ArgumentError("sizes", f"{problem}, got {shown(given.sizes)}")
    for size in sizes:
        check_at_least("sizes", size, 1)
    check_small("sizes", sizes)
    if (given.weights is None) == (given.seed is None):
        came = "neither" if given.seed is None else "both"
        raise ArgumentError("weights", f"or a seed for random ones must be given, got {came}")
    if not 0 <= (given.seed or 0) < 2**63:
        raise ArgumentError("seed", f"must be a whole number from 0 to 2⁶³ − 1, got {given.seed}")
    expected = ", ".join(f"{1 + n_in} × {n_out}" for n_in, n_out in pairwise(sizes))
    came = ", ".join(f"{rows} × {columns}" for rows, columns in (matrix.shape for matrix in weights))
    if weights and came != expected:
        words = "for each layer a row for the bias and for each input, and a column for each unit"
        raise ArgumentError("weights", f"must be matrices of {expected}: {words}, got {came}")
    return sizes, weights


def _activations(given: Network, n_layers: int) -> list[str]:
    """The activation of each layer, the last being the loss's own output where it has one."""
    own, names = LOSSES[given.loss].output_name, given.activations
    if isinstance(names, str):
        check_choice("activations", names, ACTIVATIONS)
        names = [*[names] * (n_layers - 1), LINEAR]
    if len(names) != n_layers:
        problem = f"must be one name, or one for each of {count(n_layers, 'layer')}, got {shown(names)}"
        raise ArgumentError("activations", problem)
    for k, name in enumerate(names):
        last_of_own = k == n_layers - 1 and own != LINEAR
        check_choice(f"activations[{k}]", name, (LINEAR, own) if last_of_own else ACTIVATIONS)
    return [*names[:-1], own if own != LINEAR else names[-1]]


def _targets(given: Network, x: Tensor, n_outputs: int) -> Tensor:
    """Values, (N, K), or class labels, (N,), as the loss takes them."""
    loss = LOSSES[given.loss]
    if loss.target == "values":
        targets = samples("targets", given.targets, n_outputs, len(x))
        if loss.bounds is not None:
            loss.bounds("targets", targets, {})
        return targets
    if len(given.targets) != len(x) or not all(isinstance(label, int) for label in given.targets):
        problem = f"must list one class label for each sample, {len(x)} in all, got {shown(given.targets)}"
        raise ArgumentError("targets", problem)
    labels = torch.tensor(given.targets)
    check_labels(labels, x, n_outputs, "targets")
    return labels
