"""Ctrl-C keeps the model and gives the signal back; the learning curve is drawn; the bar shows what matters."""

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from nnlab.training import KeepOnInterrupt, LearningCurve, LitMLP, read_checkpoint
from nnlab.training import callbacks as command_callbacks
from nnlab.training.learning_curve import draw_learning_curve
from tests.training.runs import REPOSITORY, SMOKE, digits, fit, trainer

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    """Ctrl-C as in a terminal: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class At(L.Callback):
    """Calls a function before a step."""

    def __init__(self, step: int, function):
        self.step, self.function = step, function

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            self.function()


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_signal_is_given_back_after_fit(device, tmp_path):
    seen = []
    for step in (1, None):
        callbacks = [At(0, lambda: seen.append(signal.getsignal(signal.SIGINT))), KeepOnInterrupt(tmp_path)]
        if step is None:
            trainer(device, tmp_path, callbacks=callbacks).fit(LitMLP(in_features=64), digits(40, 20))
        else:
            run = trainer(device, tmp_path, callbacks=[*callbacks, At(step, interrupt)], max_epochs=9)
            with pytest.raises(SystemExit):
                run.fit(LitMLP(in_features=64), digits(40, 20))
        assert seen[-1].__self__ is callbacks[-1]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_gives_the_signal_back_and_saves_nothing(device, tmp_path):
    def fail() -> None:
        raise ZeroDivisionError

    run = trainer(device, tmp_path, callbacks=[KeepOnInterrupt(tmp_path / "kept"), At(1, fail)])
    with pytest.raises(ZeroDivisionError):
        run.fit(LitMLP(in_features=64), digits(40, 20))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "kept").exists()


def test_an_interrupt_waits_for_the_step_and_keeps_it(device, tmp_path):
    keeper = KeepOnInterrupt(tmp_path)
    run = trainer(device, tmp_path, callbacks=[At(3, interrupt), keeper], max_epochs=9)
    with pytest.raises(SystemExit):
        run.fit(LitMLP(in_features=64), digits(40, 20))
    assert keeper.ckpt_path == tmp_path / "interrupted.ckpt"
    kept = read_checkpoint(keeper.ckpt_path)
    assert kept["global_step"] == 4
    assert kept["optimizer_states"]  # the whole state, to go on from


def test_a_second_interrupt_ends_the_step_at_once(device, tmp_path, monkeypatch):
    monkeypatch.setattr(command_callbacks, "TWICE", 0.0)
    reached = []

    class Step(LitMLP):
        def training_step(self, batch, batch_idx):
            interrupt()
            interrupt()
            reached.append(batch_idx)

    with pytest.raises(SystemExit):
        trainer(device, tmp_path, callbacks=[KeepOnInterrupt(tmp_path)]).fit(Step(in_features=64), digits(40, 20))
    assert reached == []
    assert read_checkpoint(tmp_path / "interrupted.ckpt")["global_step"] == 0


def test_a_signal_that_comes_twice_at_once_is_one(device, tmp_path):
    keeper = KeepOnInterrupt(tmp_path)
    run = trainer(device, tmp_path, callbacks=[At(3, interrupt), At(3, interrupt), keeper], max_epochs=9)
    with pytest.raises(SystemExit):
        run.fit(LitMLP(in_features=64), digits(40, 20))
    assert read_checkpoint(tmp_path / "interrupted.ckpt")["global_step"] == 4


def test_outside_the_main_thread_the_signal_is_left_alone(device, tmp_path):
    def fit_here() -> None:
        trainer(device, tmp_path, callbacks=[KeepOnInterrupt(tmp_path)]).fit(LitMLP(in_features=64), digits(40, 20))
        ended.append(True)

    ended: list[bool] = []
    thread = threading.Thread(target=fit_here)
    thread.start()
    thread.join()
    assert ended == [True]


@pytest.mark.slow
def test_ctrl_c_ends_the_command_with_130_and_a_model_to_go_on_from(tmp_path, monkeypatch):
    arguments = [f"--config={SMOKE}", "--trainer.max_epochs=100000", "--early_stopping.patience=100000"]
    with subprocess.Popen(
        [sys.executable, "-m", "nnlab", "fit", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (tmp_path / "runs/LitMLP/version_0/checkpoints/last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    path = "runs/LitMLP/version_0/interrupted.ckpt"
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert out.splitlines()[-1] == f"interrupted; the model is in {path}. To go on: nnlab fit --ckpt_path {path}"
    monkeypatch.chdir(tmp_path)
    kept = read_checkpoint(path)
    assert (tmp_path / "runs/LitMLP/version_0/learning_curve.png").read_bytes().startswith(PNG)
    fit("--config", SMOKE, f"--trainer.max_epochs={kept['epoch'] + 2}", "--ckpt_path", path)
    went_on = read_checkpoint("runs/LitMLP/version_1/checkpoints/last.ckpt")
    assert went_on["epoch"] == kept["epoch"] + 1


class Drawn:
    """Catches the figure that is saved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.figures: list[Figure] = []
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: self.figures.append(f) or save(f, *a, **k))

    def panels(self) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
        (figure,) = self.figures
        return {
            axes.get_ylabel(): {
                line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()
            }
            for axes in figure.axes
        }


