"""``nnlab check FILE.py``: right files pass, mistakes are named, and no file can harm the grader."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnlab.validation import ArgumentError
from nnlab.verify.command import main
from nnlab.verify.grader import FileReport, grade_file

RIGHT = """\
import numpy as np

def perceptron_update(w, x, d, eta):
    y = 1 if w @ x >= 0 else -1
    return w - eta * (y - d) * x

def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-np.clip(z, -250, 250)))

def forward(X, w_h, b_h, w_out, b_out):
    z_h = np.dot(X, w_h) + b_h
    a_h = sigmoid(z_h)
    z_out = np.dot(a_h, w_out) + b_out
    a_out = sigmoid(z_out)
    return z_h, a_h, z_out, a_out

def backward(X, y_enc, cache, w_out):
    z_h, a_h, z_out, a_out = cache
    delta_out = a_out - y_enc
    delta_h = np.dot(delta_out, w_out.T) * a_h * (1.0 - a_h)
    return X.T @ delta_h, delta_h.sum(axis=0), a_h.T @ delta_out, delta_out.sum(axis=0)
"""


def grade(tmp_path: Path, source: str, timeout: float = 20.0) -> FileReport:
    file = tmp_path / "lab.py"
    file.write_text(source)
    return grade_file(file, timeout)


def only(source: str, name: str) -> str:
    """The source with one of its functions, and what it needs."""
    parts = source.split("\n\n")
    return "\n\n".join(p for p in parts if not p.startswith("def ") or p.startswith((f"def {name}(", "def sigmoid")))


def test_a_right_file(tmp_path):
    report = grade(tmp_path, RIGHT)
    assert report.ok, report.text()
    assert [g.function for g in report.grades] == ["perceptron_update", "forward", "backward"]
    assert report.text().splitlines()[-1] == "lab.py: 3 of 3 right"


def test_outputs_of_0_and_1_are_right_too(tmp_path):
    report = grade(tmp_path, only(RIGHT, "perceptron_update").replace("else -1", "else 0"))
    assert report.ok
    assert "0 and 1" in report.grades[0].words


RULES = {
    "sign": ("w - eta", "w + eta"),
    "eta": ("eta * (y - d)", "(y - d)"),
    "at-zero": (">= 0", "> 0"),
    "u-for-y": ("(y - d)", "(w @ x - d)"),
    "always": ("- eta * (y - d)", "+ eta * d"),
    "y-alone": ("(y - d)", "y"),
    "x": ("(y - d) * x", "(y - d)"),
    "half": ("eta * (y - d)", "eta * (y - d) / 2"),
    "step-alone": ("return w - ", "return -"),
    "nothing": ("return w - eta * (y - d) * x", "return w"),
    "theta-sign": ("return w - eta * (y - d) * x", "s = -eta * (y - d) * x; s[0] = -s[0]; return w + s"),
    "theta": ("return w - eta * (y - d) * x", "s = -eta * (y - d) * x; s[0] = 0; return w + s"),
    "shape": ("return w - eta * (y - d) * x", "return w[1:]"),
    "unknown": ("return w - eta * (y - d) * x", "return w - eta * (y - d) * x ** 3"),
}


@pytest.mark.parametrize("fault", RULES)
def test_mistakes_in_the_perceptrons_rule(tmp_path, fault: str):
    report = grade(tmp_path, only(RIGHT, "perceptron_update").replace(*RULES[fault]))
    assert not report.ok
    assert report.grades[0].fault == fault


FORWARDS = {
    "z_h is wrong: the bias b_h is not added": ("w_h) + b_h", "w_h)"),
    "a_h is wrong: the sigmoid is missing": ("sigmoid(z_h)", "z_h"),
    "a_h is wrong: it is tanh": ("sigmoid(z_h)", "np.tanh(z_h)"),
    "z_out is wrong: it is computed from z_h": ("np.dot(a_h", "np.dot(z_h"),
    "a_out is wrong: it is a softmax": (
        "a_out = sigmoid(z_out)",
        "a_out = np.exp(z_out) / np.exp(z_out).sum(1, keepdims=True)",
    ),
    "must return (z_h, a_h, z_out, a_out), got 2": ("return z_h, a_h, z_out, a_out", "return a_h, a_out"),
    "a_h must have shape": ("z_h, a_h, z_out, a_out", "z_h, a_h.T, z_out, a_out"),
    "NaN or infinity": ("np.exp(-np.clip(z, -250, 250))", "np.exp(-z) + 0 * np.exp(-z)"),
    "z_h is wrong, by up to": ("np.dot(X, w_h)", "np.dot(X * X, w_h)"),
}


@pytest.mark.parametrize("words", FORWARDS)
def test_mistakes_in_the_forward_pass(tmp_path, words: str):
    report = grade(tmp_path, only(RIGHT, "forward").replace(*FORWARDS[words]))
    assert not report.ok
    assert words in report.text()


BACKWARDS = {
    "derivative-missing": (" * a_h * (1.0 - a_h)", ""),
    "derivative-not-cancelled": ("a_out - y_enc", "(a_out - y_enc) * a_out * (1 - a_out)"),
    "sign": ("a_out - y_enc", "y_enc - a_out"),
    "bias-averaged": ("delta_h.sum(axis=0)", "delta_h.mean(axis=0)"),
    "batch-mean-extra": ("a_out - y_enc", "(a_out - y_enc) / len(X)"),
    "transposed": ("X.T @ delta_h", "delta_h.T @ X"),
    "onehot-missing": ("a_out - y_enc", "a_out"),
    "logits-for-probabilities": ("a_out - y_enc", "z_out - y_enc"),
    "derivative-fed-u": ("a_h * (1.0 - a_h)", "z_h * (1.0 - z_h)"),
    "derivative-of-other": ("a_h * (1.0 - a_h)", "(1 - a_h ** 2)"),
    "preactivation": ("a_h.T @ delta_out", "z_h.T @ delta_out"),
    "factor-two": ("a_out - y_enc", "2 * (a_out - y_enc)"),
    "penalty-extra": ("a_h.T @ delta_out", "a_h.T @ delta_out + 0.1 * w_out"),
    "bias-wrong-axis": ("delta_out.sum(axis=0)", "delta_out.sum(axis=1)"),
    "order": ("X.T @ delta_h, delta_h.sum(axis=0)", "delta_h.sum(axis=0), X.T @ delta_h"),
    "count": (", delta_out.sum(axis=0)", ""),
    "zero": ("delta_h.sum(axis=0)", "0 * delta_h.sum(axis=0)"),
}


@pytest.mark.parametrize("fault", BACKWARDS)
def test_mistakes_in_backpropagation(tmp_path, fault: str):
    report = grade(tmp_path, only(RIGHT, "backward").replace(*BACKWARDS[fault]))
    assert not report.ok
    assert report.grades[0].fault == fault, report.text()


def test_the_gradients_have_the_learners_names(tmp_path):
    report = grade(tmp_path, only(RIGHT, "backward").replace(*BACKWARDS["bias-averaged"]))
    first, second = report.grades[0].words.split(": ")
    assert first == "grad_b_h is 0.143 × the right one, and the batch is 7"
    assert second == "the bias gradient is averaged over the batch, not summed"


UPDATE = "def perceptron_update(w, x, d, eta):\n    "

NASTY = {
    "line 1 (`def f(`): SyntaxError": "def f(\n",
    "line 1 (`import numpyy`): ModuleNotFoundError": "import numpyy\n",
    "line 2 (`return w @ x[:-2]`): ValueError": f"{UPDATE}return w @ x[:-2]\n",
    "line 2 (`return w / zero`): NameError": f"{UPDATE}return w / zero\n",
    "line 2 (`raise SystemExit`): the file ends the program (sys.exit)": f"{UPDATE}raise SystemExit\n",
    "line 2 (`import os; os._exit(0)`): the file ends the program (os._exit)": f"{UPDATE}import os; os._exit(0)\n",
    "RecursionError": f"{UPDATE}return perceptron_update(w, x, d, eta)\n",
    "line 2 (`import ctypes; ctypes.string_at(0)`): the process crashed (SIGSEGV)": (
        f"{UPDATE}import ctypes; ctypes.string_at(0)\n"
    ),
    "the process crashed (SIGKILL)": f"{UPDATE}import os; os.kill(os.getpid(), 9)\n",
    "line 3 (`big = np.zeros(6 * 2 ** 27)`): MemoryError": (  # 6 GiB, which most machines would grant
        f"import numpy as np\n{UPDATE}big = np.zeros(6 * 2 ** 27)\n    return w\n"
    ),
    "returned None": f"{UPDATE}w -= eta\n",
    "the result holds str, not numbers": f"{UPDATE}return 'w'\n",
    "EOFError": f"{UPDATE}return input()\n",
    "no proper answer": f"""\
