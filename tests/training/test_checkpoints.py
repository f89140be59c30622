"""A checkpoint is written whole or not at all, read without running code, and loaded only where it fits."""

import copy
import itertools
import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from nnlab.files import claim_folder, write_whole
from nnlab.training import AtomicCheckpointIO, BestAndLast, LitMLP, LitPerceptron, read_checkpoint
from nnlab.training.checkpoints import DIGEST, check_fits, check_scheduler, sign
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
    assert read["datamodule_hyper_parameters"] == {"scaling": "unit", "name": "digits", "seed": 3, "distort": "off"}


BAD = {
    "missing": (None, "names no file"),
    "empty": (b"", "is no readable checkpoint"),
    "garbage": (b"garbage" * 100, "is no readable checkpoint"),
    "a zip file": (b"PK\x03\x04" + bytes(100), "is no readable checkpoint"),
    "another dict": ({"state_dict": {}}, "is no checkpoint of a model of nnlab"),
    "a tensor": (torch.zeros(3), "is no checkpoint of a model of nnlab"),
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


# What is in a checkpoint


def at(checkpoint: Any, *path: Any) -> Any:
    for key in path:
        checkpoint = checkpoint[key]
    return checkpoint


def put(*path: Any, value: Any) -> Callable[[Any], None]:
    return lambda checkpoint: at(checkpoint, *path[:-1]).__setitem__(path[-1], value)


def drop(*path: Any) -> Callable[[Any], None]:
    return lambda checkpoint: at(checkpoint, *path[:-1]).__delitem__(path[-1])


WEIGHT = ("state_dict", "network.0.weight")
PROGRESS = ("loops", "fit_loop", "epoch_loop.batch_progress")
GROUP = ("optimizer_states", 0, "param_groups", 0)
BUFFER = ("optimizer_states", 0, "state", 0, "momentum_buffer")

DAMAGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "no weights": (drop("state_dict"), "has no state_dict"),
    "a tensor missing": (drop(*WEIGHT), "does not have the model's tensors: network.0.weight is missing"),
    "a tensor more": (put("state_dict", "more", value=torch.zeros(1)), "more is not of the model"),
    "another shape": (put(*WEIGHT, value=torch.zeros(64, 5)), r"has a network.0.weight of shape \(64, 5\)"),
    "NaN": (put(*WEIGHT, value=torch.full((5, 64), torch.nan)), "has a network.0.weight with NaN or infinity"),
    "whole numbers": (
        put(*WEIGHT, value=torch.zeros(5, 64, dtype=torch.int64)),
        "0.weight of torch.int64",
    ),
    "half": (put(*WEIGHT, value=torch.zeros(5, 64, dtype=torch.half)), "has a network.0.weight of torch.float16"),
    "a list for a tensor": (put(*WEIGHT, value=[0.0]), "is no plain tensor"),
    "another model": (put("learner", value="LitPerceptron"), "holds a LitPerceptron, not a LitMLP"),
    "a name that is none": (put("learner", value=3), "has no learner"),
    "a negative epoch": (put("epoch", value=-1), "has a negative count"),
    "weights alone": (drop("optimizer_states"), "holds weights only"),
    "loops of another form": (put("loops", "fit_loop", value=[]), "has no usable loops"),
    "a count that is text": (put(*PROGRESS, "current", "ready", value="1"), "has no usable loops.fit_loop.*ready"),
    "no optimizer": (put("optimizer_states", value=[]), "optimizer must be as in the checkpoint"),
    "a rate of NaN": (put(*GROUP, "lr", value=float("nan")), "has no usable value of the optimizer's lr"),
    "a negative rate": (put(*GROUP, "lr", value=-1.0), "has no usable value of the optimizer's lr"),
    "a rate that torch cannot take": (put(*GROUP, "lr", value=2**64), "has no usable value of the optimizer's lr"),
    "a setting missing": (drop(*GROUP, "momentum"), "has no usable value of the optimizer's momentum"),
    "other parameters": (put(*GROUP, "params", value=[0, 1, 2]), "has no usable state of the optimizer"),
    "infinite momentum": (put(*BUFFER, value=torch.full((5, 64), torch.inf)), "momentum_buffer.* with NaN or infinity"),
    "momentum of another shape": (put(*BUFFER, value=torch.zeros(3)), r"momentum_buffer.* of shape \(3,\)"),
    "a setting of the data that is none": (
        put("datamodule_hyper_parameters", value=3),
        "has no usable datamodule_hyper",
    ),
    "no random state": (put("random", value=[{}]), "has no usable random state"),
    "figures of another name": (put("figures", value=[{"__class__": {}}]), "has no usable figures"),
    "a record that is none": (put("training", value=3), "has no usable record of its training"),
    "a position beyond": (
        put("loops", "fit_loop", "state_dict", "combined_loader", 0, "position", value=1000),
        "has a loader at another place than its counts of batches",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("whole")
    kept = BestAndLast(root, monitor="val_loss", save_on_train_epoch_end=False)
    run = trainer(torch.device("cpu"), root, enable_checkpointing=True, callbacks=[kept])
    run.fit(LitMLP(hidden=[5], in_features=64), digits(40, 20))
    return torch.load(kept.last_model_path, weights_only=True)


def go_on(folder: Path, checkpoint: Any) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(checkpoint, folder / "made.ckpt")
    kept = BestAndLast(folder / "kept", monitor="val_loss", save_on_train_epoch_end=False)
    run = trainer(torch.device("cpu"), folder, enable_checkpointing=True, callbacks=[kept], max_epochs=2)
    model = LitMLP(hidden=[5], in_features=64)
    run.fit(model, digits(40, 20), ckpt_path=folder / "made.ckpt", weights_only=True)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_field_is_found_though_the_digest_is_made_anew(tmp_path, whole, damage, message):
    checkpoint = copy.deepcopy(whole)
    damage(checkpoint)
    sign(checkpoint)
    with pytest.raises(ArgumentError, match=message):
        go_on(tmp_path, checkpoint)


@pytest.mark.parametrize("state", [3, torch.zeros(2), {"wait_count": 0}])
def test_a_state_of_a_callback_is_checked_though_nothing_is_trained(tmp_path, whole, state):
    stop = EarlyStopping("val_loss")
    checkpoint = copy.deepcopy(whole)
    checkpoint["callbacks"][stop.state_key] = state
    sign(checkpoint)
    torch.save(checkpoint, tmp_path / "made.ckpt")
    run = trainer(torch.device("cpu"), tmp_path, callbacks=[stop])
    with pytest.raises(ArgumentError, match="has no usable state of EarlyStopping"):
        run.test(
            LitMLP(hidden=[5], in_features=64), digits(40, 20), ckpt_path=tmp_path / "made.ckpt", weights_only=True
        )


@pytest.mark.parametrize("mode", [False, b"x", {}])
def test_a_schedulers_way_to_compute_is_checked(mode):
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([torch.zeros(1)]))
    with pytest.raises(ArgumentError, match="has no usable value of the scheduler's mode"):
        check_scheduler(scheduler.state_dict() | {"mode": mode}, scheduler, "ReduceLROnPlateau")


def test_schedulers_within_a_scheduler_are_refused():
    optimizer = torch.optim.SGD([torch.zeros(1)])
    parts = [torch.optim.lr_scheduler.ConstantLR(optimizer) for _ in range(2)]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])
    with pytest.raises(ArgumentError, match="lr_scheduler is SequentialLR, with which a run cannot go on"):
        check_scheduler(scheduler.state_dict(), scheduler, "SequentialLR")


