"""The scripts train on either device, and their loops are what the command does."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nnlab.networks import MLP, PerceptronBank
from nnlab.training import read_checkpoint
from tests.tolerances import TRAJECTORY, assert_close, assert_same
from tests.training.runs import CONFIGS, REPOSITORY, fit

NAMES = ["train_mlp", "train_perceptron"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(monkeypatch: pytest.MonkeyPatch, name: str, kind: type, *arguments: str) -> tuple[torch.nn.Module, float]:
    """The network that a script has trained, and the accuracy that it returns."""
    made = []
    module = script(name)
    monkeypatch.setattr(module, kind.__name__, lambda *a, **k: made.append(kind(*a, **k)) or made[-1])
    accuracy = module.main(["--data=digits", *arguments])
    (network,) = made
    return network, accuracy


@pytest.mark.parametrize("name", NAMES)
def test_a_script_trains_on_either_device_and_says_how_well(device, capsys, name):
    accuracy = script(name).main(["--data=digits", "--epochs=4", f"--device={device}"])
    assert accuracy > 0.87
    out = capsys.readouterr().out
    assert re.search(rf"^test accuracy: {accuracy:.4f}$", out, re.MULTILINE)
    assert list(Path().iterdir()) == []


def test_the_mlps_loop_is_the_command_without_lightning(monkeypatch):
    network, _ = run(monkeypatch, "train_mlp", MLP, "--device=cpu", "--epochs=2")
    config = CONFIGS / "mlp_plain.yaml"
    fit("--config", config, "--data.name=digits", "--trainer.max_epochs=2", "--trainer.accelerator=cpu")
    kept = read_checkpoint("runs/LitMLP/version_0/checkpoints/last.ckpt")["state_dict"]
    for name, parameter in network.state_dict().items():
        assert_close(parameter, kept[f"network.{name}"], TRAJECTORY[torch.float32])


def test_the_perceptrons_loop_is_the_command_without_lightning(monkeypatch):
    bank, _ = run(monkeypatch, "train_perceptron", PerceptronBank, "--device=cpu", "--epochs=2")
    config = CONFIGS / "perceptron.yaml"
    fit("--config", config, "--data.name=digits", "--trainer.max_epochs=2", "--trainer.accelerator=cpu")
    kept = read_checkpoint("runs/LitPerceptron/version_0/checkpoints/last.ckpt")["state_dict"]
    assert_same(bank.state_dict(), {name: kept[f"bank.{name}"] for name in bank.state_dict()})


@pytest.mark.parametrize("name", NAMES)
def test_cuda_where_there_is_none_is_a_clear_error(name, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        script(name).main(["--data=digits", "--device=cuda"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: device must be 'cpu' or 'auto' where torch finds no CUDA device" in line


@pytest.mark.parametrize("name", NAMES)
def test_a_script_explains_its_options(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        script(name).main(["--help"])
    out = capsys.readouterr().out
    for option in ("--device", "--data", "--epochs"):
        assert option in out