import os
for n in range(3, 256):
    try:
        os.write(n, bytes(12))
    except OSError:
        pass
{UPDATE}return w
""",
}


@pytest.mark.parametrize("words", NASTY)
def test_a_bad_file_is_one_line(tmp_path, words: str, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "lab.py"
    file.write_text(NASTY[words])
    assert main([str(file)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "Traceback" not in out
    assert words in out.splitlines()[0]
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("where", ["file", "function", "all but KeyboardInterrupt caught"])
def test_an_endless_loop_ends_and_its_line_is_named(tmp_path, where: str):
    source = {
        "file": "while True:\n    pass\n",
        "function": f"{UPDATE}while True:\n        pass\n",
        "all but KeyboardInterrupt caught": (
            f"{UPDATE}while True:\n        try:\n            pass\n        except BaseException:\n            pass\n"
        ),
    }[where]
    start = time.monotonic()
    report = grade(tmp_path, source, timeout=1.0)
    assert time.monotonic() - start < 6
    assert not report.ok
    assert "endless loop" in report.text()
    assert report.grades[0].line is not None


def test_a_crash_in_one_function_does_not_keep_the_others_from_their_grade(tmp_path):
    source = RIGHT.replace("y = 1 if", "import os; os.kill(os.getpid(), 9); y = 1 if")
    assert [g.ok for g in grade(tmp_path, source).grades] == [False, True, True]


def test_what_the_file_prints_does_not_matter(tmp_path, capsys: pytest.CaptureFixture[str]):
    noise = (
        "import sys\nfor _ in range(50_000): print('ok   perceptron_update' * 3); sys.stderr.write('{\"ok\": true}')\n"
    )
    file = tmp_path / "lab.py"
    file.write_text(noise + RIGHT.replace("w - eta", "w + eta"))
    assert main([str(file), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is False
    assert [g["ok"] for g in data["functions"]] == [False, True, True]
    assert len(data["printed"]) <= 500


def test_children_of_the_file_are_ended_with_it(tmp_path):
    mark = tmp_path / "alive"
    source = f"""\
