"""A user's own data: IDX files, ``.npz``, CSV, Parquet, or a folder of pictures for each class.

- The label of a sample is a whole number or a word. The classes are sorted, numbers by value and words by alphabet.
- Values that are all whole numbers from 0 to 255 are kept as bytes, others as float32.
- A file or folder named test or t10k is the test part, and its samples stay in their order. Without one, a sixth of the
  samples is. The samples that are trained on are always put in an order that depends on their number alone.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nnlab.data.idx import DataError, read_idx
from nnlab.data.mnist import SPECS, DataSpec, ImageSplit, Split

Array = np.ndarray[Any, Any]

TEST_SHARE, ORDER_SEED = 6, 0  # a sixth; of numpy's RandomState, whose orders never change
FEWEST, MOST_CLASSES, LONGEST_NAME = 12, 1000, 100  # training samples: one twelfth is for validation
DIMMEST = 127  # bytes of which none is larger are no pixels from 0 to 255
BYTES_PER_VALUE = 6  # a byte, its copy in the order of training, and float32; mini-batches one by one take 4 more
LONGEST_LINE, ROWS, MOST_PIXELS = 1 << 24, 2048, 1 << 22
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".tif", ".tiff", ".webp")
KINDS = "an IDX file, .npz, .csv, .tsv or .parquet, or a folder of pictures for each class"


@dataclass(frozen=True, eq=False)
class Own:
    """Own data in its two parts: uint8 or float32 samples, (N, …), and labels from 0 to K − 1.

    Args:
        train: the samples to train on and to validate on, in their order of training.
        test: the test samples.
        test_index: where the test samples were in the data, counted from 0.
        classes: the names of the classes.
        max_pixel: 255 for pixels, None for other values.
        note: what was done to the data, in words.
    """

    train: ImageSplit
    test: ImageSplit
    test_index: Tensor
    classes: tuple[str, ...]
    max_pixel: int | None
    note: str

    @property
    def n_train(self) -> int:
        """The number of samples to train on and to validate on."""
        return len(self.train.labels)

    @property
    def n_test(self) -> int:
        """The number of test samples."""
        return len(self.test.labels)

    @property
    def in_features(self) -> int:
        """The number of values of a sample."""
        return math.prod(self.train.images.shape[1:])

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def is_square(self) -> bool:
        """Whether the samples are square pictures; a row of S² values is taken for one."""
        *height, width = self.train.images.shape[1:]
        square = height == [width] if height else math.isqrt(width) ** 2 == width
        return square and self.train.images.dtype == torch.uint8


class _Part(NamedTuple):
    """The samples of a file, a code for each label, and what the codes mean."""

    path: Path
    x: Array
    codes: Array
    names: Sequence[str]
    columns: tuple[str, ...] = ()
    note: str = ""


_Parts = dict[Split, _Part]
_kept: dict[tuple[str, str | None], Own] = {}


def spec_of(
    name: str | None, path: str | os.PathLike[str] | None = None, label: str | None = None, *, keep: bool = False
) -> DataSpec | Own:
    """What is known of a data set: a row of ``SPECS``, or a user's own data, which is read.

    Args:
        name: a name in ``SPECS``; None for MNIST, or with a path.
        path: of a user's own data.
        label: as in ``load_own``.
        keep: as in ``load_own``.
    """
    return SPECS[name or "mnist"] if path is None else load_own(path, label, keep=keep)


def load_own(path: str | os.PathLike[str], label: str | None = None, *, keep: bool = False) -> Own:
    """Read and check a user's own data.

    Args:
        path: a file, or a folder.
        label: the column of the labels in a CSV or Parquet file: its name, or its number from 0 where there are no
            names. By default the column named label, else the last one.
        keep: keep what was read for the next call with these arguments, which lets it go unless it keeps it as well.

    Raises:
        DataError: the data cannot be used; one line that names the file, what was found and what was expected.
    """
    key = str(Path(path).expanduser().absolute()), label
    own = _kept.pop(key, None)
    if own is None:
        try:
            own = _joined(_parts(Path(path).expanduser(), label))
        except MemoryError as error:
            raise DataError.mismatch(Path(path), "more than the memory holds", "a smaller part of the data") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if keep:
        _kept[key] = own
    return own


def forget_own() -> None:
    """Let go what ``load_own`` has kept."""
    _kept.clear()


# ---- what a path is --------------------------------------------------------------------------------------------------


def _parts(path: Path, label: str | None) -> _Parts:
    """The training part, and the test part where there is one."""
    if path.is_dir():
        parts = _of_folder(path, label)
    elif not path.exists():
        raise DataError.mismatch(path, "no such file or folder", KINDS)
    elif not path.is_file():
        raise DataError.mismatch(path, "a special file", KINDS)
    elif reader := TABLES.get(path.suffix.lower()):
        parts = reader(path, label)
    elif _idx_dimensions(path) is not None:
        parts = _read_idx([p for p in _visible(path.parent) if p.is_file() and _key(p) == _key(path)], path)
    else:
        raise DataError.mismatch(path, "a file of another kind", KINDS)
    if label is not None and not all(part.columns for part in parts.values()):
        raise DataError.mismatch(path, "no columns", "a CSV or Parquet file with --data.label: leave that out")
    return parts


def _of_folder(folder: Path, label: str | None) -> _Parts:
    entries = _visible(folder)
    below = {path.name.lower(): path for path in entries if path.is_dir()}
    files = [path for path in entries if path.is_file()]
    if not entries:
        raise DataError.mismatch(folder, "an empty folder", KINDS)
    if below.keys() == {"train", "test"}:
        return {"train": _only(below["train"], label), "test": _only(below["test"], label)}
    if below:
        if files:
            raise DataError.mismatch(files[0], "a file beside folders", "only folders, one for each class")
        return {"train": _pictures([path for path in entries if path.is_dir()])}
    if tables := [path for path in files if path.suffix.lower() in TABLES]:
        train, test = [p for p in tables if not _is_test(p)], [p for p in tables if _is_test(p)]
        if len(train) != 1 or len(test) > 1:
            found = f"the files {_listed([p.name for p in tables])}"
            raise DataError.mismatch(folder, found, "one file, or two of which one is named test")
        found_parts: _Parts = {"train": _only(train[0], label)}
        return found_parts | ({"test": _only(test[0], label)} if test else {})
    if any(_idx_dimensions(path) is not None for path in files):
        return _read_idx(files, folder)
    if any(path.suffix.lower() in PICTURES for path in files):
        raise DataError.mismatch(files[0], "a picture in no folder of a class", "a folder of pictures for each class")
    raise DataError.mismatch(files[0], "a file of another kind", KINDS)


def _only(path: Path, label: str | None) -> _Part:
    parts = _parts(path, label)
    if len(parts) > 1:
        raise DataError.mismatch(path, "a test part of its own", "one part")
    return next(iter(parts.values()))


def _visible(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name[0] != "."), key=_natural)


def _natural(path: Path) -> list[Any]:
    """A key by which 9.png is before 10.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _is_test(path: Path) -> bool:
    return re.search(r"(?<![a-z])(test|t10k)(?![a-z])", path.name.lower()) is not None


