"""The command: fit, validate, test and predict from end to end, its help, and what it writes where."""

import contextlib
import csv
import functools
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.fabric.accelerators import MPSAccelerator
from lightning.pytorch.accelerators import CPUAccelerator

from nnlab import __version__
from nnlab.data import load
from nnlab.networks import MLP
from nnlab.recipes import recipes
from nnlab.training import AtomicCheckpointIO, LitMLP, command, read_checkpoint
from nnlab.training.checkpoints import sign
from tests.tolerances import assert_same
from tests.training.runs import CONFIGS, REPOSITORY, SMOKE, Ended, figures, files_in, fit, nnlab

RUN = Path("runs/LitMLP/version_0")
BEST, LAST = RUN / "checkpoints/best.ckpt", RUN / "checkpoints/last.ckpt"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def smoke(*arguments: object) -> Ended:
    return fit("--config", SMOKE, "--trainer.max_epochs=2", *arguments)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory) -> tuple[Path, Ended]:
    """A folder in which ``smoke`` has run, and how it ended."""
    folder = tmp_path_factory.mktemp("smoke")
    with contextlib.chdir(folder):
        return folder, smoke()


@pytest.fixture
def smoked(a_run, tmp_path) -> Ended:
    """How ``smoke`` ended, whose files are in the working directory."""
    shutil.copytree(a_run[0], tmp_path, dirs_exist_ok=True)
    return a_run[1]


def accuracy_of(ended: Ended) -> float:
    """The one decimal number in the last line that holds "test" and "acc"."""
    assert (ended.status, ended.err) == (0, "")
    line = [line for line in ended.lines if "test" in line and "acc" in line][-1]
    (number,) = re.findall(r"\d+\.\d+|\d+", line)
    return float(number)


