"""A perceptron's outputs and, with targets, its learning rule: every number with its equation and its origin."""

import itertools
from collections.abc import Iterator

import torch
from rich.console import RenderableType
from rich.text import Text
from torch import Tensor

from nnlab.ops import StepFunction, bipolar_step, linear_forward, perceptron_rule, step
from nnlab.ops.perceptron import check_desired
from nnlab.trace.description import Perceptron
from nnlab.trace.reading import check_finite, check_small, count, samples
from nnlab.trace.tables import Entry, Trace, Writer, details, indexed, table, title
from nnlab.validation import ArgumentError, check_choice, check_positive

G: dict[str, StepFunction] = {"step": step, "bipolar_step": bipolar_step}


class PerceptronTrace(Trace):
    """The numbers of each sample, in order and in float64; with targets, each sample is learnt before the next.

    An ArgumentError names a key whose value does not fit the others'.
    """

    kind = "perceptron"

    def __init__(self, given: Perceptron, write: Writer) -> None:
        check_choice("output", given.output, G)
        g, self._write = G[given.output], write
        self.weights = torch.tensor(given.weights, dtype=torch.float64)
        self.threshold, self.output = given.threshold, given.output
        self.x = _inputs(given)  # (N, I)
        self.targets, self.eta = _learning(given, g, len(self.x))  # (N,)
        self.rows = []
        weight, bias = self.weights[None], self.weights.new_tensor([-given.threshold])
        us, weights, thetas = [], [], []
        for n, x in enumerate(torch.split(self.x, 1)):
            u = linear_forward(x, weight, bias)  # (1, 1)
            before, theta, y = weight[0].tolist(), 0.0 - bias.item(), g(u).item()  # not −0
            self.rows += self._forward(n + 1, x[0].tolist(), before, theta, u.item(), y)
            if self.targets is not None and self.eta is not None:
                d = self.targets[n]
                error, weight, bias = perceptron_rule(x, d[None, None], weight, bias, self.eta, g)
                if error.item() != 0:
                    change = f"{write.factor(self.eta)}·({write.number(y)} − {write.factor(d.item())})"
                    after = [0.0 - bias.item(), *weight[0].tolist()]
                    self.rows += self._changes(n + 1, change, [-1.0, *x[0].tolist()], [theta, *before], after)
            us.append(u[0, 0])
            weights.append(weight[0])
            thetas.append(0.0 - bias[0])
        self.u = torch.stack(us)  # (N,)
        self.y, self.y_step, self.y_bipolar = g(self.u), step(self.u), bipolar_step(self.u)  # (N,)
        self.weights_after = None if self.targets is None else torch.stack(weights)  # after each sample, (N, I)
        self.threshold_after = None if self.targets is None else torch.stack(thetas)  # likewise, (N,)
        check_finite(self.u, *weights, *thetas)

    def _forward(self, n: int, x: list[float], w: list[float], theta: float, u: float, y: float) -> Iterator[Entry]:
        write = self._write
        origin = f"{write.products(zip(w, x, strict=True))} − {write.factor(theta)}"
        yield Entry("u", "u", u, "§3.2", origin, sample=n)
        yield Entry("y", "y", y, "§3.2", f"g({write.number(u)}), u {'≥' if u >= 0 else '<'} 0", sample=n)

    def _changes(self, n: int, change: str, x: list[float], before: list[float], after: list[float]) -> Iterator[Entry]:
        """θ, with the input −1, and the weights."""
        write = self._write
        for i, (x_i, old, new) in enumerate(zip(x, before, after, strict=True)):
            origin = f"{write.number(old)} − {change}·{write.factor(x_i)}"
            name, symbol, index = ("w", indexed("w", i), i) if i else ("theta", "θ", None)
            yield Entry(name, symbol, new, "§3.2.1", origin, input=index, sample=n)

    def tables(self) -> Iterator[RenderableType]:
        """A row for each sample, and below it the single numbers."""
        write = self._write
        weights, theta = write.vector(self.weights.tolist()), write.number(self.threshold)
        yield Text(f"A perceptron with weights w = {weights} and threshold θ = {theta}\n")
        yield title("Outputs")
        inputs = range(1, len(self.weights) + 1)
        learnt = [] if self.targets is None else ["d", *[indexed("w", i) for i in inputs], "θ"]
        outputs = table(*[indexed("x", i) for i in inputs], "u", "y, step", "y, bipolar", *learnt)
        after = (self.targets, self.weights_after, self.threshold_after)
        columns = [self.x, self.u, self.y_step, self.y_bipolar, *(column for column in after if column is not None)]
        for row in torch.column_stack(columns).tolist():
            outputs.add_row(*map(write.number, row))
        outputs.add_row()
        yield outputs
        if self.eta is not None:
            text = f"w and θ are those after the sample, learnt with η = {write.number(self.eta)} from the output"
            yield Text(f"{text} of the {self.output}; they change exactly where y differs from d.\n")
        yield details(self.rows, write, lambda entry: entry.sample)

    def legend(self) -> dict[str, str]:
        """The chapter's equations by their sections."""
        return {
            "§3.2": "u = Σᵢ wᵢ xᵢ − θ and y = g(u); the step is 1 where u ≥ 0, else 0; the bipolar step +1, else −1",
            "§3.2.1": "wᵢ ← wᵢ − η (y − d) xᵢ and θ ← θ − η (y − d)(−1)",
        }


def _inputs(given: Perceptron) -> Tensor:
    n_inputs = len(given.weights)
    if given.inputs is None and n_inputs > 4:
        raise ArgumentError("inputs", "must be given for more than 4 weights; for fewer, all of 0 and 1 are taken")
    every = list(itertools.product((0.0, 1.0), repeat=n_inputs)) if given.inputs is None else given.inputs
    x = samples("inputs", every, n_inputs)
    check_small("inputs", [n_inputs, 1], len(x))
    return x


def _learning(given: Perceptron, g: StepFunction, n: int) -> tuple[Tensor | None, float | None]:
    """The targets, (N,), and η; both None where nothing is learnt."""
    if given.targets is None:
        if given.eta is not None:
            raise ArgumentError("eta", "must be left out where there are no targets, from which nothing is learnt")
        return None, None
    targets, eta = torch.tensor(given.targets, dtype=torch.float64), 0.1 if given.eta is None else given.eta
    if len(targets) != n:
        raise ArgumentError("targets", f"must have {count(n, 'number')}, one for each sample, got {len(targets)}")
    check_desired("targets", targets, g)
    check_positive("eta", eta)
    return targets, eta