def _key(path: Path) -> str:
    """What the names of the IDX files of a data set have in common."""
    return re.sub(
        r"(?<![a-z])(train|test|t10k|images?|labels?|idx\d?|ubyte|gz)(?![a-z])|[^a-z0-9]", "", path.name.lower()
    )


def _listed(names: Iterable[str]) -> str:
    some = list(itertools.islice(names, 4))
    return ", ".join([*some[:3], *["…"] * (len(some) > 3)])


# ---- from the parts to the data --------------------------------------------------------------------------------------


def _joined(parts: _Parts) -> Own:
    """Both parts in one numbering of the classes; a test part is split off where there is none."""
    train = parts.pop("train", None)
    if train is None:
        raise DataError.mismatch(parts["test"].path, "a test part alone", "a training part")
    test = parts.pop("test", None)
    every = [part for part in (train, test) if part is not None]
    classes, tables = _classes(every)
    labels = [table[part.codes] for table, part in zip(tables, every, strict=True)]
    if test is None:
        order = _order(len(train.x))
        n_test = len(order) // TEST_SHARE
        index, order = np.sort(order[len(order) - n_test :]), order[: len(order) - n_test]
        test_split = train.x[index], labels[0][index]
    else:
        if train.x.shape[1:] != test.x.shape[1:] or train.columns != test.columns:
            found = f"samples of shape {test.x.shape[1:]}" if train.x.shape[1:] != test.x.shape[1:] else "other columns"
            raise DataError.mismatch(test.path, found, f"those of {train.path.name}, of shape {train.x.shape[1:]}")
        order, index = _order(len(train.x)), np.arange(len(test.x))
        test_split = test.x, labels[1]
    if len(order) < FEWEST:
        raise DataError.mismatch(train.path, f"{len(order)} samples to train on", f"at least {FEWEST}")
    counts = np.bincount(labels[0][order], minlength=len(classes))
    if (counts == 0).any():
        name = classes[int(counts.argmin())]
        raise DataError.mismatch(train.path, f"no sample of class {name} to train on", "some of each class")
    x, test_x = train.x[order], test_split[0]
    if x.dtype != test_x.dtype:
        x, test_x = x.astype(np.float32), test_x.astype(np.float32)
    return Own(
        ImageSplit(torch.from_numpy(x), torch.from_numpy(labels[0][order])),
        ImageSplit(torch.from_numpy(test_x), torch.from_numpy(test_split[1])),
        torch.from_numpy(index),
        tuple(classes),
        255 if x.dtype == np.uint8 and x.max() > DIMMEST else None,
        train.note,
    )


