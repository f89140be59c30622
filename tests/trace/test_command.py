"""The command: tables, JSON, files, and errors of one line."""

import json
import subprocess
import sys
from math import tanh
from pathlib import Path

import pytest
import yaml

from nnlab.trace import main
from nnlab.trace.description import EXAMPLES

GOOD = {"sizes": [2, 3, 1], "seed": 0, "inputs": [1, 2], "targets": [1]}
BOMB = b"inputs:\n- &a [1, 1]\n" + b"".join(
    b"- &%c [%b]\n" % (c, b", ".join([b"*%c" % (c - 1)] * 30)) for c in b"bcdefg"
)
UNIT = {"weights": [1, 2], "threshold": 0.5}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_chapters_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", "chapter"]) == 0
    shown = lines(capsys.readouterr().out)
    for line in [
        "x⁽⁰⁾ u⁽¹⁾ z⁽¹⁾ u⁽²⁾ z⁽²⁾ u⁽³⁾ y⁽³⁾",
        "1 0.7 1 −1.48 1 −0.8031 −0.6658",
        "2 1 0.6044 −0.9015",
        "u₁⁽¹⁾ = 0.1·1 + 0.3·2 = 0.7 (3.1)",
        "u₁⁽²⁾ = 0.2·1 + 1·0.6044 + (−3)·0.7616 = −1.48 (3.1)",
        "u₁⁽³⁾ = 1·1 + 2·(−0.9015) = −0.8031 (3.3)",
        "y₁⁽³⁾ = tanh(−0.8031) = −0.6658 (3.4)",
        "δ₁⁽³⁾ = (−0.6658 − 1)·(1 − (−0.6658)²) = −0.9274 (3.11)",
        "δ₁⁽²⁾ = (1 − (−0.9015)²)·2·(−0.9274) = −0.3473 (3.17)",
        "δ⁽³⁾ δ⁽²⁾ δ⁽¹⁾",
        "−0.9274 −0.3473 −0.2204",
        "∂E/∂w₁₁⁽¹⁾ = (−0.2204)·2 = −0.4408 (3.9)",
        "∂E/∂w₂₀⁽¹⁾ = 0.4375·1 = 0.4375 (3.9)",
        "−0.4408 0.875 −0.2099 0.8361",
        "tanh h(u) = tanh(u), h′(u) = (1 − z²)",
    ]:
        assert line in shown


def test_the_perceptrons_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", "perceptron"]) == 0
    shown = lines(capsys.readouterr().out)
    assert "0 1 1 0.2 1 1" in shown
    assert "1 0 0 −0.1 0 −1" in shown
    assert "u = 0.3·1 + 0.3·1 + 0.3·1 − 0.4 = 0.5 (§3.2)" in shown


def test_the_rules_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", "rule"]) == 0
    shown = lines(capsys.readouterr().out)
    assert "0 1 1 0.2 1 1 0 0.3 0.1 0.1 0.6" in shown
    assert "θ = 0.4 − 0.2·(1 − 0)·(−1) = 0.6 (§3.2.1)" in shown


def test_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", "chapter", "--digits", "8"]) == 0
    assert "z₁⁽¹⁾ = tanh(0.7) = 0.60436778 (3.2)" in lines(capsys.readouterr().out)


def test_json_is_alone_and_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", "chapter", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["rows"]
    assert all({"name", "symbol", "value", "equation", "origin"} <= row.keys() for row in rows)
    y = tanh(1 + 2 * tanh(0.2 + tanh(0.7) - 3 * tanh(1)))
    assert found["y"] == [[pytest.approx(y, rel=1e-15)]] == [[r["value"] for r in rows if r["name"] == "y"]]
    assert {r["name"] for r in rows} == {"u", "z", "y", "E", "delta", "dE/dw"}
    assert [len(m) for m in found["dE/dW"]] == [2, 3, 2]
    keys = ["sizes", "activations", "loss", "weights", "x", "targets", "u", "z", "y", "errors", "E", "delta", "dE/dW"]
    assert sorted(found) == sorted(["kind", *keys, "rows"])


