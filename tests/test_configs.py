"""Every shipped YAML is parsed by the command itself, runs, and holds what differs from the defaults alone."""

from pathlib import Path

import pytest
import yaml

from nnlab.data import Distortion
from tests.training.runs import CONFIGS, nnlab, small_data_set

ALL = sorted(CONFIGS.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def settings_of(config: Path) -> dict[str, object]:
    return yaml.safe_load(config.read_text())


def test_the_recipes_are_here():
    assert {config.stem for config in ALL} >= {"mlp", "mlp_chapter", "perceptron", "smoke"}


@pytest.mark.parametrize("data", ["as written", "digits"])
@pytest.mark.parametrize("config", ALL, ids=lambda path: path.stem)
def test_a_config_runs(config, data, monkeypatch):
    name = settings_of(config).get("data", {}).get("name", "mnist") if data == "as written" else data
    if name != "digits":
        small_data_set(monkeypatch, name, Path("data"))
    common = ["--config", config, *([] if data == "as written" else [f"--data.name={data}"])]
    quick = "--trainer.fast_dev_run=true"
    commands = [("fit", quick)]
    if data == "as written":
        commands = [("fit", "--trainer.max_epochs=1"), ("validate", quick), ("test", quick)]
    for command, flag in commands:
        ended = nnlab(command, *common, flag)
        assert (ended.status, ended.err) == (0, "")


def flat(settings: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


@pytest.mark.parametrize("config", ALL, ids=lambda path: path.stem)
def test_a_config_says_only_what_differs_from_the_defaults(config):
    ours = flat(settings_of(config))
    chosen = {key: value for key, value in ours.items() if key.endswith("class_path")}
    bare = Path("bare.yaml")
    bare.write_text("".join(f"{key.partition('.')[0]}: {{class_path: {value}}}\n" for key, value in chosen.items()))
    required = {"optimizer.init_args.lr", "lr_scheduler.init_args.gamma"}  # by their classes
    needed = [
        f"--{key.replace('.init_args', '')}={value}"
        for key, value in ours.items()
        if key in required and key.partition(".")[0] + ".class_path" in chosen
    ]
    if any(key.startswith("data.distort.") for key in ours):
        needed.append(f"--data.distort.rotation={Distortion().rotation}")
    ended = nnlab("fit", "--config", bare, *needed, "--print_config")
    assert (ended.status, ended.err) == (0, "")
    defaults = flat(yaml.safe_load(ended.out))
    off = {"early_stopping": None}.items() & ours.items()
    for key in ours.keys() - chosen.keys() - required - {name for name, _ in off}:
        assert key in defaults
        assert defaults[key] != ours[key], f"{key}: {ours[key]} is the default"


def test_the_chapters_recipe_is_the_chapters():
    settings = yaml.safe_load(nnlab("fit", "--config", CONFIGS / "mlp_chapter.yaml", "--print_config").out)
    model = settings["model"]["init_args"]
    assert (model["hidden"], model["activation"], model["reduction"]) == ([100], "sigmoid", "sum")
    assert (model["loss"], model["l2"], model["init_std"]) == ("binary_cross_entropy", 0.01, 0.1)
    assert (settings["optimizer"]["init_args"]["lr"], settings["data"]["batch_size"]) == (0.0005, 100)
