"""A checkpoint is written whole or not at all, read without running code, and loaded only where it fits."""

import itertools
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import torch

from nnlab.training import AtomicCheckpointIO, LitMLP, LitPerceptron, read_checkpoint
from nnlab.training.checkpoints import check_fits
from nnlab.validation import ArgumentError
from tests.training.runs import digits, trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fitted")
    run = trainer(torch.device("cpu"), root)
    run.fit(LitMLP(hidden=[5], in_features=64), digits(40, 20))
    run.save_checkpoint(root / "fitted.ckpt")
    return root / "fitted.ckpt"


class Code:
    """Runs when it is unpickled in the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_is_read(checkpoint):
    read = read_checkpoint(checkpoint)
    assert read["learner"] == "LitMLP"
    assert read["hyper_parameters"]["hidden"] == [5]
    assert read["datamodule_hyper_parameters"] == {"scaling": "unit", "name": "digits"}


BAD = {
    "missing": (None, "names no file"),
    "empty": (b"", "is no readable checkpoint"),
    "garbage": (b"garbage" * 100, "is no readable checkpoint"),
    "a zip file": (b"PK\x03\x04" + bytes(100), "is no readable checkpoint"),
    "another dict": ({"state_dict": {}}, "is no checkpoint of a learner of nnlab"),
    "a tensor": (torch.zeros(3), "is no checkpoint of a learner of nnlab"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ArgumentError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"ckpt_path {message}: {path}")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice, to unpickle it all the same


def test_a_truncated_checkpoint_is_refused(checkpoint, tmp_path):
    raw = checkpoint.read_bytes()
    for n in (1, 100, len(raw) // 2, len(raw) - 1):
        (tmp_path / "cut.ckpt").write_bytes(raw[:n])
        with pytest.raises(ArgumentError, match="is no readable checkpoint"):
            read_checkpoint(tmp_path / "cut.ckpt")


@pytest.mark.parametrize(
    "save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["torch", "pickle"]
)
def test_code_in_a_checkpoint_is_not_run(tmp_path, save):
    path = tmp_path / "code.ckpt"
    save({"learner": "LitMLP", "hyper_parameters": {}, "state_dict": Code(tmp_path / "made")}, path)
    with pytest.raises(ArgumentError, match="is no readable checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "made").exists()


def test_a_failing_save_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "below" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"n": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"n": 2, "more": torch.zeros(1000), "f": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"n": 1}
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"n": 1}, path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"n": 2}, path)
    assert torch.load(path, weights_only=True) == {"n": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "last.ckpt"
    saved = []
    for wait in torch.rand(8).mul(0.06).tolist():
        child = os.fork()  # a process of its own in no time; all it does is save
        if child == 0:
            try:
                for n in itertools.count(len(saved) * 1000 + 1):
                    AtomicCheckpointIO().save_checkpoint({"n": n, "x": torch.full((200_000,), n)}, path)
            finally:
                os._exit(1)
        time.sleep(0.03 + wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["x"].eq(checkpoint["n"]).all()
        saved.append(checkpoint["n"])
    assert len(set(saved)) > 4  # many have got as far as saving


FITS = {"hidden": [5], "activation": "relu", "in_features": 64, "n_classes": 10, "scaling": "unit"}


def test_a_checkpoint_fits_the_learner_and_the_architecture_it_was_trained_with(checkpoint):
    check_fits(checkpoint, LitMLP, FITS)
    check_fits(checkpoint, LitMLP, {})
    check_fits(checkpoint, LitMLP, {**FITS, "l2": 3.0})  # which can change on the way


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", [5, 5]), ("activation", "tanh"), ("in_features", 784), ("n_classes", 26), ("scaling", "raw")],
)
def test_a_conflict_names_the_argument_and_both_values(checkpoint, name, value):
    with pytest.raises(ArgumentError) as caught:
        check_fits(checkpoint, LitMLP, {**FITS, name: value})
    assert caught.value.argument == name
    assert str(caught.value) == f"{name} is {value}, but {checkpoint} was trained with {FITS[name]}"


def test_another_learner_is_refused(checkpoint):
    with pytest.raises(ArgumentError, match=r"model is LitPerceptron, but .* holds a LitMLP"):
        check_fits(checkpoint, LitPerceptron, FITS)