def _order(n: int) -> Array:
    return np.random.RandomState(ORDER_SEED).permutation(n)


def is_class_name(name: object) -> bool:
    """Whether a class may have this name: a printable text of 1 to 100 characters that does not say NaN or None."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= LONGEST_NAME
        and name.isprintable()
        and name.lower() not in ("nan", "none")
    )


def _classes(parts: Sequence[_Part]) -> tuple[list[str], list[Array]]:
    """The names of the classes, and for each part the class of each code."""
    for part in parts:
        for name in part.names:
            if not is_class_name(name):
                shown = repr(name[:LONGEST_NAME])
                raise DataError.mismatch(part.path, f"the label {shown}", "a whole number, or a word")
    names = {name for part in parts for name in part.names}
    numbers: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        numbers = {name: float(name) for name in names}
    if len(numbers) == len(names):
        for name, number in numbers.items():
            if not number.is_integer() or abs(number) > 2**53:
                raise DataError.mismatch(parts[0].path, f"the label {name}", "whole numbers, or words")
        found = [str(int(number)) for number in sorted(set(numbers.values()))]
        class_of = {name: str(int(number)) for name, number in numbers.items()}
    else:
        found, class_of = sorted(names), {name: name for name in names}
    if not 2 <= len(found) <= MOST_CLASSES:
        came = f"{len(found):,} classes" if len(found) > 1 else f"one class, {found[0]}"
        raise DataError.mismatch(parts[0].path, came, f"2 to {MOST_CLASSES:,}")
    position = {name: k for k, name in enumerate(found)}
    return found, [np.array([position[class_of[name]] for name in part.names], np.int64) for part in parts]


class _Rows:
    """Samples that are added piece by piece: bytes while all are whole numbers from 0 to 255, else float32."""

    def __init__(self, path: Path, n: int, shape: tuple[int, ...], columns: Sequence[str] = ()) -> None:
        if n == 0 or 0 in shape:
            raise DataError.mismatch(path, "no samples" if n == 0 else "samples without values", "some")
        values = math.prod(shape)
        _check_memory(path, n * values * BYTES_PER_VALUE, f"{n:,} samples of {values:,} values")
        self.x: Array = np.empty((n, *shape), np.uint8)
        self._path, self._columns, self.n = path, columns, 0

    def add(self, chunk: Array) -> None:
        """Add a piece, numbers of any dtype."""
        if chunk.dtype.kind == "f":
            with np.errstate(over="ignore"):
                chunk = chunk.astype(np.float32, copy=False)
            if not (finite := np.isfinite(chunk)).all():
                row, *place = np.argwhere(~finite)[0].tolist()
                where = self._columns[place[0]] if self._columns else f"value {place}"
                value = "NaN" if np.isnan(chunk[row, *place]) else "infinity"
                raise DataError.mismatch(self._path, f"{value} in sample {self.n + row + 1}, {where}", "finite numbers")
        if self.x.dtype == np.uint8 and not (
            chunk.dtype == np.uint8
            or (
                chunk.min() >= 0 and chunk.max() <= 255 and (chunk.dtype.kind != "f" or (chunk == np.rint(chunk)).all())
            )
        ):
            before, self.x = self.x[: self.n], np.empty(self.x.shape, np.float32)
            self.x[: self.n] = before
        self.x[self.n : self.n + len(chunk)] = chunk
        self.n += len(chunk)


def _check_memory(path: Path, need: float, what: str) -> None:
    if need > (there := available_memory()):
        found = f"{what}, which need {need / 2**30:.1f} GiB of memory"
        raise DataError.mismatch(path, found, f"at most the {there / 2**30:.1f} GiB that are available")


def available_memory() -> float:
    """Bytes that this process may still take: of the machine, of its control group and of its own limit."""
    limits = [math.inf]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, AttributeError, IndexError):
        limits.append(int(re.findall(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        limits.append(int(most) - int(used))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - of POSIX

        most_here = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most_here != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limits.append(most_here - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(0.0, min(limits))


# ---- IDX -------------------------------------------------------------------------------------------------------------


def _idx_dimensions(path: Path) -> int | None:
    """The number of dimensions by the first four bytes of an IDX file, plain or gzip; None of another file."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, 4)
        except zlib.error:
            return None
    return head[3] if len(head) >= 4 and head[:2] == b"\0\0" and 8 <= head[2] <= 14 and head[3] else None


