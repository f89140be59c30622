"""The perceptron's table, and its learning rule step by step."""

import pytest
import torch

from nnlab.ops import bipolar_step, perceptron_rule, step
from nnlab.trace import trace
from tests.tolerances import assert_close


def test_the_chapters_unit_over_all_eight_inputs() -> None:
    found = trace("perceptron")
    ones = [0, 1, 1, 2, 1, 2, 2, 3]
    assert found.x.sum(1).tolist() == ones
    expected = torch.tensor([0.3 * k - 0.4 for k in ones], dtype=torch.float64)
    assert_close(found.u, expected)
    assert found.y_step.tolist() == [0, 0, 0, 1, 0, 1, 1, 1]  # at least two of three
    assert found.y_bipolar.tolist() == [-1, -1, -1, 1, -1, 1, 1, 1]
    assert found.y.tolist() == found.y_step.tolist()
    origins = [row.origin for row in found.rows if row.name == "u"]
    assert origins[3] == "0.3·0 + 0.3·1 + 0.3·1 − 0.4"
    assert {row.name for row in found.rows} == {"u", "y"}


def test_one_step_by_hand() -> None:
    # u = 0.5·2 − 0.2·1 − 0.1 = 0.7, y = 1, d = 0: w = (0.5 − 0.5·2, −0.2 − 0.5·1), θ = 0.1 + 0.5
    found = trace({"weights": [0.5, -0.2], "threshold": 0.1, "inputs": [2, 1], "targets": [0], "eta": 0.5})
    rows = {row.symbol: row for row in found.rows}
    assert [rows[s].value for s in ("u", "y", "θ", "w₁", "w₂")] == pytest.approx([0.7, 1, 0.6, -0.5, -0.7])
    assert rows["θ"].origin == "0.1 − 0.5·(1 − 0)·(−1)"
    assert rows["w₁"].origin == "0.5 − 0.5·(1 − 0)·2"
    assert {rows[s].equation for s in ("u", "y")} == {"§3.2"}
    assert {rows[s].equation for s in ("θ", "w₁", "w₂")} == {"§3.2.1"}


@pytest.mark.parametrize("output", ["step", "bipolar_step"])
def test_a_pass_is_the_learning_rules(output: str) -> None:
    inputs = torch.randn(12, 3, dtype=torch.float64)
    g = {"step": step, "bipolar_step": bipolar_step}[output]
    targets = g(torch.randn(12, 1, dtype=torch.float64))
    found = trace(
        {
            "weights": [0.1, -0.2, 0.3],
            "threshold": 0.05,
            "output": output,
            "inputs": inputs.tolist(),
            "targets": targets[:, 0].tolist(),
            "eta": 0.25,
        }
    )
    weight, bias = torch.tensor([[0.1, -0.2, 0.3]], dtype=torch.float64), torch.tensor([-0.05], dtype=torch.float64)
    error, weight, bias = perceptron_rule(inputs, targets, weight, bias, 0.25, g)
    assert_close(found.weights_after[-1:], weight)
    assert_close(found.threshold_after[-1:], -bias)
    assert_close(found.y[:, None] - targets, error)
    assert [row.value for row in found.rows if row.name == "y"] == found.y.tolist()
    changed = {row.sample for row in found.rows if row.name == "theta"}
    assert changed == {n + 1 for n in error[:, 0].nonzero().flatten().tolist()}
    assert 0 < len(changed) < 12


def test_the_rule_example_learns_all_three() -> None:
    found = trace("rule")
    assert found.targets.tolist() == found.x.prod(1).tolist()
    assert sum(row.name == "theta" for row in found.rows) == 2
    assert found.u.abs().min() > 0.05  # no output hangs on rounding
