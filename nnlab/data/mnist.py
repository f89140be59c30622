"""The data sets by name: MNIST, Fashion-MNIST and KMNIST from IDX files, and scikit-learn's 8×8 digits.

Everything that is known about a file is checked each time before it is used: format, shape, labels and SHA-256.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    """What is known of one file; ``n_classes`` is None for images, ``sha256`` where it is not known."""

    name: str
    split: Split
    shape: tuple[int, ...]
    n_classes: int | None
    sha256: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which people have the file, the usual one first.

        >>> SPECS["mnist"].files[1].names[:2]
        ('train-labels-idx1-ubyte', 'train-labels.idx1-ubyte')
        """
        plain = self.name, self.name.replace("-idx", ".idx")
        return *plain, *(f"{name}.gz" for name in plain)


class FoundFile(NamedTuple):
    """A file of a data set that has passed every check, and where it lies."""

    path: Path
    content: IdxFile


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
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, which are their numbers."""
        return tuple(map(str, range(self.n_classes)))

    @property
    def is_square(self) -> bool:
        """Whether the images are square."""
        return self.image_shape[0] == self.image_shape[1]

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
    "fashion_mnist": DataSpec(
        "FashionMNIST",
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    "kmnist": DataSpec("KMNIST"),
    "digits": DataSpec(None, n_train=1437, n_test=360, image_shape=(8, 8), max_pixel=16),
}
"""Every data set by its name. Fashion-MNIST's sums are of the files in Debian's package of it."""

MAX_FOLDERS = 100
"""How many folders below the root are searched at most, on each of two levels."""

_log = logging.getLogger("nnlab.data")


def default_root() -> Path:
    """The folder of the data sets: the environment's ``NNLAB_DATA``, else ``data`` in the working directory."""
    return Path(os.environ.get("NNLAB_DATA") or "data")


def raw_folder(name: str, root: Root = None) -> Path | None:
    """The usual folder of a data set's files, ``<root>/<folder>/raw``; None for a data set without files.

    >>> raw_folder("mnist", "data").as_posix()
    'data/MNIST/raw'
    """
    check_choice("name", name, SPECS)
    folder = SPECS[name].folder
    return None if folder is None else _root(root) / folder / "raw"


def load(name: str, root: Root = None, splits: Collection[Split] = SPLITS) -> dict[Split, ImageSplit]:
    """Check all files of a data set, each read once, and return the splits that are asked for.

    Args:
        name: a name in ``SPECS``.
        root: the folder of the data sets; ``find_files`` says where in and near it files are looked for.
        splits: the splits to return; the files of the others are checked all the same.

    Raises:
        DataError: a file is missing or wrong; the error names the file, what was found and what is expected.
        ArgumentError: an unknown name or split.

    >>> load("digits", splits=["test"])["test"].images.shape
    torch.Size([360, 8, 8])
    """
    for split in splits:
        check_choice("splits", split, SPLITS)
    return _load(name, root, splits, checked=SPLITS)


def load_split(name: str, root: Root, split: Split) -> ImageSplit:
    """Check and return one split; the files of the other need not be there. Arguments and errors as ``load``."""
    check_choice("split", split, SPLITS)
    return _load(name, root, (split,), checked=(split,))[split]


def verify(name: str, root: Root = None) -> None:
    """Check all files of a data set as ``load`` does, and build no tensors."""
    load(name, root, splits=())


def _load(name: str, root: Root, splits: Collection[Split], *, checked: Collection[Split]) -> dict[Split, ImageSplit]:
    if raw_folder(name, root) is None:
        digits = _digits()
        return {split: digits[split] for split in splits}
    contents: dict[Split, list[IdxFile]] = {split: [] for split in splits}
    for file, found in find_files(name, root, [file for file in SPECS[name].files if file.split in checked]):
        if found is None:
            raise missing_file(name, root, file)
        if file.split in splits:
            contents[file.split].append(found.content)
    return {split: ImageSplit(images.data, labels.data.to(torch.int64)) for split, (images, labels) in contents.items()}


def find_files(name: str, root: Root, files: Iterable[FileSpec]) -> Iterator[tuple[FileSpec, FoundFile | None]]:
    """Find and check files of a data set; yield each with where it lies, None where it is nowhere.

    A file is looked for under each of its ``names``, and as ``NAME/NAME``, in four places: ``<root>/MNIST/raw`` (or
    the data set's own folder), ``<root>/MNIST``, ``<root>/raw`` and ``<root>``. There, a file that is present and
    wrong is an error. A file that is in none of them is looked for in the same four places of the folders one and two
    levels below the root, of the two folders above it, and of folders of the root's name one and two levels up. There,
    a file that is wrong is passed over with a warning.

    A folder named for another data set is not searched; one named for none is searched where the SHA-256 is known.

    Raises:
        DataError: a file in one of the root's own places is wrong.
    """
    near = _places(name, _root(root))
    far: list[Path] | None = None
    for file in files:
        found = _find(file, near)
        if found is None:
            if far is None:
                far = [place for folder in _folders_around(name, _root(root)) for place in _places(name, folder)]
            found = _find(file, far, pass_over=True)
        yield file, found


