"""A strict reader, and a writer, of the IDX format that MNIST and its kin are published in.

An IDX file of bytes is the magic number 0x000008 and the number of dimensions, then one big-endian 32-bit size per
dimension, then the items; the whole may be compressed by gzip.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import stat
import struct
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nnlab.validation import ArgumentError, check_at_least

MAX_BYTES = 256 * 2**20
"""The largest file that is read unless more is asked for: five times MNIST's training images."""

_CHUNK = 2**20
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


class DataError(Exception):
    """Data that cannot be used: one line that names the file, what was found and what was expected."""

    @classmethod
    def mismatch(cls, path: Path, found: str, expected: str) -> DataError:
        """The error of a file in which something else was found than was expected."""
        return cls(f"{path}: found {found}, expected {expected}")


class IdxFile(NamedTuple):
    """What one IDX file holds.

    ``sha256`` is taken over all of the uncompressed file, header included, from the read that filled ``content``.
    """

    shape: tuple[int, ...]
    content: bytearray
    sha256: str

    @property
    def data(self) -> Tensor:
        """The items as a uint8 tensor of ``shape``, on the memory of ``content``: nothing is copied."""
        return torch.frombuffer(self.content, dtype=torch.uint8).view(self.shape)


def read_idx(path: str | os.PathLike[str], *, dimensions: int, max_bytes: int = MAX_BYTES) -> IdxFile:
    """Read an IDX file of unsigned bytes once, and hold every part of it to the format.

    The size is worked out from the header, and checked, before memory is taken for the items; compressed items are
    taken piece by piece, so that neither a header nor a gzip bomb makes this function hold more than ``max_bytes``.

    Args:
        path: the file; gzip is recognised by the first bytes, whatever the name.
        dimensions: how many dimensions the file must have: 3 for images, 1 for labels.
        max_bytes: the largest uncompressed file to accept.

    Returns:
        Shape, items and SHA-256.

    Raises:
        DataError: the file cannot be read, is no IDX file of unsigned bytes in ``dimensions`` dimensions, holds
            nothing, is too large, or is not exactly as long as its header says.
        ArgumentError: ``dimensions`` is not a whole number of at least 1.

    Source: the file format at the end of LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    check_at_least("dimensions", dimensions, 1)
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise DataError.mismatch(path, "a folder" if stat.S_ISDIR(mode) else "a special file", "an IDX file")
        with path.open("rb") as stream:
            if stream.peek(2)[:2] == _GZIP_MAGIC:
                with gzip.GzipFile(fileobj=stream) as unzipped:
                    return _read(unzipped, path, dimensions, max_bytes, size=None)
            return _read(stream, path, dimensions, max_bytes, size=os.fstat(stream.fileno()).st_size)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError.mismatch(path, f"that it cannot be read ({reason})", "an IDX file") from error


def _read(stream: io.BufferedIOBase, path: Path, dimensions: int, max_bytes: int, *, size: int | None) -> IdxFile:
    header = stream.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise DataError.mismatch(path, f"{len(header)} bytes in all", f"a header of {4 + 4 * dimensions}")
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if header[:4] != magic:
        expected = f"0x{magic.hex()} (unsigned bytes in {dimensions} dimensions)"
        raise DataError.mismatch(path, f"the magic number 0x{header[:4].hex()}", expected)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    n_items = math.prod(shape)
    n_bytes = len(header) + n_items
    if n_items == 0:
        raise DataError.mismatch(path, f"the shape {shape}, which holds nothing", "at least one item")
    if n_bytes > max_bytes:
        raise DataError.mismatch(path, f"the shape {shape}, which takes {n_bytes} bytes", f"at most {max_bytes}")
    if size is not None and size != n_bytes:
        raise DataError.mismatch(path, f"{size} bytes", f"{n_bytes} for the shape {shape}")
    content, digest = bytearray(), hashlib.sha256(header)
    while chunk := stream.read(min(_CHUNK, n_items - len(content))):
        content += chunk
        digest.update(chunk)
    if len(content) < n_items:
        raise DataError.mismatch(path, f"{len(header) + len(content)} bytes", f"{n_bytes} for the shape {shape}")
    if stream.read(1):  # reaches the end of a gzip stream too, where its own checksum is compared
        raise DataError.mismatch(path, "more bytes", f"{n_bytes} for the shape {shape}")
    return IdxFile(shape, content, digest.hexdigest())


def write_idx(path: str | os.PathLike[str], tensor: Tensor) -> None:
    """Write a uint8 tensor as an IDX file, whole or not at all: a temporary file beside it takes its place.

    Args:
        path: the file, in a folder that exists; what was there is replaced.
        tensor: uint8 items of 1 to 255 dimensions, at least one.

    Raises:
        ArgumentError: the tensor is not uint8, holds nothing or has no dimension.
        DataError: the file cannot be written.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(f"{folder}/labels", torch.tensor([5, 0, 4], dtype=torch.uint8))
    ...     read_idx(f"{folder}/labels", dimensions=1).data
    tensor([5, 0, 4], dtype=torch.uint8)
    """
    if tensor.dtype != torch.uint8:
        raise ArgumentError("tensor", f"must be uint8, got {str(tensor.dtype).removeprefix('torch.')}")
    if not 1 <= tensor.ndim <= 255 or tensor.numel() == 0:
        raise ArgumentError("tensor", f"must hold at least one item in 1 to 255 dimensions, got {tuple(tensor.shape)}")
    path = Path(path)
    header = struct.pack(f">4B{tensor.ndim}I", 0, 0, _UNSIGNED_BYTE, tensor.ndim, *tensor.shape)
    try:
        with tempfile.TemporaryDirectory(prefix=".nnlab-", dir=path.parent) as folder:
            part = Path(folder, path.name)
            with part.open("wb") as stream:
                stream.write(header)
                stream.write(tensor.cpu().contiguous().numpy().data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