def _read_idx(files: Sequence[Path], path: Path) -> _Parts:
    names = {file.name for file in files}
    files = [f for f in files if f.name.removesuffix(".gz") == f.name or f.name.removesuffix(".gz") not in names]
    dimensions = {file: n for file in files if (n := _idx_dimensions(file)) is not None}
    parts: _Parts = {}
    for split in ("train", "test"):
        own = [file for file in dimensions if _is_test(file) == (split == "test")]
        images, labels = [f for f in own if dimensions[f] > 1], [f for f in own if dimensions[f] == 1]
        if not own:
            continue
        if (len(images), len(labels)) != (1, 1):
            found = f"{_listed(f.name for f in own)} as the {split} part"
            raise DataError.mismatch(path, found, "one file of pictures and one of labels, or the path of one of them")
        parts["train" if split == "train" else "test"] = _idx_pair(images[0], labels[0], dimensions[images[0]])
    return parts


def _idx_pair(images: Path, labels: Path, dimensions: int) -> _Part:
    most = available_memory() / BYTES_PER_VALUE
    pixels = read_idx(images, (None,) * dimensions, max_bytes=int(min(most, 2**62)))
    codes = read_idx(labels, (None,))
    if codes.shape[0] != pixels.shape[0]:
        raise DataError.mismatch(labels, f"{codes.shape[0]:,} labels", f"{pixels.shape[0]:,}, as in {images.name}")
    x, turned = pixels.data.numpy(), images.name.lower().startswith("emnist-") and dimensions == 3
    values, inverse = np.unique(codes.data.numpy(), return_inverse=True)
    note = "the pictures of EMNIST are put upright" if turned else ""
    return _Part(images, x.transpose(0, 2, 1) if turned else x, inverse, [str(v) for v in values.tolist()], note=note)


# ---- npz -------------------------------------------------------------------------------------------------------------


def _read_npz(path: Path, label: str | None) -> _Parts:
    if label is not None:
        raise DataError.mismatch(path, "arrays", "no --data.label: y holds the labels")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            whole = arrays.files == [] or "x" in arrays.files
            splits: tuple[Split, ...] = ("train",) if whole or "x_test" not in arrays.files else ("train", "test")
            total = sum(info.file_size for info in arrays.zip.infolist())
            _check_memory(path, total, f"arrays of {total:,} bytes")
            return {split: _npz_part(path, arrays, "" if whole else f"_{split}") for split in splits}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, TypeError, NotImplementedError) as error:
        raise DataError.mismatch(path, f"that it cannot be read ({' '.join(str(error).split())})", "an .npz") from error


def _npz_part(path: Path, arrays: Any, suffix: str) -> _Part:
    for name in ("x", "y"):
        if name + suffix not in arrays.files:
            found = f"the arrays {_listed(arrays.files) or 'of none'}"
            raise DataError.mismatch(path, found, "x and y, or x_train, y_train, x_test and y_test")
    x, y = arrays["x" + suffix], arrays["y" + suffix]
    if x.dtype.kind not in "uifb" or x.ndim < 2:
        raise DataError.mismatch(path, f"x of {x.dtype} and shape {x.shape}", "numbers of shape (N, …)")
    if y.shape != x.shape[:1] or y.dtype.kind not in "uifbU":
        raise DataError.mismatch(path, f"y of {y.dtype} and shape {y.shape}", f"{len(x):,} numbers or words")
    rows = _Rows(path, len(x), x.shape[1:])
    for start in range(0, len(x), ROWS):
        rows.add(x[start : start + ROWS])
    values, codes = np.unique(y, return_inverse=True)
    return _Part(path, rows.x, codes, [str(v) for v in values[: MOST_CLASSES + 1].tolist()])


