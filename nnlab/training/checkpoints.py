"""Checkpoints: written whole or not at all, read without unpickling code, and loaded only where they fit."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from nnlab.training.classifier import Classifier
from nnlab.validation import ArgumentError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file in the target folder, syncs it, and renames it: a kill leaves the old file or the new."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint on the CPU with ``weights_only``.

    Raises:
        ArgumentError: no such file, or not a checkpoint of a learner of nnlab.
    """
    if not Path(path).is_file():
        raise ArgumentError("ckpt_path", f"names no file: {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader meets
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ArgumentError("ckpt_path", f"is no readable checkpoint: {path} ({reason})") from error
    if not isinstance(checkpoint, dict) or not {"learner", "hyper_parameters", "state_dict"} <= checkpoint.keys():
        raise ArgumentError("ckpt_path", f"is no checkpoint of a learner of nnlab: {path}")
    return checkpoint


def check_fits(path: str | os.PathLike[str], learner: type[Classifier], wanted: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the learner and the architecture that were asked for.

    Args:
        path: the checkpoint.
        learner: whose name and architecture must be the checkpoint's.
        wanted: hyper-parameters by name; those in ``learner.architecture`` count, and the ``scaling`` and
            the ``name`` of the data.

    Raises:
        ArgumentError: naming the argument that differs, what it is in the checkpoint and what was asked for.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint["learner"] != learner.__name__:
        raise ArgumentError("model", f"is {learner.__name__}, but {path} holds a {checkpoint['learner']}")
    found = {**checkpoint.get("datamodule_hyper_parameters", {}), **checkpoint["hyper_parameters"]}
    for name in (*learner.architecture, *({"scaling", "name"} & found.keys())):
        if name in wanted and found.get(name) != wanted[name]:
            raise ArgumentError(name, f"is {wanted[name]}, but {path} was trained with {found.get(name)}")
