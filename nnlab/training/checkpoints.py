"""Checkpoints: written whole, read as data, checked field by field before anything uses them.

A checkpoint may come from anyone. No code in it runs, and no path in it is used. What does not fit the module, the
optimizer or the callbacks is refused in one line.
"""

import hashlib
import math
import os
import random
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from nnlab.config_files import UserError
from nnlab.data.own import MOST_CLASSES, is_class_name
from nnlab.validation import ArgumentError

DIGEST, RANDOM = "digest", "random"
VERSION = "pytorch-lightning_version"
UNSIGNED = {DIGEST, VERSION, f"legacy_{VERSION}"}  # another Lightning writes its own version when it reads
FIELDS = {"learner": str, "epoch": int, "global_step": int, "hyper_parameters": Mapping, "state_dict": Mapping}
CHECKED_LATER = {"best_k_models", "combined_loader"}  # where each is used
MAY_BE_NEGATIVE = ("last_epoch", "_step_count", "mode_worse", "best")
OF_TRAINING: dict[str, Any] = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}


# ---- the digest ------------------------------------------------------------------------------------------------------


def digest(checkpoint: Mapping[str, Any], names: Sequence[str]) -> str:
    """SHA-256 of the content of some of a checkpoint's fields."""
    sha = hashlib.sha256()
    for name in names:
        _feed(sha, name)
        _feed(sha, checkpoint.get(name))
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes() + 2**24:
            raise TypeError("an expanded tensor, which would need far more memory than it was stored in")
        data = value.detach().cpu().contiguous()
        sha.update(f"{data.dtype}{tuple(data.shape)}".encode())
        sha.update(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    elif isinstance(value, Mapping):
        sha.update(f"{{{len(value)}".encode())
        for key, item in value.items():
            _feed(sha, key)
            _feed(sha, item)
    elif isinstance(value, (list, tuple)):
        sha.update(f"[{len(value)}".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(f"{type(value).__name__}:{value!r};".encode())


def sign(checkpoint: dict[str, Any]) -> None:
    """Store the digest of all fields in a checkpoint, so that damage is found."""
    names = sorted(checkpoint.keys() - UNSIGNED)
    checkpoint[DIGEST] = {"of": names, "sha256": digest(checkpoint, names)}


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Any) -> dict[str, Any]:
    """Read a checkpoint, a file or a path, on the CPU with ``weights_only``, and check what needs no module.

    Raises:
        ArgumentError: no such file, not a checkpoint of nnlab 0.2, or a damaged one.
    """
    if not hasattr(path, "read") and not Path(path).is_file():
        raise ArgumentError("ckpt_path", f"names no file: {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader meets
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ArgumentError("ckpt_path", f"is no readable checkpoint: {path} ({reason})") from error
    if not isinstance(checkpoint, dict) or not {"learner", "hyper_parameters", "state_dict"} <= checkpoint.keys():
        raise ArgumentError("ckpt_path", f"is no checkpoint of a model of nnlab: {path}")
    try:
        check_content(checkpoint)
    except ArgumentError as error:
        raise ArgumentError("ckpt_path", f"{error.problem}: {path}") from error
    return checkpoint


def _refuse(problem: str) -> NoReturn:
    raise ArgumentError("ckpt_path", problem)


def check_content(checkpoint: Mapping[str, Any]) -> None:
    """Check the fields that do not depend on the module, and the digest.

    Raises:
        ArgumentError: a field is missing or wrong.
    """
    if DIGEST not in checkpoint:
        _refuse("is of nnlab 0.1 or of another program, which 0.2 does not read")
    for name, kind in FIELDS.items():
        if not isinstance(checkpoint.get(name), kind):
            _refuse(f"has no {name}")
    _check_digest(checkpoint)
    for name, kind in {**OF_TRAINING, "datamodule_hyper_parameters": dict}.items():
        if not isinstance(checkpoint.get(name, kind()), kind):
            _refuse(f"has no usable {name}")
    classes = checkpoint.get("datamodule_hyper_parameters", {}).get("classes", [])
    if not isinstance(classes, list) or len(classes) > MOST_CLASSES or not all(map(is_class_name, classes)):
        _refuse("has no usable classes")
    if not all(isinstance(loop, Mapping) for loop in checkpoint.get("loops", {}).values()):
        _refuse("has no usable loops")
    if checkpoint["epoch"] < 0 or checkpoint["global_step"] < 0:
        _refuse("has a negative count of epochs or steps")
    if not all(isinstance(key, str) for key in checkpoint["hyper_parameters"]):
        _refuse("has hyper-parameters without names")


def _check_digest(checkpoint: Mapping[str, Any]) -> None:
    recorded = checkpoint[DIGEST]
    names = recorded.get("of") if isinstance(recorded, Mapping) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        _refuse("has no digest")
    if set(names) != checkpoint.keys() - UNSIGNED:
        _refuse("is damaged: its digest is of other fields")
    try:
        found = digest(checkpoint, names)
    except (RuntimeError, TypeError, RecursionError, NotImplementedError):  # a tensor of no plain kind
        found = ""
    if found != recorded.get("sha256"):
        _refuse("is damaged: its content is not what was written")
    if not re.fullmatch(r"[2-9]\.\d+.*", str(checkpoint.get(VERSION))):
        _refuse("was written by a version of Lightning that nnlab does not know")


def mean_of(name: str) -> str:
    """The name of the tensor with the mean of a parameter of LitMLP's network, where its weights are averaged."""
    return f"mean_{name.replace('.', '_')}"


def class_names(of_data: Mapping[str, Any], n_classes: int) -> list[str]:
    """The names of the classes that a checkpoint's data has, else their numbers."""
    names = of_data.get("classes")
    if not isinstance(names, (list, tuple)) or len(names) != n_classes:
        names = range(n_classes)
    return [" ".join(str(name).split())[:40] for name in names]


def check_fits(path: str | os.PathLike[str], learner: type[Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Check that a checkpoint has the module and the architecture that were asked for, and return it.

    Args:
        path: the checkpoint.
        learner: whose name and architecture must be the checkpoint's.
        wanted: hyper-parameters by name; those in ``learner.architecture`` count, and the ``scaling`` and the ``name``
            of the data. Without ``classes`` a checkpoint is of classes that are numbers.

    Raises:
        ArgumentError: naming the argument that differs, what it is in the checkpoint and what was asked for.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint["learner"] != learner.__name__:
        raise ArgumentError("model", f"is {learner.__name__}, but {path} holds a {checkpoint['learner']}")
    of_data = checkpoint.get("datamodule_hyper_parameters", {})
    found = {**(of_data if isinstance(of_data, Mapping) else {}), **checkpoint["hyper_parameters"]}
    if isinstance(n_classes := found.get("n_classes"), int) and 0 < n_classes <= MOST_CLASSES:
        found.setdefault("classes", [str(k) for k in range(n_classes)])
    for name in (*learner.architecture, *({"scaling", "name", "classes"} & found.keys())):
        if name in wanted and found.get(name) != wanted[name]:
            asked, has = (textwrap.shorten(str(value), 80) for value in (wanted[name], found.get(name)))
            raise ArgumentError(name, f"is {asked}, but {path} was trained with {has}")
    if not learner.sizes_fit(checkpoint["hyper_parameters"], checkpoint["state_dict"]):
        _refuse("has weights of other sizes than its hyper-parameters say")
    return checkpoint


# ---- finding ---------------------------------------------------------------------------------------------------------

NEWEST = ("best", "last")  # what --ckpt_path may say in place of a file


def newest_checkpoint(root: Path, which: str, fits: Callable[[Path], object]) -> Path:
    """The best or the last checkpoint of the newest run that fits.

    Args:
        root: the folder of all runs.
        which: "best" is the one that the run's last one recorded as such, by its digest, else its newest; "last" is the
            newest from which training can go on.
        fits: reads a checkpoint, and raises an ArgumentError where it is not what is wanted.

    Raises:
        ArgumentError: none fits; what is wrong with the newest.
        UserError: there is none at all.
    """
    files = sorted(root.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    if which == "last":
        files = [path for path in files if path.name in ("last.ckpt", "interrupted.ckpt")]
    else:
        files = [path for path in files if path.name != "interrupted.ckpt"] or files
        files = [_best_in(folder) for folder in dict.fromkeys(path.parent for path in files)]
    problem = None
    for path in files:
        try:
            fits(path)
        except ArgumentError as error:
            problem = problem or error
        else:
            return path
    if problem:
        raise problem
    raise UserError(f"there is no checkpoint under {root}: train one with nnlab fit, or name one with --ckpt_path")


def _best_in(folder: Path) -> Path:
    newest = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    try:
        states = read_checkpoint(folder / "last.ckpt").get("callbacks", {}).values()
        digests = {state["best_digest"] for state in states if isinstance(state, dict) and state.get("best_digest")}
        return next(p for p in newest if p.name != "last.ckpt" and read_checkpoint(p)[DIGEST]["sha256"] in digests)
    except (ArgumentError, StopIteration):
        return newest[0]


# ---- against the module, the trainer and its callbacks ---------------------------------------------------------------


def check_weights(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Check that a state dict has the names and shapes of another, and finite values of a similar dtype.

    Raises:
        ArgumentError: what is wrong with which tensor.
    """
    if found.keys() != expected.keys():
        name = min(map(str, found.keys() ^ expected.keys()))
        _refuse(f"does not have the model's tensors: {name} is {'missing' if name in expected else 'not of the model'}")
    for name, like in expected.items():
        _check_tensor(name, found[name], like.shape, floating=like.is_floating_point(), dtype=like.dtype)


def _check_tensor(
    name: str, value: Any, shape: Sequence[int], *, floating: bool = True, dtype: torch.dtype | None = None
) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        _refuse(f"has a {name} that is no plain tensor")
    if tuple(value.shape) != tuple(shape):
        _refuse(f"has a {name} of shape {tuple(value.shape)} where the model's is {tuple(shape)}")
    if floating:
        if value.dtype not in (torch.float32, torch.float64):
            _refuse(f"has a {name} of {value.dtype}, not of float32 or float64")
        if not value.isfinite().all():
            _refuse(f"has a {name} with NaN or infinity")
    elif value.dtype != dtype or (value < 0).any():
        _refuse(f"has a {name} of {value.dtype}, or below 0, where the model's is {dtype}")


def check_resumable(checkpoint: dict[str, Any], trainer: Any) -> None:
    """Check the fields that a run resumes from.

    Raises:
        ArgumentError: a field is missing or of another form than this trainer's.
    """
    for name, kind in OF_TRAINING.items():
        if not isinstance(checkpoint.get(name), kind):
            _refuse("holds weights only, from which training cannot go on")
    expected = {"fit_loop": trainer.fit_loop.state_dict(), "validate_loop": trainer.validate_loop.state_dict()}
    for name, loop in expected.items():
        check_like(f"loops.{name}", checkpoint["loops"].get(name), loop)
    check_callbacks(checkpoint, trainer)


def check_callbacks(checkpoint: Mapping[str, Any], trainer: Any) -> None:
    """Check the states of the trainer's callbacks, and remove every path from them.

    Raises:
        ArgumentError: one is of another form than its callback's.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging  # noqa: PLC0415 - seconds

    trains = trainer.state.fn == "fit"
    for callback in trainer.callbacks:
        key = callback.state_key
        if isinstance(callback, StochasticWeightAveraging) and not trains:
            continue  # its own is not there before training
        if (state := checkpoint.get("callbacks", {}).get(key)) is not None and (own := callback.state_dict()):
            check_like(f"state of {type(callback).__name__}", state, own)
            if isinstance(callback, ModelCheckpoint):
                _without_paths(state, callback.dirpath)


def check_like(name: str, found: Any, like: Any, *, setting: bool = False) -> None:
    """Check that a saved value has the form of this run's value.

    A setting of an optimizer or a scheduler is finite, has a sign that makes sense, and may be a fraction where this
    run's is whole. Other states hold counts, and figures that may be missing in one of the two.

    Raises:
        ArgumentError: it has another form; the message names it.
    """
    parts: Iterable[tuple[str, Any, Any]] = ()
    if isinstance(like, Counter):  # a scheduler's milestones
        good = isinstance(found, Mapping) and all(type(part) is int for item in found.items() for part in item)
    elif isinstance(like, Mapping):
        keys = like.keys() - CHECKED_LATER
        good = isinstance(found, Mapping) and keys <= found.keys()
        parts = ((f"{name}.{key}", found[key], like[key]) for key in keys)
    elif setting and isinstance(like, (list, tuple)):
        good = isinstance(found, (list, tuple)) and len(found) == len(like)
        parts = ((name, *pair) for pair in zip(found, like, strict=True)) if good else ()
    elif isinstance(like, (bool, str)):
        good = type(found) is type(like)
    elif isinstance(like, Tensor):
        good = isinstance(found, Tensor) and found.shape == like.shape
        good = good and not (found.is_quantized or found.is_complex())
        good = good and bool(found.isfinite().all() if setting else not found.isnan().any())
    elif setting and isinstance(like, (int, float)):
        good = _is_number(found) and (math.isfinite(found) or not math.isfinite(like))
        good = good and (found >= 0 or like < 0 or name.endswith(MAY_BE_NEGATIVE))
        good = good and not (name.endswith("betas") and found >= 1)
    elif isinstance(like, int):
        good = type(found) is int and abs(found) <= 2**53
    elif not setting and (like is None or isinstance(like, float)):
        good = found is None or isinstance(found, str) or _is_number(found)
        if isinstance(found, Tensor):
            good = found.numel() == 1 and not found.is_quantized and not found.isnan().any()
    else:
        good = True
    if not good:
        _refuse(f"has no usable {name}")
    for part in parts:
        check_like(*part, setting=setting)


def _is_number(value: Any) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (type(value) is float and not math.isnan(value))


def _without_paths(state: Any, dirpath: Any) -> None:
    """Remove all paths from a ModelCheckpoint's state: Lightning would delete the files."""
    state |= {"dirpath": str(dirpath), "best_k_models": {}}
    state |= dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), "")


def check_optimizer(found: Any, optimizer: torch.optim.Optimizer, kind: Any) -> None:
    """Check that a saved state is of the optimizer's class, and fits its settings and parameters.

    Raises:
        ArgumentError: it is not; the message names the optimizer where it is another.
    """
    name = type(optimizer).__name__
    if kind != name:
        raise ArgumentError("optimizer", f"is {name}, but the checkpoint was trained with {kind}")
    groups = found.get("param_groups") if isinstance(found, Mapping) else None
    own = optimizer.state_dict()
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        _refuse("has no usable state of the optimizer")
    for group, like in zip(groups, own["param_groups"], strict=True):
        if not isinstance(group, dict) or group.get("params") != like["params"]:
            _refuse("has no usable state of the optimizer")
        for key, value in like.items():
            if key != "params":
                check_like(f"value of the optimizer's {key}", group.get(key), value, setting=True)
            if isinstance(value, (bool, str)) or value is None:
                group[key] = value  # a way to compute is this run's
    kept = {"step", "exp_avg", "exp_avg_sq"} if name in ("Adam", "AdamW") else set()
    _check_states(found, optimizer, kept | ({"momentum_buffer"} if name == "SGD" and groups[0]["momentum"] else set()))


def _check_states(found: Mapping[str, Any], optimizer: torch.optim.Optimizer, kept: set[str]) -> None:
    """Check the state of each parameter, which must have the entries ``kept``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(states := found.get("state"), Mapping):
        _refuse("has no usable state of the optimizer")
    for index, state in states.items():
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(state, Mapping):
            _refuse("has no usable state of the optimizer")
        if not kept <= state.keys() or state.keys() != next(iter(states.values())).keys():
            _refuse("has no usable state of the optimizer")
        shape = None if "func_evals" in state else parameters[index].shape  # LBFGS keeps one state for all parameters
        for key, value in state.items():
            _check_state(f"state {key} of the optimizer", value, () if key == "step" else shape)
    joined = any("func_evals" in state for state in states.values())
    if states and not joined and len(states) < sum(p.requires_grad for p in parameters):
        _refuse("has no state of the optimizer for some parameters")


def _check_state(name: str, value: Any, shape: Sequence[int] | None) -> None:
    """Check an entry of a parameter's state: finite tensors, of the shape if it is known, and numbers."""
    if isinstance(value, Tensor):
        _check_tensor(name, value, value.shape if shape is None else shape)
    elif isinstance(value, list):
        for part in value:
            _check_state(name, part, shape)
    elif value is not None and not (_is_number(value) and math.isfinite(value)):
        _refuse(f"has a {name} that is no number")


def check_scheduler(found: Any, scheduler: Any, kind: Any) -> None:
    """Check that a saved state is of the scheduler's class, and has the form of its own.

    Raises:
        ArgumentError: it is not.
    """
    name, own = type(scheduler).__name__, scheduler.state_dict()
    if kind != name:
        raise ArgumentError("lr_scheduler", f"is {name}, but the checkpoint was trained with {kind}")
    if "_schedulers" in own:
        raise ArgumentError("lr_scheduler", f"is {name}, with which a run cannot go on: its schedulers are not checked")
    if not isinstance(found, Mapping) or found.keys() != own.keys():
        _refuse("has no usable state of the scheduler")
    for key, value in own.items():
        check_like(f"value of the scheduler's {key}", found[key], value, setting=True)


# ---- the random state ------------------------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """The state of the global generators of torch, CUDA, NumPy and Python."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one is what others draw from
    version, words, next_gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), next_gauss],
    }


def set_random_state(state: Any) -> None:
    """Set the generators to a state that ``random_state`` returned.

    Raises:
        ArgumentError: it is no such state; the generators do not change.
    """
    try:
        kind, keys, position, has_gauss, gauss = state["numpy"]
        numpy = (kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss)
        version, words, next_gauss = state["python"]
        python = (version, tuple(words), next_gauss)
        torch.Generator().set_state(state["torch"])  # each refuses what is no state of it
        np.random.RandomState().set_state(numpy)
        random.Random().setstate(python)
        cuda = list(state["cuda"]) if torch.cuda.is_available() else []
        if len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(cuda)
    except Exception as error:  # each generator has errors of its own
        raise ArgumentError("ckpt_path", "has no usable random state") from error
    torch.set_rng_state(state["torch"])
    np.random.set_state(numpy)  # noqa: NPY002
    random.setstate(python)