def write_log(path: Path, rows: list[dict[str, object]]) -> Path:
    names = ["epoch", "step", *sorted({name for row in rows for name in row} - {"epoch", "step"})]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_picture_has_a_panel_for_each_kind_of_figure_and_a_line_for_each_stage(tmp_path, monkeypatch):
    drawn = Drawn(monkeypatch)
    rows = [
        {"epoch": 0, "step": 4, "val_loss": 0.5, "val_acc": 0.75},
        {"epoch": 0, "step": 4, "train_loss": 1.0, "train_acc": 0.5},
        {"epoch": 1, "step": 9, "val_loss": 0.25, "val_acc": 1.0, "lr-SGD": 0.1},
        {"epoch": 1, "step": 9, "train_loss": 0.125, "train_acc": 1.0},
    ]
    draw_learning_curve(write_log(tmp_path / "metrics.csv", rows), tmp_path / "curve.png")
    assert drawn.panels() == {
        "loss per sample": {
            "training, during the epoch: 0.125 at the end": ([1, 2], [1.0, 0.125]),
            "validation: 0.25 at the end": ([1, 2], [0.5, 0.25]),
            "best: 0.25 in epoch 2": ([2], [0.25]),
        },
        "accuracy [%]": {
            "training, during the epoch: 100.00% at the end": ([1, 2], [50, 100]),
            "validation: 100.00% at the end": ([1, 2], [75, 100]),
            "best: 100.00% in epoch 2": ([2], [100]),
        },
    }
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_the_perceptrons_picture_counts_updates(tmp_path, monkeypatch):
    drawn = Drawn(monkeypatch)
    rows = [{"epoch": 2, "step": 4, "train_errors": 17.0}, {"epoch": 2, "step": 4, "val_acc": 0.5}]
    draw_learning_curve(write_log(tmp_path / "metrics.csv", rows), tmp_path / "curve.png")
    assert drawn.panels() == {
        "accuracy [%]": {"validation: 50.00% at the end": ([3], [50]), "best: 50.00% in epoch 3": ([3], [50])},
        "updates (misclassified samples)": {"training, during the epoch: 17 at the end": ([3], [17])},
    }


def test_a_log_without_figures_is_not_drawn(tmp_path):
    draw_learning_curve(write_log(tmp_path / "metrics.csv", [{"epoch": 0, "step": 1}]), tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_is_drawn_beside_its_log_also_when_it_is_interrupted(device, tmp_path, interrupted):
    log = CSVLogger(tmp_path)
    callbacks = [LearningCurve(), KeepOnInterrupt(tmp_path), At(9 if interrupted else -1, interrupt)]
    run = trainer(device, tmp_path, max_epochs=5, logger=log, log_every_n_steps=1, callbacks=callbacks)
    if interrupted:
        with pytest.raises(SystemExit):
            run.fit(LitMLP(in_features=64), digits(40, 20))
    else:
        run.fit(LitMLP(in_features=64), digits(40, 20))
    assert Path(log.log_dir, "learning_curve.png").read_bytes().startswith(PNG)