import os, time
if os.fork() == 0:
    while True:
        open({str(mark)!r}, "w").close()
        time.sleep(0.05)
{RIGHT}"""
    assert grade(tmp_path, source).ok
    mark.unlink(missing_ok=True)
    time.sleep(0.3)
    assert not mark.exists()


def test_torch_is_allowed(tmp_path):
    source = f"""\
import torch
{UPDATE}w, x = torch.as_tensor(w), torch.as_tensor(x)
    y = 1.0 if w @ x >= 0 else -1.0
    return w - eta * (y - d) * x
"""
    assert grade(tmp_path, source, timeout=60).ok


def test_a_file_that_imports_its_neighbour(tmp_path):
    (tmp_path / "helpers.py").write_text("def g(u):\n    return 1 if u >= 0 else -1\n")
    source = only(RIGHT, "perceptron_update").replace("y = 1 if w @ x >= 0 else -1", "y = g(w @ x)")
    assert grade(tmp_path, "from helpers import g\n" + source).ok


def test_a_file_with_nothing_to_grade_is_a_users_error(tmp_path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "lab.py"
    file.write_text("x = 1\n")
    assert main([str(file)]) == 2
    assert "must define one of perceptron_update, forward, backward" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match="timeout must be a number greater than 0"):
        grade_file(file, 0)


def test_json_before_the_file_does_not_overwrite_it(tmp_path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "lab.py"
    file.write_text(RIGHT)
    assert main(["--json", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert file.read_text() == RIGHT


def test_a_file_on_a_system_without_posix_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "lab.py"
    file.write_text(RIGHT)
    monkeypatch.setattr("nnlab.verify.command.os", SimpleNamespace(name="nt"))
    assert main([str(file)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "FILE must be checked on a POSIX system" in said.err