def missing_file(name: str, root: Root, file: FileSpec) -> DataError:
    """The error for a file that ``find_files`` finds nowhere."""
    path = Path(raw_folder(name, root) or "", file.name)
    return DataError(f"{path}: found no such file, expected it or {file.name}.gz beside it")


def _root(root: Root) -> Path:
    return (default_root() if root is None else Path(root)).expanduser()


def _places(name: str, folder: Path) -> list[Path]:
    own = folder / str(SPECS[name].folder)
    candidates = own / "raw", own, folder / "raw", folder
    return [place for place in candidates if _may_contain(place, name) and os.path.isdir(place)]


def _may_contain(folder: Path, name: str) -> bool:
    """Whether the folder is named for this data set, or for none where the SHA-256 tells the data sets apart."""
    named_for = _named_for(folder)
    return named_for == name or (named_for is None and bool(SPECS[name].sha256))


def _named_for(folder: Path) -> str | None:
    folder = folder.absolute()
    text = (folder.parent if folder.name == "raw" else folder).name.casefold()
    words = {"fashion": "fashion_mnist", "kmnist": "kmnist", "kuzushiji": "kmnist", "mnist": "mnist"}  # mnist is last
    return next((name for word, name in words.items() if word in text), None)


def _folders_around(name: str, root: Path) -> list[Path]:
    """The folders one and two levels below the root, then those above it and their folders of the root's name."""
    level, below = [root], []
    for _ in range(2):
        level = [child for folder in level for child in _children(folder) if _named_for(child) in (name, None)]
        level = level[:MAX_FOLDERS]
        below += level
    root = root.absolute()
    above = [*root.parents[:2], *(parent / root.name for parent in root.parents[1:3])]
    return below + above


def _children(folder: Path) -> list[Path]:
    """The folders in a folder, by name, hidden ones left out; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            some = list(itertools.islice(entries, 100 * MAX_FOLDERS))  # a folder of a million pictures takes a second
    except OSError:
        return []
    return [folder / e.name for e in sorted(some, key=lambda e: e.name) if e.name[0] != "." and os.path.isdir(e.path)]


def _find(file: FileSpec, places: Iterable[Path], *, pass_over: bool = False) -> FoundFile | None:
    for place in places:
        path = _path_in(place, file)
        if path is None:
            continue
        try:
            return FoundFile(path, read_file(path, file))
        except DataError as error:
            if not pass_over:
                raise DataError(f"{error}; remove it or put the right file there") from error
            _log.warning("passed over %s", error)
    return None


def _path_in(folder: Path, file: FileSpec) -> Path | None:
    """The file in a folder; some unpack it to a folder of its own name. A folder alone is returned, to be refused."""
    paths = [*(folder / name for name in file.names), *(folder / name / name for name in file.names)]
    present = [path for path in paths if os.path.lexists(path)]
    return next((path for path in present if not path.is_dir()), present[0] if present else None)


def read_file(path: Path, file: FileSpec) -> IdxFile:
    """Read the file at ``path`` and check that it is ``file``.

    Raises:
        DataError: format, shape, labels or SHA-256 are not what they must be.
    """
    content = read_idx(path, file.shape)
    if file.n_classes is not None and max(content.content) >= file.n_classes:
        raise DataError.mismatch(path, f"the label {max(content.content)}", f"labels from 0 to {file.n_classes - 1}")
    owner = next((name for name, spec in SPECS.items() if content.sha256 in spec.sha256.values()), None)
    if content.sha256 != file.sha256 and (file.sha256 or owner):
        found = f"the SHA-256 {content.sha256}" + (f" (a file of {owner})" if owner else "")
        raise DataError.mismatch(path, found, file.sha256 or "a file of another data set")
    return content


def _digits() -> dict[Split, ImageSplit]:
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow to import, and only this data set needs it)

    bunch = load_digits()
    images, labels = torch.from_numpy(bunch.images).to(torch.uint8), torch.from_numpy(bunch.target).to(torch.int64)
    n = SPECS["digits"].n_train
    return {"train": ImageSplit(images[:n], labels[:n]), "test": ImageSplit(images[n:], labels[n:])}
