"""A trace on the screen: the chapter's tables of vectors, then each number with its equation and origin."""

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nnlab.trace.network import NetworkTrace
from nnlab.trace.notation import Row, Writer, indexed
from nnlab.trace.unit import PerceptronTrace
from nnlab.trace.values import count

FORMULAS = {
    "3.1": "uⱼ = Σᵢ wⱼᵢ xᵢ, from the bias (i = 0, x₀ = 1) to the last input; a later layer takes z for x",
    "3.2": "zⱼ = h(uⱼ)",
    "3.3": "uₖ = Σⱼ wₖⱼ zⱼ, from the bias (j = 0, z₀ = 1) to the last hidden unit",
    "3.4": "yₖ = g(uₖ), all layers put together",
    "3.5": "E = Σₙ Eₙ",
    "3.7": "δⱼ = ∂E/∂uⱼ; with this error and its own output function the slope cancels, and it is yⱼ − tⱼ",
    "3.9": "∂E/∂wⱼᵢ = δⱼ oᵢ, summed over the samples; oᵢ is what unit i below puts out, o₀ = 1",
    "3.10": "Eₙ = ½ Σⱼ (yⱼ − tⱼ)²",
    "3.11": "δⱼ = (yⱼ − tⱼ) g′(uⱼ)",
    "3.17": "δⱼ = h′(uⱼ) Σₗ wₗⱼ δₗ, l over the units of the layer above",
    "§3.2": "u = Σᵢ wᵢ xᵢ − θ and y = g(u); the step is 1 where u ≥ 0, else 0; the bipolar step +1, else −1",
    "§3.2.1": "wᵢ ← wᵢ − η (y − d) xᵢ and θ ← θ − η (y − d)(−1)",
    "§3.4": "Eₙ = −Σₖ [tₖ ln yₖ + (1 − tₖ) ln(1 − yₖ)] with y = σ(u)",
    "–": "Eₙ = ln Σₖ e^uₖ − u of the target's class; not in the chapter",
}
"""The chapter's equations in one line each."""

FUNCTIONS = {
    "identity": "h(u) = u, h′(u) = 1",
    "sigmoid": "h(u) = σ(u) = 1 / (1 + e^(−u)), h′(u) = z (1 − z)",
    "tanh": "h(u) = tanh u, h′(u) = 1 − z²",
    "relu": "h(u) = max(u, 0), h′(u) = 1 where z > 0, else 0",
    "softmax": "yₖ = e^uₖ / Σₗ e^uₗ",
}
"""The activation functions and their slopes."""


def show(trace: NetworkTrace | PerceptronTrace, write: Writer, console: Console) -> None:
    """Print a trace."""
    parts = _network(trace, write) if isinstance(trace, NetworkTrace) else _perceptron(trace, write)
    for part in parts:
        console.print(part)
    console.print(_title("The equations"))
    console.print(_legend(trace.rows, trace.names if isinstance(trace, NetworkTrace) else ()))


