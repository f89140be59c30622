"""The recipes on the full MNIST, by the command, as the README has them; only where its four files are."""

import os
import re
from pathlib import Path

import pytest

from nnlab.data import SPECS, raw_folder
from tests.training.runs import CONFIGS, nnlab

ROOT = Path(os.environ.get("NNLAB_DATA") or "data").resolve()  # before NNLAB_DATA is taken away for the test
MISSING = [
    file.name
    for file in SPECS["mnist"].files
    if not any((raw_folder("mnist", ROOT) / f"{file.name}{suffix}").is_file() for suffix in ("", ".gz"))
]

pytestmark = [
    pytest.mark.mnist,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason="MNIST's four files are neither under NNLAB_DATA nor under ./data"),
]


@pytest.mark.parametrize(("config", "least"), [("mlp", 0.98), ("perceptron", 0.917), ("mlp_chapter", 0.93)])
def test_a_recipe_reaches_what_it_promises(tmp_path, monkeypatch, config, least):
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", CONFIGS / f"{config}.yaml", f"--data.root={ROOT}"]
    fitted = nnlab("fit", *arguments, "--trainer.enable_progress_bar=false")
    assert (fitted.status, fitted.err) == (0, "")
    tested = nnlab("test", *arguments)
    line = [line for line in tested.lines if "test" in line and "acc" in line][-1]
    assert float(re.findall(r"\d+\.\d+", line)[0]) >= least
