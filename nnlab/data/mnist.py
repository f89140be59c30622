"""The data sets by name: MNIST, Fashion-MNIST and KMNIST from files in torchvision's layout, and the 8×8 digits.

A file is used only after all that is known about it has been checked: format, count, size, labels and SHA-256.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nnlab.data.idx import DataError, IdxFile, read_idx
from nnlab.validation import check_choice

Split = Literal["train", "test"]

SPLITS: tuple[Split, ...] = ("train", "test")

Root = str | os.PathLike[str] | None
"""The folder that holds the data sets' folders; None is ``default_root()``."""


class ImageSplit(NamedTuple):
    """The images of one split, uint8 (N, H, W), and their labels, int64 (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class FileSpec:
    """One file of a data set and what must hold for it; ``n_classes`` is None for images, ``sha256`` if unknown."""

    name: str
    split: Split
    shape: tuple[int, ...]
    n_classes: int | None
    sha256: str | None

    @property
    def n_bytes(self) -> int:
        """The size of the uncompressed file: the header and one byte per item."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


@dataclass(frozen=True)
class DataSpec:
    """What is known of a data set without reading it; ``folder`` is None where it needs no files."""

    folder: str | None
    n_train: int = 60_000
    n_test: int = 10_000
    image_shape: tuple[int, int] = (28, 28)
    n_classes: int = 10
    max_pixel: int = 255
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_features(self) -> int:
        """The number of pixels of an image.

        >>> SPECS["mnist"].in_features, SPECS["digits"].in_features
        (784, 64)
        """
        return math.prod(self.image_shape)

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """The training images and labels, then the test images and labels; empty for a data set without files."""
        if self.folder is None:
            return ()
        files: list[FileSpec] = []
        for split in SPLITS:
            prefix, n = ("train", self.n_train) if split == "train" else ("t10k", self.n_test)
            images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
            files += (
                FileSpec(images, split, (n, *self.image_shape), None, self.sha256.get(images)),
                FileSpec(labels, split, (n,), self.n_classes, self.sha256.get(labels)),
            )
        return tuple(files)


SPECS: dict[str, DataSpec] = {
    "mnist": DataSpec(
        "MNIST",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion_mnist": DataSpec("FashionMNIST"),
    "kmnist": DataSpec("KMNIST"),
    "digits": DataSpec(None, n_train=1437, n_test=360, image_shape=(8, 8), max_pixel=16),
}
"""Every data set by its name."""


def default_root() -> Path:
    """The folder of the data sets: the environment's ``NNLAB_DATA``, else ``data`` in the working directory."""
    return Path(os.environ.get("NNLAB_DATA") or "data")


def raw_folder(name: str, root: Root = None) -> Path | None:
    """The folder of a data set's files, ``<root>/<folder>/raw``; None for a data set without files.

    >>> raw_folder("mnist", "data").as_posix()
    'data/MNIST/raw'
    """
    check_choice("name", name, SPECS)
    folder = SPECS[name].folder
    return None if folder is None else Path(default_root() if root is None else root).expanduser() / folder / "raw"


def load(name: str, root: Root = None, splits: Collection[Split] = SPLITS) -> dict[Split, ImageSplit]:
    """Check all files of a data set, each read once, and return the splits that are asked for.

    Args:
        name: a name in ``SPECS``.
        root: the folder that holds the data sets.
        splits: the splits to build tensors of; the other files are checked all the same.

    Returns:
        The asked splits by name.

    Raises:
        DataError: a file is missing or not what it must be; the file, what was found and what is expected are named.
        ArgumentError: an unknown name or split.

    >>> load("digits", splits=["test"])["test"].images.shape
    torch.Size([360, 8, 8])
    """
    for split in splits:
        check_choice("splits", split, SPLITS)
    return _load(name, root, splits, checked=SPLITS)


def load_split(name: str, root: Root, split: Split) -> ImageSplit:
    """Check and return one split alone; the files of the other need not be there. Arguments and errors as ``load``."""
    check_choice("split", split, SPLITS)
    return _load(name, root, (split,), checked=(split,))[split]


def verify(name: str, root: Root = None) -> None:
    """Check all files of a data set as ``load`` does, and build no tensors."""
    load(name, root, splits=())


def _load(name: str, root: Root, splits: Collection[Split], *, checked: Collection[Split]) -> dict[Split, ImageSplit]:
    folder = raw_folder(name, root)
    if folder is None:
        digits = _digits()
        return {split: digits[split] for split in splits}
    loaded: dict[Split, ImageSplit] = {}
    for split in checked:
        images, labels = (_read_required(folder, file) for file in SPECS[name].files if file.split == split)
        if split in splits:
            loaded[split] = ImageSplit(images.data, labels.data.to(torch.int64))
    return loaded


def _read_required(folder: Path, file: FileSpec) -> IdxFile:
    path = find_file(folder, file)
    if path is None:
        raise DataError(f"{folder / file.name}: found no such file, expected it or {file.name}.gz beside it")
    return read_present_file(path, file)


def find_file(folder: Path, file: FileSpec) -> Path | None:
    """The file in its folder, under its name or else with ``.gz`` after it; None where neither is present."""
    candidates = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in candidates if os.path.lexists(path)), None)


def read_file(path: Path, file: FileSpec) -> IdxFile:
    """Read the file at ``path`` and hold it to ``file``.

    Raises:
        DataError: format, shape, labels or SHA-256 are not what they must be.
    """
    found = read_idx(path, dimensions=len(file.shape))
    if found.shape != file.shape:
        raise DataError.mismatch(path, f"the shape {found.shape}", f"{file.shape}")
    if file.n_classes is not None and max(found.content) >= file.n_classes:
        raise DataError.mismatch(path, f"the label {max(found.content)}", f"labels from 0 to {file.n_classes - 1}")
    if file.sha256 is not None and found.sha256 != file.sha256:
        raise DataError.mismatch(path, f"the SHA-256 {found.sha256}", file.sha256)
    return found


def read_present_file(path: Path, file: FileSpec) -> IdxFile:
    """``read_file`` for a file in the user's folder: the error also says what to do about it."""
    try:
        return read_file(path, file)
    except DataError as error:
        raise DataError(f"{error}; remove it or put the right file there") from error


def _digits() -> dict[Split, ImageSplit]:
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow to import, and only this data set needs it)

    bunch = load_digits()
    images, labels = torch.from_numpy(bunch.images).to(torch.uint8), torch.from_numpy(bunch.target).to(torch.int64)
    n = SPECS["digits"].n_train
    return {"train": ImageSplit(images[:n], labels[:n]), "test": ImageSplit(images[n:], labels[n:])}