def _network(trace: NetworkTrace, write: Writer) -> Iterator[RenderableType]:
    network = trace.network
    sizes = " → ".join(map(str, network.sizes))
    yield Text(
        f"A network {sizes} of {count(len(trace.u), 'layer')}: {', '.join(trace.names)}; error: {network.loss}\n"
    )
    yield _title("Weights: a row for the bias and for each input, a column for each unit")
    yield _vectors((indexed("W", layer=k), _matrix(w.tolist(), write)) for k, w in enumerate(network.weights, 1))
    last = len(trace.u)
    for n in range(len(trace.errors)):
        target = network.targets[n]
        told = write.vector(target.tolist()) if target.ndim else f"class {int(target)}"
        heading = f"x = {write.vector(network.inputs[n].tolist())}, t = {told}"
        yield _title(f"Sample {n + 1} forward: {heading}")
        forward = [("x⁽⁰⁾", _column([1.0, *trace.outputs[0][n].tolist()], write))]
        for k in range(1, last + 1):
            forward.append((indexed("u", layer=k), _column(trace.u[k - 1][n].tolist(), write)))
            z = trace.outputs[k][n].tolist()
            bias = [] if k == last else [1.0]
            forward.append((indexed("y" if k == last else "z", layer=k), _column([*bias, *z], write)))
        mine = [row for row in trace.rows if row.sample == n + 1]
        yield _vectors(forward)
        yield _details([row for row in mine if row.name != "delta"], write)
        deltas = [(indexed("δ", layer=k), _column(trace.deltas[k - 1][n].tolist(), write)) for k in range(last, 0, -1)]
        yield _title(f"Sample {n + 1} backward: δ is the sensitivity of the error to a potential, ∂E/∂u")
        yield _vectors(deltas)
        yield _details([row for row in mine if row.name == "delta"], write)
    yield _title("Gradient" + (f", summed over the {len(trace.errors)} samples" if len(trace.errors) > 1 else ""))
    yield _vectors((indexed("∂E/∂W", layer=k), _matrix(g.tolist(), write)) for k, g in enumerate(trace.gradients, 1))
    yield _details([row for row in trace.rows if row.sample is None], write)


def _perceptron(trace: PerceptronTrace, write: Writer) -> Iterator[RenderableType]:
    unit = trace.perceptron
    weights, theta = write.vector(unit.weights.tolist()), write.number(unit.threshold)
    yield Text(f"A perceptron with weights w = {weights} and threshold θ = {theta}\n")
    yield _title("Outputs")
    numbers = range(1, len(unit.weights) + 1)
    learnt = [] if unit.targets is None else ["d", *[indexed("w", i) for i in numbers], "θ"]
    table = _table(*[indexed("x", i) for i in numbers], "u", "y, step", "y, bipolar", *learnt)
    for n, x in enumerate(unit.inputs.tolist()):
        cells = [*x, trace.u[n].item(), trace.y_step[n].item(), trace.y_bipolar[n].item()]
        if unit.targets is not None:
            cells += [unit.targets[n].item(), *trace.weights[n].tolist(), trace.thetas[n].item()]
        table.add_row(*map(write.number, cells))
    table.add_row()
    yield table
    if unit.targets is not None:
        told = f"w and θ are those after the sample, learnt with η = {write.number(unit.eta)} from the output"
        yield Text(f"{told} of the {unit.output}; they change exactly where y differs from d.\n")
    yield _details(trace.rows, write, by_sample=True)


def _details(rows: Iterable[Row], write: Writer, by_sample: bool = False) -> Table:
    """Each number as an equation, how it came about; a gap between layers, or between samples."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    group = None
    for row in rows:
        latest = row.sample if by_sample else (row.layer, row.name == "E")
        if group not in (None, latest):
            table.add_row()
        group = latest
        table.add_row(Text(row.symbol), Text(f"= {row.origin}"), f"= {write.number(row.value)}", f"({row.equation})")
    table.add_row()
    return table


def _legend(rows: Iterable[Row], activations: Iterable[str]) -> Table:
    used = {row.equation for row in rows}
    table = Table(box=None, show_header=False, pad_edge=False)
    for number, formula in FORMULAS.items():
        if number in used:
            table.add_row(f"({number})", Text(formula))
    for name in dict.fromkeys(activations):
        table.add_row(name, Text(FUNCTIONS[name]))
    return table


def _title(text: str) -> Text:
    return Text(f"{text}\n", style="bold")


def _vectors(columns: Iterable[tuple[str, str]]) -> Table:
    names, texts = zip(*columns, strict=True)
    table = _table(*names)
    table.add_row(*texts)
    table.add_row()
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _column(values: Iterable[float], write: Writer) -> str:
    return "\n".join(write.number(v) for v in values)


def _matrix(rows: Sequence[Sequence[float]], write: Writer) -> str:
    """Rows of numbers, each column as wide as its widest."""
    texts = [[write.number(v) for v in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(t.rjust(w) for t, w in zip(row, widths, strict=True)) for row in texts)
