"""``from nnlab.trace import trace``: its sources, how it prints, and its errors."""

import copy

import numpy as np
import pytest
import torch
import yaml

from nnlab.trace import trace
from nnlab.trace.description import EXAMPLES
from nnlab.validation import ArgumentError

CONTENT = {"weights": [[[0.5], [2], [1]]], "inputs": [[3, 1], [0, -1]], "targets": [[1], [0]]}


def test_a_name_a_path_and_a_mapping_are_one(tmp_path):
    file = tmp_path / "net.yaml"
    text = EXAMPLES["chapter"].read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    mapping = yaml.safe_load(text)
    named = trace("chapter").to_dict()
    assert named == trace(file).to_dict() == trace(str(file)).to_dict() == trace(mapping).to_dict()


def test_arrays_tensors_and_tuples_are_lists_and_stay_as_they_were():
    before = copy.deepcopy(CONTENT)
    expected = trace(CONTENT).to_dict()
    assert before == CONTENT
    arrays = {key: np.array(value) for key, value in CONTENT.items()}
    tensors = {
        "weights": tuple(torch.tensor(w) for w in CONTENT["weights"]),
        "inputs": torch.tensor(CONTENT["inputs"]),
        "targets": ((1,), (0,)),
    }
    assert trace(arrays).to_dict() == trace(tensors).to_dict() == expected


def test_numbers_with_an_exponent(tmp_path):
    file = tmp_path / "net.yaml"
    file.write_text("weights: [1e-3, 2E+1]\nthreshold: -1e-4\n")
    assert trace(file).weights.tolist() == [1e-3, 20]


def test_it_prints_as_tables(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name in ("chapter", "rule"):
        found = trace(name, digits=6)
        assert str(found) == repr(found)
        assert "\x1b" not in repr(found)
        assert "The equations" in repr(found)
        assert found.rows[0].symbol in repr(found)
    found = trace("chapter", digits=6)
    assert f"= −{-found.delta[2].item():.6g}" in repr(found)
    assert capsys.readouterr().out == ""


def test_it_is_rich_in_a_notebook():
    shown = trace("chapter")._repr_mimebundle_((), ())
    assert shown["text/html"].startswith("<pre")
    assert "u₁⁽¹⁾" in shown["text/html"]
    assert "font-weight: bold" in shown["text/html"]


def test_errors_name_the_key():
    with pytest.raises(ArgumentError, match=r"^inputs must have 2 numbers for each sample, got 1; several") as caught:
        trace({**CONTENT, "inputs": [1]})
    assert caught.value.argument == "inputs"
    with pytest.raises(ArgumentError, match=r"^digits must be a whole number from 1 to 17, got 18$"):
        trace("chapter", digits=18)
    with pytest.raises(FileNotFoundError):
        trace("nowhere.yaml")