def test_json_of_a_perceptron(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"kind", "weights", "threshold", "output", "x", "u", "y", "y_step", "y_bipolar", "rows"}
    learnt = {"targets", "eta", "weights_after", "threshold_after"}
    for example, expected in (("perceptron", keys), ("rule", keys | learnt)):
        assert main(["--example", example, "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)) == expected


def test_json_to_a_file_beside_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.json"
    assert main(["--example", "chapter", "--json", str(file)]) == 0
    assert "Sample 1 forward" in capsys.readouterr().out
    assert main(["--example", "chapter", "--json"]) == 0
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(capsys.readouterr().out)


def test_several_samples_have_a_table_each_and_one_gradient(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text(yaml.safe_dump({**GOOD, "inputs": [[1, 2], [3, 4]], "targets": [[1], [0]]}))
    assert main([str(file)]) == 0
    shown = lines(capsys.readouterr().out)
    assert sum(line.startswith("Sample 2") for line in shown) == 2
    assert "Gradient, summed over the 2 samples" in shown
    assert sum(line.startswith("E = ") for line in shown) == 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_the_file_of_its_name(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--example", example]) == 0
    found = capsys.readouterr().out
    assert "The equations" in found
    assert main([str(EXAMPLES[example])]) == 0
    assert found == capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "the file must hold keys"),
        (None, "the file must hold keys"),
        ({**GOOD, "weigths": 1}, "weigths is no key: did you mean weights?"),
        ({**UNIT, "zzz": 1}, "zzz is no key: use weights, threshold"),
        ({**GOOD, "loss": "hinge"}, "loss must be one of"),
        ({**GOOD, "loss": ["hinge"]}, "loss must be a name, got ['hinge']"),
        ({"seed": 0, "inputs": [1], "targets": [1]}, "sizes must list the inputs and the units of each layer, such as"),
        ({**GOOD, "sizes": [2]}, "sizes must list"),
        ({**GOOD, "sizes": "2-3-1"}, "sizes must be a list of whole numbers, got '2-3-1'"),
        ({**GOOD, "sizes": "[2, 3, 1]"}, "sizes must be a list of whole numbers, got '[2, 3, 1]'"),
        ({**GOOD, "sizes": [2, 3.5, 1]}, "sizes must be a list of whole numbers, got [2, 3.5, 1]"),
        ({**GOOD, "sizes": [2, 0, 1]}, "sizes must be a whole number of at least 1, got 0"),
        (
            {**GOOD, "sizes": [2, 17, 1]},
            "sizes must be of a small network, 16 units in a layer and 2000 numbers in all at most, got 17 and",
        ),
        (
            {**GOOD, "sizes": [2, *[16] * 9, 1]},
            "sizes must be of a small network, 16 units in a layer and 2000 numbers in all at most, got 16 and",
        ),
        ({**GOOD, "activations": "swish"}, "activations must be one of"),
        ({**GOOD, "activations": ["swish", "tanh"]}, "activations[0] must be one of 'identity', 'sigmoid', 'tanh'"),
        ({**GOOD, "activations": ["tanh", 3]}, "activations[1] must be one of 'identity', "),
        ({**GOOD, "activations": ["tanh"]}, "activations must be one name, or one for each of 2 layers"),
        (
            {**GOOD, "activations": ["tanh", "tanh"], "loss": "binary_cross_entropy"},
            "activations[1] must be one of 'identity', 'sigmoid', got 'tanh'",
        ),
        ({**GOOD, "seed": -1}, "seed must be a whole number from 0 to 2⁶³ − 1, got -1"),
        ({**GOOD, "seed": 2**64}, "seed must be a whole number from 0 to"),
        ({**GOOD, "seed": None}, "weights or a seed for random ones must be given, got neither"),
        (
            {**GOOD, "weights": [[[1, 2, 3]] * 3, [[1]] * 4]},
            "weights or a seed for random ones must be given, got both",
        ),
        (
            {**GOOD, "seed": None, "weights": [[[1]]]},
            "weights must be matrices of 3 × 3, 4 × 1: for each layer a row for the bias and for each input, and",
        ),
        (
            {**GOOD, "seed": None, "weights": [[[1, 2, 3]] * 3, [[1]] * 3]},
            "and a column for each unit, got 3 × 3, 3 × 1",
        ),
        (
            {**GOOD, "seed": None, "weights": [[[1, 2], [3]], [[1]]]},
            "weights[0] must be a list of rows of numbers, all of one length, got [[1, 2], [3]]",
        ),
        (
            {**GOOD, "seed": None, "weights": [[[1, 2, "x"]] * 3, [[1]] * 4]},
            "weights[0] must be a list of rows of numbers, all of one length, got [[1, 2, 'x']",
        ),
        ({**GOOD, "seed": None, "weights": [[[1, 2, 1e308]] * 3, [[1e300]] * 4]}, "weights and inputs must be smaller"),
        ({**GOOD, "inputs": [1, 2, 3]}, "inputs must have 2 numbers for each sample, got 3"),
        ({**GOOD, "inputs": None}, "inputs must be a list of numbers, or such a list for each sample, got nothing"),
        (
            {**GOOD, "inputs": [1, True]},
            "inputs must be a list of numbers, or such a list for each sample, got [1, True]",
        ),
        ({**GOOD, "inputs": [1, float("nan")]}, "inputs must hold finite numbers, got [1, nan]"),
        (
            {**GOOD, "inputs": [1, 10**400]},
            "inputs must be a list of numbers, or such a list for each sample, got [1, 1000",
        ),
        (
            {**GOOD, "inputs": [1, "2"]},
            "inputs must be a list of numbers, or such a list for each sample, got [1, '2']",
        ),
        (
            {**GOOD, "inputs": [[1, 2], 3]},
            "inputs must be a list of numbers, or such a list for each sample, got [[1, 2], 3]",
        ),
        ({**GOOD, "targets": [[1], [2]]}, "targets must have one list for each of the 1 samples"),
        ({**GOOD, "targets": []}, "targets must be a list of numbers, or such a list for each sample, got []"),
        ({**GOOD, "targets": [2], "loss": "binary_cross_entropy"}, "targets must hold values from 0 to 1, got 2 to 2"),
        ({**GOOD, "targets": [1], "loss": "softmax_cross_entropy"}, "targets must hold labels from 0 to 0, got 1"),
        (
            {**GOOD, "targets": [0.5], "loss": "softmax_cross_entropy"},
            "targets must list one class label for each sample",
        ),
        ({**UNIT, "threshold": "high"}, "threshold must be a number, got 'high'"),
        ({**UNIT, "weights": 1}, "weights must be a list of numbers, got 1"),
        ({**UNIT, "output": "sign"}, "output must be one of 'step', 'bipolar_step', got 'sign'"),
        ({**UNIT, "weights": [1] * 5}, "inputs must be given for more than 4 weights"),
        (
            {**UNIT, "inputs": [[1, 2]] * 500},
            "inputs must be of a small network, 16 units in a layer and 2000 numbers in all at most, got 2 and 4503",
        ),
        ({**UNIT, "targets": [0, 1]}, "targets must have 4 numbers, one for each sample, got 2"),
        ({**UNIT, "targets": [0, 1, 2, 1]}, "targets must hold 0 and 1 alone"),
        ({**UNIT, "output": "bipolar_step", "targets": [0, 1, 1, 1]}, "targets must hold -1 and 1 alone"),
        ({**UNIT, "eta": 0.1}, "eta must be left out where there are no targets"),
        ({**UNIT, "targets": [0, 1, 1, 1], "eta": 0}, "eta must be a number greater than 0"),
        ({**UNIT, "weights": [1e308, 1e308]}, "weights and inputs must be smaller"),
    ],
)
def test_a_wrong_file_is_answered_by_one_line(
    content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.yaml"
    file.write_text(yaml.safe_dump(content))
    assert main([str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"nnlab trace: error: {file}: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a YAML file or an example"),
        (["net.yaml", "--example", "chapter"], "name a YAML file or an example, one of the two"),
        (["--json", "net.yaml"], "name a YAML file or an example"),
        (["--example", "unknown"], "invalid choice"),
        (["--example", "chapter", "--digits", "0"], "digits must be a whole number from 1 to 17, got 0 (--digits)"),
        (["--example", "chapter", "--digits", "x"], "invalid int"),
        (["nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--example", "chapter", "--json", "no/such/folder.json"], "No such file"),
        (["--frobnicate"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_are_answered_by_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("nnlab trace: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [b"a: [1", b"a: &a [*a]", b"\xff\xfe", b"a: " + b"[" * 5000, BOMB + b"targets: [1]\nseed: 0\nsizes: [2, 1]"],
)
def test_what_is_not_yaml_is_answered_by_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.yaml"
    file.write_bytes(content)
    assert main([str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(OSError, match="nowhere"):
        main(["--debug", "nowhere.yaml"])


def test_help_teaches_without_torch() -> None:
    code = "import sys, nnlab.trace as t; s = t.main(['--help']); sys.exit(s or ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "one of chapter, learning-or, perceptron, rule, three-classes, xor" in " ".join(done.stdout.split())
    for word in ("--example chapter", "sum_of_squares", "threshold", "seed"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