# ---- CSV and Parquet -------------------------------------------------------------------------------------------------


class _Codes(dict[str, int]):
    """Numbers labels in the order in which they come."""

    def __missing__(self, label: str) -> int:
        self[label] = len(self)
        if len(self) > MOST_CLASSES:
            raise OverflowError
        return self[label]


def _column(path: Path, columns: Sequence[str], named: bool, label: str | None) -> int:
    """The position of the labels' column."""
    if not named and label is not None and label.isdecimal() and int(label) < len(columns):
        return int(label)
    places = [k for k, name in enumerate(columns) if name == ("label" if label is None else label)] if named else []
    if len(places) > 1:
        raise DataError.mismatch(path, f"{len(places)} columns {columns[places[0]]}", "one")
    if places or label is None:
        return places[0] if places else len(columns) - 1
    known = _listed(columns) if named else f"no names, and columns 0 to {len(columns) - 1}"
    raise DataError.mismatch(path, f"no column {label} among {known}", "the labels' column as --data.label")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_csv(path: Path, label: str | None) -> _Parts:
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            return {"train": _csv(path, file, label, "\t" if path.suffix.lower() == ".tsv" else ",")}
    except UnicodeDecodeError as error:
        raise DataError.mismatch(path, "bytes that are no text", "a CSV file in UTF-8") from error
    except OverflowError as error:
        found = f"more than {MOST_CLASSES:,} different labels"
        raise DataError.mismatch(path, found, "the column of the classes, by --data.label") from error


def _csv(path: Path, file: IO[str], label: str | None, delimiter: str) -> _Part:
    first = _line(path, file, 1)
    if not first.strip():
        raise DataError.mismatch(path, "an empty first line", "names of columns, or a sample")
    cells = [str(cell).strip() for cell in np.loadtxt([first], str, max_rows=1, **_as_csv(delimiter), ndmin=1)]
    if len(cells) < 2:
        found = f"one column, {cells[0][:40]!r}"
        raise DataError.mismatch(path, found, f"columns apart by {'tabs' if delimiter != ',' else 'commas'}")
    named = not any(map(_is_number, cells)) or ((label or "label") in cells and not (label or "").isdecimal())
    at, codes = _column(path, cells, named, label), _Codes()
    columns = [name if named else f"column {k}" for k, name in enumerate(cells)]
    with path.open("rb") as raw:
        n_most = sum(block.count(b"\n") for block in iter(lambda: raw.read(1 << 20), b"")) + 1 - named
    rows = _Rows(path, n_most, (len(cells) - 1,), [*columns[:at], *columns[at + 1 :]])
    labels, done = [], 0
    lines: Iterator[str] = itertools.chain([] if named else [first], iter(lambda: _line(path, file, done + 1), ""))
    while chunk := list(itertools.islice(lines, ROWS)):
        if full := [line for line in chunk if line.strip()]:
            try:
                table = np.loadtxt(
                    full,
                    np.float64,
                    max_rows=len(full),  # else numpy makes room for 50,000 rows
                    **_as_csv(delimiter),
                    ndmin=2,
                    converters={at: lambda text: codes[text.strip()]},
                )
            except ValueError as error:
                if len(codes) > MOST_CLASSES:
                    raise OverflowError from error
                raise _in_row(path, str(error), done, columns) from error
            if table.shape[1] != len(cells):
                raise DataError.mismatch(path, f"{table.shape[1]} cells in row {done + 1}", f"{len(cells)}")
            labels.append(table[:, at].astype(np.int64))
            rows.add(np.delete(table, at, 1))
            done += len(full)
    if not done:
        raise DataError.mismatch(path, "no samples", "some")
    return _Part(path, rows.x[:done], np.concatenate(labels), list(codes), tuple(columns))


def _as_csv(delimiter: str) -> dict[str, Any]:
    return {"delimiter": delimiter, "comments": None, "quotechar": '"', "encoding": None}


def _line(path: Path, file: IO[str], number: int) -> str:
    line = file.readline(LONGEST_LINE)
    if len(line) == LONGEST_LINE:
        raise DataError.mismatch(path, f"a line of over {LONGEST_LINE:,} characters after row {number - 1}", "rows")
    return line


