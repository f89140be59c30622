"""The scripts train on either device, and their loops are what the command does."""

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nnlab.networks import MLP, PerceptronBank
from nnlab.training import read_checkpoint
from tests.tolerances import TRAJECTORY, assert_close, assert_same
from tests.training.runs import CONFIGS, REPOSITORY, fit, small_data_set

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


def test_a_committee_is_kept_averaged_and_logged(monkeypatch, capsys):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    monkeypatch.setenv("NNLAB_DATA", "data")
    small_data_set(monkeypatch, "mnist", Path("data"), n_train=48, n_test=10)
    committee = script("committee")
    arguments = ["--widths", "0", "12", "--hidden", "8", "--epochs", "3", "--copies", "2", "--jobs", "1"]
    for _ in range(2):  # the second trains nothing
        committee.main([*arguments, "--out", "kept", "--log", "log.csv"])
    assert capsys.readouterr().out.count("epoch 3/3") == 2
    with Path("log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for before, after in zip(rows[:3], rows[3:], strict=True):
        for key in ("recipe", "seed", "val_acc", "test_acc", "seconds"):
            assert before[key] == after[key]
    assert rows[2]["recipe"].startswith(
        "committee of width0-seed0-8-3epochs-lr0.1, width12-seed1-8-3epochs-lr0.1; 2 copies"
    )


def test_digits_are_stretched_to_a_width(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    committee, images = script("committee"), torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[0, 5:20, 3:11] = 200  # 8 columns
    images[1, 8:9, 20:24] = 100
    wide = committee.of_width(images, 16)
    lit = (wide > 50).any(1)
    assert [(row.int().argmax().item(), row.sum().item()) for row in lit] == [(6, 16), (6, 16)]
    assert torch.equal((wide > 50).any(2), (images > 50).any(2))
    assert torch.equal(committee.of_width(images, 0), images)


@pytest.mark.slow
def test_recipes_are_scored_by_turns_and_logged(monkeypatch, capsys):
    score = script("score")
    score.main(["smoke", "--seeds", "0", "1", "--log", "log.csv"])
    with Path("log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["recipe"], row["seed"]) for row in rows] == [("smoke", "0"), ("smoke", "1")]
    assert all(0.85 < float(row[key]) < 1 for row in rows for key in ("val_acc", "test_acc"))
    assert "smoke, 2 seeds: val_acc " in capsys.readouterr().out


def test_wrong_digits_are_drawn_from_predictions(capsys):
    draw = script("wrong_digits").main
    Path("predictions.csv").write_text("index,target,prediction\n0,8,8\n1,9,4\n2,0,6\n")
    draw(["predictions.csv", "--data=digits", "--out=wrong.png"])
    assert capsys.readouterr().out == "2 of 3 wrong: wrong.png\n"
    assert Path("wrong.png").read_bytes().startswith(b"\x89PNG")
    for text in ("index\n5\n", "index,target,prediction\n9999,1,2\n", "a,b,c\n1,2,x\n"):
        Path("bad.csv").write_text(text)
        with pytest.raises(SystemExit, match="2"):
            draw(["bad.csv", "--data=digits", "--out=wrong.png"])
        assert len(capsys.readouterr().err.splitlines()) == 1