class Counts(Callback):
    """Keeps a tensor of several values."""

    state_key = "Counts"

    def state_dict(self) -> dict[str, Any]:
        return {"counts": torch.zeros(3)}


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
@pytest.mark.parametrize("n", [3, 4])
def test_a_callbacks_tensor_must_have_the_shape_of_its_own(tmp_path, whole, n):
    checkpoint = copy.deepcopy(whole)
    checkpoint["callbacks"]["Counts"] = {"counts": torch.ones(n)}
    sign(checkpoint)
    torch.save(checkpoint, tmp_path / "made.ckpt")
    run = trainer(torch.device("cpu"), tmp_path, callbacks=[Counts()])
    with nullcontext() if n == 3 else pytest.raises(ArgumentError, match=r"has no usable state of Counts\.counts"):
        run.test(
            LitMLP(hidden=[5], in_features=64), digits(40, 20), ckpt_path=tmp_path / "made.ckpt", weights_only=True
        )


def test_a_few_numbers_cannot_stand_for_any_number_of_them():
    with pytest.raises(TypeError, match="an expanded tensor"):
        sign({"x": torch.zeros(1).expand(2**25)})


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_a_change_of_a_single_number_is_found_by_the_digest(tmp_path, whole):
    go_on(tmp_path / "as it was", whole)
    checkpoint = copy.deepcopy(whole)
    checkpoint["state_dict"]["network.0.weight"][2, 3] += 1e-3
    with pytest.raises(ArgumentError, match="is damaged: its content is not what was written"):
        go_on(tmp_path, checkpoint)
    torch.save(checkpoint, tmp_path / "made.ckpt")
    for read in (read_checkpoint, LitMLP.load_from_checkpoint):
        with pytest.raises(ArgumentError, match="is damaged"):
            read(tmp_path / "made.ckpt")
    checkpoint[DIGEST]["of"][0] = {}
    torch.save(checkpoint, tmp_path / "made.ckpt")
    with pytest.raises(ArgumentError, match="has no digest"):
        read_checkpoint(tmp_path / "made.ckpt")
    del checkpoint[DIGEST]
    torch.save(checkpoint, tmp_path / "made.ckpt")
    with pytest.raises(ArgumentError, match=r"another program, which 0\.2 does not read"):
        read_checkpoint(tmp_path / "made.ckpt")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_no_path_in_a_checkpoint_is_acted_on(tmp_path, whole):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    checkpoint = copy.deepcopy(whole)
    (state,) = [state for key, state in checkpoint["callbacks"].items() if key.startswith("BestAndLast")]
    kept, paths = tmp_path / "kept", [str(tmp_path / "kept/../victim"), str(victim)]
    state |= {"dirpath": str(kept), "best_k_models": {path: torch.tensor(9.0) for path in paths}}
    state |= {"kth_best_model_path": paths[0], "best_model_path": paths[0], "last_model_path": paths[1]}
    sign(checkpoint)
    go_on(tmp_path, checkpoint)
    assert (victim / "file").exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_the_next_run_removes_what_a_killed_one_left(tmp_path):
    last = tmp_path / "version_0/checkpoints/last.ckpt"
    child = os.fork()
    if child == 0:
        write_whole(last, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    (left,) = last.parent.iterdir()
    of_another = left.rename(left.with_name(left.name.replace(str(child), str(os.getppid()))))  # which runs
    left.touch()
    assert claim_folder(tmp_path).name == "version_1"
    assert list(last.parent.iterdir()) == [of_another]