def _in_row(path: Path, problem: str, done: int, columns: Sequence[str]) -> DataError:
    """A problem of numpy's reader, with the row of the file, counted from 1 without the header."""
    if text := re.search(r"could not convert string '(.*?)' to \w+ at row (\d+), column (\d+)", problem, re.DOTALL):
        where = f"row {done + int(text[2]) + 1}, {columns[int(text[3]) - 1]}"
        return DataError.mismatch(path, f"{text[1][:40]!r} in {where}", "a number")
    if text := re.search(r"number of columns changed from \d+ to (\d+) at row (\d+)", problem):
        return DataError.mismatch(path, f"{text[1]} cells in row {done + int(text[2])}", f"{len(columns)}")
    return DataError.mismatch(path, f"rows from {done + 1} that are no table", "numbers apart by commas")


def _read_parquet(path: Path, label: str | None) -> _Parts:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'nnlab[data]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            schema, n = file.schema_arrow, file.metadata.num_rows
            at, codes = _column(path, schema.names, True, label), _Codes()
            features = [k for k in range(len(schema)) if k != at]
            for k in features:
                if not (pa.types.is_integer(schema.types[k]) or pa.types.is_floating(schema.types[k])):
                    raise DataError.mismatch(path, f"the column {schema.names[k]} of {schema.types[k]}", "numbers")
            rows = _Rows(path, n, (len(features),), [schema.names[k] for k in features])
            labels = []
            for batch in file.iter_batches(ROWS):
                for k, column in enumerate(batch.columns):
                    if column.null_count:
                        raise DataError.mismatch(path, f"nothing in a row of {schema.names[k]}", "a value in each row")
                labels += [codes[str(value)] for value in batch.column(at).to_pylist()]
                rows.add(np.stack([batch.column(k).to_numpy(zero_copy_only=False) for k in features], 1))
    except pa.ArrowException as error:
        raise DataError.mismatch(path, f"that it cannot be read ({' '.join(str(error).split())})", "Parquet") from error
    except OverflowError as error:
        found = f"more than {MOST_CLASSES:,} different labels"
        raise DataError.mismatch(path, found, "the column of the classes, by --data.label") from error
    return {"train": _Part(path, rows.x, np.array(labels), list(codes), tuple(schema.names))}


TABLES: dict[str, Callable[[Path, str | None], _Parts]] = {
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


# ---- pictures --------------------------------------------------------------------------------------------------------


def _pictures(folders: Sequence[Path]) -> _Part:
    """The pictures of all classes by the names of their files, as grey levels."""
    from PIL import Image  # noqa: PLC0415 - not needed for other data

    found: list[tuple[list[Any], int, Path]] = []
    for code, folder in enumerate(folders):
        paths = _visible(folder)
        for path in paths:
            if path.is_dir() or path.suffix.lower() not in PICTURES:
                raise DataError.mismatch(path, "no picture", f"files such as {PICTURES[0]} and {PICTURES[1]}")
        if not paths:
            raise DataError.mismatch(folder, "an empty folder", "pictures of this class")
        found += [(_natural(path), code, path) for path in paths]
    found.sort()
    rows: _Rows | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for _, _, path in found:
            pixels = _picture(path, Image)
            if rows is None:
                rows = _Rows(folders[0].parent, len(found), pixels.shape)
                first = path
            elif pixels.shape != rows.x.shape[1:]:
                wanted = f"{rows.x.shape[2]}×{rows.x.shape[1]} as {first.parent.name}/{first.name}"
                raise DataError.mismatch(path, f"{pixels.shape[1]}×{pixels.shape[0]} pixels", wanted)
            rows.add(pixels[None])
    assert rows is not None  # there is a folder, and each has a picture
    return _Part(folders[0].parent, rows.x, np.array([code for _, code, _ in found]), [f.name for f in folders])


def _picture(path: Path, pillow: Any) -> Array:
    try:
        with pillow.open(path) as picture:
            if math.prod(picture.size) > MOST_PIXELS:
                raise DataError.mismatch(
                    path, f"{picture.size[0]}×{picture.size[1]} pixels", f"at most {MOST_PIXELS:,}"
                )
            if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                raise DataError.mismatch(path, f"pixels of the kind {picture.mode}", "8 bits for each colour")
            if picture.has_transparency_data and picture.convert("RGBA").getextrema()[3][0] < 255:
                raise DataError.mismatch(path, "pixels that are transparent", "a picture without transparency")
            return np.asarray(picture.convert("L"))
    except DataError:
        raise
    except Exception as error:  # each of Pillow's formats has errors of its own
        raise DataError.mismatch(
            path, f"that it cannot be read ({' '.join(str(error).split())})", "a picture"
        ) from error
