"""A perceptron's outputs, and where desired outputs are given its learning rule, number by number."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnlab.ops import bipolar_step, linear_forward, perceptron_rule, step
from nnlab.trace.description import Perceptron
from nnlab.trace.notation import Row, Writer, indexed
from nnlab.validation import ArgumentError

G = {"step": step, "bipolar_step": bipolar_step}


@dataclass(frozen=True)
class PerceptronTrace:
    """The numbers of each sample as it was met, computed by nnlab's own operations in float64."""

    perceptron: Perceptron
    u: Tensor  # (N,)
    y: Tensor  # (N,), the chosen step function's
    y_step: Tensor
    y_bipolar: Tensor
    thetas: Tensor  # θ after each sample, (N,)
    weights: Tensor  # w after each sample, (N, I)
    rows: list[Row] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists and numbers."""
        unit = self.perceptron
        learnt = (
            {}
            if unit.targets is None
            else {
                "targets": unit.targets[:, 0].tolist(),
                "eta": unit.eta,
                "weights_after": self.weights.tolist(),
                "threshold_after": self.thetas.tolist(),
            }
        )
        return {
            "kind": "perceptron",
            "weights": unit.weights.tolist(),
            "threshold": unit.threshold,
            "output": unit.output,
            "x": unit.inputs.tolist(),
            "u": self.u.tolist(),
            "y": self.y.tolist(),
            "y_step": self.y_step.tolist(),
            "y_bipolar": self.y_bipolar.tolist(),
            **learnt,
            "rows": [row.as_json() for row in self.rows],
        }


def trace_perceptron(unit: Perceptron, write: Writer) -> PerceptronTrace:
    """Meet the samples one after the other; with desired outputs, learn from each before the next.

    Raises:
        ArgumentError: a number is too large for float64.
    """
    weight, bias = unit.weights[None], unit.weights.new_tensor([-unit.threshold])
    potentials, weights, thetas, rows = [], [], [], []
    for n, x in enumerate(unit.inputs):
        u = linear_forward(x[None], weight, bias)  # (1, 1)
        y = G[unit.output](u)
        pairs = write.products(zip(weight[0].tolist(), x.tolist(), strict=True))
        theta = 0.0 - bias.item()  # not −0
        rows.append(Row("u", "u", u.item(), "§3.2", f"{pairs} − {write.factor(theta)}", sample=n + 1))
        sign = "≥" if u.item() >= 0 else "<"
        rows.append(Row("y", "y", y.item(), "§3.2", f"g({write.number(u.item())}), u {sign} 0", sample=n + 1))
        if unit.targets is not None:
            d = unit.targets[n : n + 1]
            error, new_weight, new_bias = perceptron_rule(x[None], d, weight, bias, unit.eta, G[unit.output])
            if error.item() != 0:
                factors = f"{write.factor(unit.eta)}·({write.number(y.item())} − {write.factor(d.item())})"
                origin = f"{write.number(theta)} − {factors}·(−1)"
                rows.append(Row("theta", "θ", 0.0 - new_bias.item(), "§3.2.1", origin, sample=n + 1))
                for i, (old, new) in enumerate(zip(weight[0].tolist(), new_weight[0].tolist(), strict=True), 1):
                    origin = f"{write.number(old)} − {factors}·{write.factor(x[i - 1].item())}"
                    rows.append(Row("w", indexed("w", i), new, "§3.2.1", origin, input=i, sample=n + 1))
            weight, bias = new_weight, new_bias
        potentials.append(u[0, 0])
        weights.append(weight[0])
        thetas.append(0.0 - bias[0])
    u = torch.stack(potentials)
    if not all(bool(torch.isfinite(v).all()) for v in (u, *weights, *thetas)):
        raise ArgumentError("weights", "and inputs must be smaller: a number grows beyond what float64 can hold")
    return PerceptronTrace(
        unit, u, G[unit.output](u), step(u), bipolar_step(u), torch.stack(thetas), torch.stack(weights), rows
    )