def outputs_of(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of a checkpoint of the smoke recipe for the test images, by the network alone, and their labels."""
    checkpoint = read_checkpoint(path)
    network = MLP([64, 32, 10], "relu")
    prefix = "network."
    network.load_state_dict(
        {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    )
    images, labels = load("digits")["test"]
    with torch.no_grad():
        return network(images.flatten(1) / 16), labels


# From fit to test


def test_fit_ends_with_the_line_that_tests_the_best_model_and_it_works_as_printed(smoked):
    line = smoked.lines[-1]
    assert line == f"nnlab test --ckpt_path {BEST}"
    outputs, labels = outputs_of(BEST)
    expected = (outputs.argmax(1) == labels).double().mean().item()
    assert accuracy_of(nnlab(*shlex.split(line)[1:])) == pytest.approx(expected, abs=5e-5)
    assert expected > 0.8
    assert accuracy_of(nnlab("test", "--config", SMOKE)) == pytest.approx(expected, abs=5e-5)  # the newest is found


def test_all_that_a_run_writes_is_in_its_folder():
    smoke("--trainer.default_root_dir=here/below")
    run = "here/below/LitMLP/version_0"
    files = {path for path in files_in(Path()) if Path(path).is_file()}
    events = {path for path in files if "/events.out.tfevents." in path}
    assert len(events) == 1  # TensorBoard's
    assert files - events == {
        f"{run}/{name}"
        for name in (
            *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
            *("config.yaml", "learning_curve.png", "metrics.csv"),
        )
    }
    assert all(path.startswith(run) for path in events)


def test_a_root_outside_the_working_directory_is_printed_whole(tmp_path):
    root = tmp_path.parent / "elsewhere"
    line = smoke(f"--trainer.default_root_dir={root}").lines[-1]
    assert line.split()[-1] == str(root / "LitMLP/version_0/checkpoints/best.ckpt")
    assert files_in(Path()) == set()
    assert nnlab(*shlex.split(line)[1:]).status == 0


def test_the_log_has_every_figure_of_every_epoch_once(smoked):
    rows = figures(RUN)
    for name in ("train_loss", "train_acc", "val_loss", "val_acc"):
        assert [row["epoch"] for row in rows if name in row] == [0.0, 1.0]


def test_without_tensorboard_the_csv_log_is_enough(monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    smoke()
    assert not list(RUN.glob("events*"))
    assert len(figures(RUN)) == 4


def test_every_checkpoint_is_written_whole_or_not_at_all(monkeypatch):
    written, save = set(), AtomicCheckpointIO.save_checkpoint

    def note(self: AtomicCheckpointIO, checkpoint: dict[str, object], path: str, **options: object) -> None:
        written.add(Path(path).name)
        save(self, checkpoint, path, **options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", note)
    smoke()
    assert written == {"best.ckpt", "last.ckpt"}


def test_validate_gives_the_figures_of_fit(smoked):
    best = min(row["val_loss"] for row in figures(RUN) if "val_loss" in row)
    ended = nnlab("validate", "--config", SMOKE)
    assert (ended.status, ended.err) == (0, "")
    (line,) = (line for line in ended.lines if "val_loss" in line)
    assert float(re.findall(r"\d+\.\d+", line)[0]) == pytest.approx(best, rel=1e-6)


def test_predict_writes_what_the_network_predicts(smoked):
    ended = nnlab("predict", "--config", SMOKE, "--ckpt_path", BEST)
    assert (ended.status, ended.err) == (0, "")
    path = Path(ended.lines[-1].removeprefix("predictions: "))
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["index", "target", "prediction", "probability", *(f"p{k}" for k in range(10))]
    outputs, labels = outputs_of(BEST)
    expected = zip(range(360), labels.tolist(), outputs.argmax(1).tolist(), strict=True)
    assert [tuple(map(int, row[:3])) for row in rows] == list(expected)
    found = torch.tensor([list(map(float, row[3:])) for row in rows])
    torch.testing.assert_close(found[:, 1:], outputs.softmax(1), atol=1e-6, rtol=1e-4)
    assert torch.equal(found[:, 0], found[:, 1:].max(1).values)


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    states = []
    for version, seed in enumerate((1, 1, 2)):
        smoke(f"--seed_everything={seed}", "--trainer.max_epochs=1")
        states.append(read_checkpoint(f"runs/LitMLP/version_{version}/checkpoints/last.ckpt")["state_dict"])
    first, again, other = (state["network.0.weight"] for state in states)
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert not torch.equal(other, first)


def test_the_figures_of_an_epoch_are_logged_before_its_last_checkpoint_and_once(monkeypatch):
    save, logged = AtomicCheckpointIO.save_checkpoint, []

    def note(self: AtomicCheckpointIO, checkpoint: object, path: Path, storage_options: object) -> None:
        if Path(path).name == "last.ckpt":
            logged.append(figures(RUN))
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", note)
    smoke()
    rows = figures(RUN)
    assert [row["epoch"] for row in rows if "train_loss" in row] == [0, 1]
    assert logged == [rows[:2], rows]
    assert len(rows) == 4


# What Lightning adds


def test_a_run_is_on_the_cpu_where_mps_is_the_only_other_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    accelerators = []

    def stop(learner: LitMLP, trainer: L.Trainer) -> None:
        accelerators.append(trainer.accelerator)
        sys.exit()

    monkeypatch.setattr(LitMLP, "check_trainer", stop)  # which is called before anything is trained
    smoke()
    assert [type(accelerator) for accelerator in accelerators] == [CPUAccelerator]


def test_an_optimizer_on_the_command_line_takes_the_place_of_the_files():
    arguments = ["--optimizer=AdamW", "--optimizer.lr=1e-3", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"]
    smoke(*arguments, "--lr_scheduler.gamma=0.5", "--trainer.max_epochs=3")
    kept = read_checkpoint(LAST)
    (group,) = kept["optimizer_states"][0]["param_groups"]
    assert group["initial_lr"] == 1e-3  # none of the file's 0.1
    assert group["lr"] == 1e-3 * 0.5**3
    assert "betas" in group
    assert "momentum" not in group
    assert kept["lr_schedulers"][0]["step_size"] == 1
    losses = [row["train_loss"] for row in figures(RUN) if "train_loss" in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "arguments",
    [
        [
            *("--trainer.gradient_clip_val=1", "--trainer.accumulate_grad_batches=2"),
            *("--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val_loss"),
        ],
        ["--trainer.precision=bf16-mixed"],
        ["--trainer.precision=64-true", "--trainer.val_check_interval=0.5"],
        ["--model.reduction=sum", "--optimizer.lr=0.003"],
        ["--data.val_size=0", "--checkpoint.monitor=train_loss", "--early_stopping.monitor=train_loss"],
        [
            *("--model.loss=binary_cross_entropy", "--model.activation=gelu", "--model.hidden=[20,20]"),
            "--model.l2=1e-4",
        ],
    ],
    ids=" ".join,
)
def test_it_trains_without_a_warning(arguments):
    smoke(*arguments, "--trainer.max_epochs=3")
    losses = [row["train_loss"] for row in figures(RUN) if "train_loss" in row]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]
    assert read_checkpoint(LAST)["epoch"] == 2


@pytest.mark.parametrize("steps", [10, 50])
def test_max_steps_keeps_the_last_step_and_the_run_goes_on_from_there(steps):
    line = smoke(f"--trainer.max_steps={steps}").lines[-1]
    assert line.split()[-1] == str(BEST if steps >= 42 else LAST)  # no epoch, no best
    assert read_checkpoint(LAST)["global_step"] == steps
    assert nnlab(*shlex.split(line)[1:]).status == 0
    smoke("--ckpt_path", LAST, "--trainer.default_root_dir=resumed")
    smoke("--trainer.default_root_dir=whole", "--model.engine=off")
    resumed, whole = (
        read_checkpoint(f"{root}/LitMLP/version_0/checkpoints/last.ckpt") for root in ("resumed", "whole")
    )
    assert resumed["global_step"] == whole["global_step"] == 84
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)


def test_a_run_without_validation_goes_on_from_what_it_kept():
    alone = ["--data.val_size=0", "--checkpoint.monitor=train_loss", "--early_stopping.monitor=train_loss"]
    smoke(*alone, "--trainer.max_epochs=1")
    for version, kept in enumerate((BEST, LAST), 1):
        smoke(*alone, "--ckpt_path", kept)
        assert read_checkpoint(f"runs/LitMLP/version_{version}/checkpoints/last.ckpt")["global_step"] == 2


def test_early_stopping_stops_early():
    smoke("--trainer.max_epochs=50", "--optimizer.lr=3", "--early_stopping.patience=1")
    assert read_checkpoint(LAST)["epoch"] < 20


def test_a_later_file_and_a_flag_win():
    Path("more.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 1}, "data": {"batch_size": 500}}))
    fit("--config", SMOKE, "--config", "more.yaml", "--data.batch_size=659")
    assert read_checkpoint(LAST)["datamodule_hyper_parameters"]["name"] == "digits"
    assert read_checkpoint(LAST)["global_step"] == 1  # a chunk of two mini-batches


def test_one_line_names_what_makes_mini_batches_go_one_by_one(smoked):
    assert "engine on" in smoked.lines
    (line,) = (line for line in smoke("--trainer.gradient_clip_val=1").lines if line.startswith("engine"))
    named = "--trainer.gradient_clip_val needs mini-batches one by one"
    assert line == f"engine off, mini-batches go one by one: {named}"


# Configuration and help


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_print_config_is_a_config(config):
    printed = nnlab("fit", "--config", config, "--print_config")
    assert (printed.status, printed.err) == (0, "")
    Path("printed.yaml").write_text(printed.out)
    assert nnlab("fit", "--config", "printed.yaml", "--print_config").out == printed.out
    assert (
        yaml.safe_load(printed.out)["model"]["class_path"] == yaml.safe_load(config.read_text())["model"]["class_path"]
    )
    assert files_in(Path()) == {"printed.yaml"}


def test_a_recipe_is_found_by_name_where_there_is_no_file_of_that_name():
    assert list(recipes()) == [path.stem for path in sorted(CONFIGS.glob("*.yaml"))]
    Path("mlp").mkdir()  # a folder is no file
    for name, flags in (("mlp", ["--config", "mlp"]), ("perceptron", ["--config=perceptron"]), ("mlp", ["-c", "mlp"])):
        named = nnlab("test", *flags, "--print_config")
        assert named == nnlab("test", "--config", CONFIGS / f"{name}.yaml", "--print_config")
        assert (named.status, named.err) == (0, "")
    Path("perceptron").write_bytes((CONFIGS / "smoke.yaml").read_bytes())
    assert "class_path: nnlab.training.LitMLP" in nnlab("fit", "--config", "perceptron", "--print_config").out
    text = nnlab("fit", "--config", "mlp", "--config", "{trainer: {max_epochs: 77}}", "--print_config")
    assert "max_epochs: 77" in text.out


def words(text: str) -> str:
    return " ".join(text.split())


HELP = {
    "mlp": [
        ("--model.hidden", "The number of units of each hidden layer, from the input to the output;"),
        ("--model.reduction", "Whether the error of a mini-batch is the sum over its samples"),
        ("--model.l2", "The λ of the penalty λ/2 Σ w² on the weights"),
    ],
    "perceptron": [
        ("--model.lr", "The learning rate η."),
        ("--model.average", "Whether to predict with the average of the weights over all samples learnt"),
        ("--model.bipolar", "−1 and +1 in place of 0 and 1"),
    ],
}
ALWAYS = [
    ("--data.batch_size", "Images per step and process."),
    ("--data.val_size", "How many of the training images, from the end, are held out for validation."),
    ("--data.scaling", "What the pixels become."),
    ("--early_stopping.patience", "number of checks with no improvement"),
    ("--trainer.max_epochs", "Stop training once this number of epochs is reached."),
]


@pytest.mark.parametrize(("name", "by"), [("mlp", "config"), ("perceptron", "flag")])
def test_help_explains_every_option_of_the_chosen_model_in_words(name, by):
    flag = f"--model={'LitMLP' if name == 'mlp' else 'LitPerceptron'}"
    ended = nnlab("fit", *(["--config", CONFIGS / f"{name}.yaml"] if by == "config" else [flag]), "--help", "all")
    assert (ended.status, ended.err) == (0, "")
    text = words(ended.out)
    for option, explanation in HELP[name] + ALWAYS:
        assert f"{option} " in text
        assert explanation in text
    (other,) = HELP.keys() - {name}
    assert not any(f"{option} " in text for option, _ in HELP[other] if option != "--model.lr")  # which both have
    assert "--model.in_features" not in text  # which follows from the data


@pytest.mark.parametrize("name", ["mlp", "perceptron"])
def test_the_short_help_has_the_models_options_first_in_80_lines_of_80_columns(name):
    lines = nnlab("fit", "--config", name, "--help").lines
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 80
    assert lines[2] == f"the model, {'LitMLP' if name == 'mlp' else 'LitPerceptron'}:"
    for option, _ in HELP[name] + ALWAYS[:3]:
        assert any(line.startswith(f"  {option}") for line in lines)


def test_the_help_of_the_command_names_its_commands_and_examples_that_exist():
    for arguments in (["--help"], []):
        ended = nnlab(*arguments)
        assert (ended.status, ended.err) == (0, "")
        for name in ("fit", "validate", "test", "predict"):
            assert re.search(rf"^ +{name} +\w", ended.out, re.MULTILINE)
        assert set(re.findall(r"nnlab \w+ --config (\w+)", ended.out)) <= recipes().keys()
        assert f"recipes: {', '.join(recipes())}." in ended.out


def test_version():
    assert nnlab("--version") == (0, f"nnlab {__version__}\n", "")


LIGHT = """
import sys
import nnlab

def refuse(names, after):
    if heavy := set(names.split()) & set(sys.modules):
        sys.exit(f"{after}: imported {sorted(heavy)}")

assert nnlab.__version__ and "Perceptron" in dir(nnlab)
refuse("torch numpy sklearn lightning", "nnlab")
from nnlab.cli import main
for arguments in (["--version"], ["--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code
refuse("torch numpy sklearn lightning matplotlib torchvision jsonargparse", "the command's help")
from nnlab import Adaline, NeuralNetMLP, NeuralNetRegressor, Perceptron
refuse("lightning torchvision jsonargparse matplotlib torchmetrics", "the estimators")
"""


def test_import_help_and_estimators_are_light():
    ended = subprocess.run([sys.executable, "-c", LIGHT], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_python_m_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nnlab"])
    runpy.run_module("nnlab", run_name="__main__")
    assert capsys.readouterr().out == nnlab().out


def test_the_newest_checkpoint_that_fits_is_tested():
    for hidden in ("[3]", "[4]"):
        fit("--config", SMOKE, "--trainer.max_epochs=1", f"--model.hidden={hidden}")
    ended = nnlab("test", "--config", SMOKE, "--model.hidden=[3]")
    assert (ended.status, ended.err) == (0, "")
    assert ended.lines[0] == "checkpoint: runs/LitMLP/version_0/checkpoints/best.ckpt"


def test_a_checkpoint_alone_is_enough(smoked):
    """Without --config, model, data and settings are those of its run; flags win."""
    with_config = fit("--config", SMOKE, f"--ckpt_path={LAST}", "--trainer.max_epochs=4", "--early_stopping.patience=3")
    alone = fit(f"--ckpt_path={LAST}", "--trainer.max_epochs=4", "--early_stopping.patience=3")
    assert with_config.lines[-1].replace("version_1", "version_2") == alone.lines[-1]
    runs = [yaml.safe_load((RUN.with_name(f"version_{k}") / "config.yaml").read_text()) for k in (1, 2)]
    assert runs[0] == runs[1]
    states = [read_checkpoint(RUN.with_name(f"version_{k}") / "checkpoints/last.ckpt")["state_dict"] for k in (1, 2)]
    assert_same(*states)
    expected = accuracy_of(nnlab("test", "--config", SMOKE, f"--ckpt_path={BEST}"))
    assert accuracy_of(nnlab("test", f"--ckpt_path={BEST}")) == expected
    for command_, words in (("validate", "val_acc"), ("predict", "predictions: runs/LitMLP/version_3/predictions.csv")):
        ended = nnlab(command_, "--ckpt_path=best")
        assert (ended.status, ended.err) == (0, "")
        assert ended.lines[0] == "checkpoint: runs/LitMLP/version_2/checkpoints/best.ckpt"
        assert words in ended.out


def test_last_and_best_are_of_the_newest_run(smoked):
    smoke("--model.hidden=[5]", "--trainer.max_epochs=1")
    newest = RUN.with_name("version_1") / "checkpoints"
    assert nnlab("test", "--ckpt_path=last").lines[0] == f"checkpoint: {newest}/last.ckpt"
    of_config = nnlab("test", "--config", SMOKE, "--ckpt_path=last")  # the newest with 32 hidden units
    assert of_config.lines[0] == f"checkpoint: {LAST}"
    on = fit("--ckpt_path=last", "--trainer.max_epochs=2")
    assert on.lines[0] == f"checkpoint: {newest}/last.ckpt"
    assert read_checkpoint(RUN.with_name("version_2") / "checkpoints/last.ckpt")["epoch"] == 1


@pytest.mark.parametrize(
    ("setting", "asked"),
    [
        ("--data.root=elsewhere", "--data.root"),
        ("--trainer.callbacks=tests.training.ddp.KeepEachRank", "--trainer.callbacks"),
        ("--trainer.profiler=simple", "--trainer.profiler"),
    ],
)
def test_a_setting_that_a_checkpoint_does_not_keep_is_asked_for(setting, asked):
    run = smoke(setting, "--early_stopping=null").lines[-1].split()[-1]
    ended = nnlab("fit", f"--ckpt_path={run}")
    assert (ended.status, ended.out) == (2, "")
    line = f"{asked} was set in the run of {run}, which does not keep it: give it again, or by --config"
    assert ended.err == f"nnlab fit: error: {line}\n"
    again = fit(f"--ckpt_path={run}", setting, "--trainer.max_epochs=3")
    config = yaml.safe_load((Path(again.lines[-1].split()[3])).read_text())
    assert (config["early_stopping"], config["trainer"]["max_epochs"]) == (None, 3)


CRAFTED: list[dict[str, Any]] = [
    {"optimizer": {"class_path": "os.system", "init_args": {}}},
    {"optimizer": "os.system"},
    {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": "os.system"}}},
    {"lr_scheduler": {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "print"}}},
    {"model": {"class_path": "nnlab.training.LitMLP", "init_args": {"loss": "os.system"}}},
    {"model": {"class_path": "nnlab.training.LitMLP", "init_args": {"hidden": [1] * 100_000}}},
    {"trainer": {"logger": "CSVLogger"}},
    {"trainer": {"callbacks": ["ModelCheckpoint"]}},
    {"trainer": {"callbacks.class_path": "ModelCheckpoint", "callbacks.init_args.dirpath": "evil"}},
    {"trainer": {"logger.class_path": "CSVLogger", "logger.init_args.save_dir": "evil"}},
    {"trainer": {"profiler": "simple"}},
    {"trainer": {"strategy": "ddp", "devices": 500}},
    {"trainer": {"plugins": ["TorchCheckpointIO"]}},
    {"trainer": None},
    {"data": {"root": "elsewhere"}},
    {"data": [1]},
    {"data": {"val_size": functools.reduce(lambda inner, _: [inner], range(400), 0)}},
    {"optimizer.class_path": "torch.optim.SGD"},
    {"callbacks+": "Timer"},
]


@pytest.mark.parametrize(
    "settings",
    [pytest.param(settings, id=str(k), marks=[pytest.mark.slow] * (k % 4 != 0)) for k, settings in enumerate(CRAFTED)],
)
def test_a_checkpoint_names_no_class_but_those_on_a_list_and_no_path(smoked, settings):
    checkpoint = read_checkpoint(LAST)
    checkpoint["settings"]["kept"] |= settings
    sign(checkpoint)
    torch.save(checkpoint, "made.ckpt")
    before = files_in(Path())
    for command_ in ("fit", "test"):
        ended = nnlab(command_, "--ckpt_path=made.ckpt")
        assert (ended.status, ended.out) == (2, "")
        assert ended.err == f"nnlab {command_}: error: ckpt_path has no usable settings (--ckpt_path)\n"
    assert files_in(Path()) == before


def test_what_goes_on_with_new_settings_does_so(smoked):
    """Early stopping off, a schedule, and what switches the engine off."""
    fit(f"--ckpt_path={LAST}", "--early_stopping=null", "--trainer.max_epochs=3")
    assert yaml.safe_load((RUN.with_name("version_1") / "config.yaml").read_text())["early_stopping"] is None
    falling = fit(f"--ckpt_path={LAST}", "--model.schedule=linear", "--trainer.max_epochs=4")
    assert (
        "learning rate linear to 0 over 4 epochs; early stopping may end it before (--early_stopping=null)"
        in falling.lines
    )
    constant = fit("--ckpt_path=last", "--model.schedule=constant", "--optimizer.lr=0.05", "--trainer.max_epochs=5")
    assert "going on with lr 0.05 in place of 0.1" in constant.lines
    last = read_checkpoint(RUN.with_name("version_3") / "checkpoints/last.ckpt")
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == 0.05
    off = fit(f"--ckpt_path={LAST}", "--optimizer.dampening=0.5", "--trainer.max_epochs=3")
    assert "engine off, mini-batches go one by one: dampening of SGD must be off for the engine, got 0.5" in off.lines


def test_a_line_has_the_figures_of_its_epoch_alone_and_the_end_its_reason():
    ended = smoke("--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2", "--checkpoint.save_top_k=2")
    assert [("val loss" in line) for line in ended.lines if line.startswith("epoch ")] == [False, True, False]
    ended = smoke("--trainer.max_epochs=9", "--early_stopping.stopping_threshold=0.2")
    (line,) = [line for line in ended.lines if line.startswith("early stopping")]
    assert line.startswith("early stopping after epoch 2: Stopping threshold reached: val_loss = 0.131")


def test_a_run_with_several_best_checkpoints_goes_on_with_the_best():
    best = smoke("--checkpoint.save_top_k=2").lines[-1].split()[-1]
    assert best.endswith("best-v1.ckpt")
    ended = fit("--ckpt_path=last", "--trainer.max_epochs=3")
    assert "best" not in " ".join(line for line in ended.lines if line.startswith("epoch"))
    assert read_checkpoint(ended.lines[-1].split()[-1])["digest"] == read_checkpoint(best)["digest"]


def test_a_folder_with_a_space_is_quoted():
    ended = fit("--config", SMOKE, "--trainer.max_epochs=1", "--trainer.default_root_dir=my runs")
    assert "--ckpt_path 'my runs/LitMLP/version_0/checkpoints/best.ckpt'" in ended.lines[-1]


def test_predict_may_be_asked_for_some_only(monkeypatch, smoked):
    monkeypatch.setattr("nnlab.training.datamodule.EVALUATION_BATCH", 50)
    ended = nnlab("predict", "--config", SMOKE, "--trainer.limit_predict_batches=2")
    assert (ended.status, ended.err) == (0, "")
    written = Path(ended.lines[-1].removeprefix("predictions: "))
    assert len(written.read_text().splitlines()) == 1 + 2 * 50


@pytest.mark.parametrize("arguments", [("trace", "--example", "chapter"), ("check", "--help")])
def test_the_commands_of_learning(arguments):
    ended = nnlab(*arguments)
    assert ended.status == 0
    assert ended.out
