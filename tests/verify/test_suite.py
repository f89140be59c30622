"""``nnlab check`` without a file: everything passes, and nothing passes that is broken."""

import json

import pytest
import torch

from nnlab import networks, ops
from nnlab.verify import by_hand, suite
from nnlab.verify.command import main
from nnlab.verify.optable import operations

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def everything() -> list[suite.Result]:
    torch.set_num_threads(1)  # as the command does: two would only wait for each other
    return list(suite.results(CPU))


def test_all_of_the_package_passes(everything):
    assert [result for result in everything if not result.ok] == []
    assert len(everything) == suite.count()


def test_every_oracle_speaks_in_both_dtypes(everything):
    for dtype in ("float32", "float64"):
        found = [result for result in everything if result.dtype == dtype]
        assert any(result.autograd is not None for result in found)
        assert any(result.central is not None for result in found)
        assert any(result.trajectory is not None for result in found)
    assert any(result.by_hand is not None for result in everything)
    assert any(result.precision is not None for result in everything)


def test_every_pair_loss_activation_and_depth_is_there(everything):
    names = " | ".join(result.name for result in everything)
    for name in [*ops.ACTIVATIONS, *ops.LOSSES, "linear", "l2 penalty", "perceptron_loss", "perceptron rule"]:
        assert name in names
    for loss in ops.LOSSES:
        for reduction in ("sum", "mean"):
            assert f"{loss}, {reduction} |" in names
            assert f"{loss}, {reduction}, weighted" in names
    for depth in (1, 2, 3, 4):
        assert f"network of {depth} layer" in names
        assert f"ten steps of {depth} layer" in names


BROKEN = {
    "sigmoid": ("sigmoid_backward", lambda g, z: g * z),
    "relu": ("relu_backward", lambda g, z: torch.where(z < 0, 0, g)),
    "linear": ("linear_backward", lambda g, x, w: (g @ w, g.T @ x, g.mean(0))),
    "softmax_cross_entropy, mean": ("softmax_cross_entropy_backward", lambda g, u, *a: g * u.softmax(1)),
    "l2 penalty": ("l2_penalty_backward", lambda g, w, l2: 2 * g * l2 * w),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_operation_fails_and_is_explained(name: str, monkeypatch: pytest.MonkeyPatch):
    function, wrong = BROKEN[name]
    right = getattr(ops, function)
    monkeypatch.setattr(ops, function, wrong)
    for table in (ops.ACTIVATIONS, ops.LOSSES):
        for key, row in table.items():
            if row.backward is right:
                monkeypatch.setitem(table, key, row._replace(backward=wrong))
    operation = next(o for o in operations() if o.name == name)
    for dtype in suite.DTYPES:
        result = suite.check_operation(operation, dtype, CPU)
        assert not result.ok
        assert result.diagnosis


def test_a_broken_forward_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "linear_forward", lambda x, w, b: x @ w.T)
    operation = next(o for o in operations() if o.name == "linear")
    result = suite.check_operation(operation, torch.float64, CPU)
    assert not result.ok
    assert "output" in result.diagnosis


def test_a_lost_digit_fails():
    operation = next(o for o in operations() if o.name == "tanh")

    def rounded(g, u):
        return (operation.backward(g, u) * 2**18).round() / 2**18

    assert not suite.check_operation(operation._replace(backward=rounded), torch.float32, CPU).ok


def test_a_broken_network_parts_from_its_twin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(networks, "linear_backward", lambda delta, x, w: (delta @ w, delta.T @ x, delta.mean(0)))
    operation = next(o for o in operations() if o.name.startswith("network of 1"))
    for dtype in suite.DTYPES:
        assert not suite.check_trajectory(2, "tanh", "sum_of_squares", dtype, CPU).ok
        assert not suite.check_operation(operation, dtype, CPU).ok


def test_a_broken_rule_fails(monkeypatch: pytest.MonkeyPatch):
    assert suite.check_rule(torch.float32, CPU).ok
    own = ops.perceptron_rule
    monkeypatch.setattr(ops, "perceptron_rule", lambda x, d, w, b, lr, g: own(x, d, w, b, 2 * lr, g))
    assert not suite.check_rule(torch.float32, CPU).ok


def test_a_broken_example_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "sum_of_squares_backward", lambda g, y, t: g * 2 * (y - t))
    error, tolerance = by_hand.EXAMPLES["the chapter's worked example"](CPU)
    assert error > tolerance


def test_the_command_prints_one_table(everything, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(suite, "results", lambda device, seed: iter(everything))
    assert main(["--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in (
        "autograd",
        "differences",
        "precision",
        "trajectory",
        "tolerance",
        "pass",
        "float32 5e-06: eps 1.2e-7",
    ):
        assert words in out
    assert out.splitlines()[-1] == f"{suite.count()} of {suite.count()} checks passed on cpu"


def test_the_command_fails_where_something_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
):
    pair = ops.ACTIVATIONS["tanh"]
    monkeypatch.setitem(ops.ACTIVATIONS, "tanh", pair._replace(backward=lambda g, z: g * (1 - z)))
    monkeypatch.setattr(
        suite, "operations", lambda seed=0: (o for o in operations(seed) if o.name in {"tanh", "linear"})
    )
    assert main(["--device", "cpu", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    failed = {row["name"] for row in data["rows"] if not row["ok"]}
    assert "tanh" in failed
    assert "linear" not in failed
    file = tmp_path / "check.json"
    assert main(["--device", "cpu", "--json", str(file)]) == 1
    assert "FAIL tanh" in capsys.readouterr().out
    assert json.loads(file.read_text())["ok"] is False


def test_wrong_arguments(capsys: pytest.CaptureFixture[str], tmp_path):
    for arguments in (
        ["--device", "abacus"],
        [str(tmp_path / "none.py")],
        [str(tmp_path / "none.py"), "--json", "lab.py"],
        [str(tmp_path)],
    ):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("nnlab check: error: ")
        assert err.count("\n") == 1


def test_help_teaches(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as status:
        main(["--help"])
    assert status.value.code == 0
    text = capsys.readouterr().out
    for words in ("perceptron_update(w, x, d, eta)", "cache = (z_h, a_h, z_out, a_out)", "exit status", "--timeout"):
        assert words in text
