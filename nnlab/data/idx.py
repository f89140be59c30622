"""A strict reader, and a writer, of IDX, the format of MNIST's files.

An IDX file of bytes is the magic number 0x000008 and the number of dimensions, then one big-endian 32-bit size per
dimension, then the items; the whole file may be compressed by gzip.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import struct
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from nnlab.validation import ArgumentError

MAX_BYTES = 256 * 2**20
"""The default of ``max_bytes``, the largest uncompressed file that is read: five times MNIST's training images."""

_CHUNK = 2**20
_GZIP_CHUNK = 2**16
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


class DataError(Exception):
    """Data that cannot be used: one line that names the file, what was found and what was expected."""

    @classmethod
    def mismatch(cls, path: Path, found: str, expected: str) -> DataError:
        """The error for a file in which something other than the expected was found."""
        return cls(f"{path}: found {found}, expected {expected}")


class IdxFile(NamedTuple):
    """The contents of one IDX file.

    ``sha256`` is that of the whole uncompressed file, header included, computed while ``content`` was read.
    """

    shape: tuple[int, ...]
    content: bytearray
    sha256: str

    @property
    def data(self) -> Tensor:
        """The items as a uint8 tensor of ``shape`` that shares the memory of ``content``."""
        return torch.frombuffer(self.content, dtype=torch.uint8).view(self.shape)


def read_idx(path: str | os.PathLike[str], shape: tuple[int | None, ...], *, max_bytes: int = MAX_BYTES) -> IdxFile:
    """Read an IDX file of unsigned bytes once, and check every part of it.

    The shape and the size are checked before any item is read, and gzip is decompressed piece by piece. So the
    function holds at most ``max_bytes``, or what ``shape`` needs, whatever the header says and whatever gzip would
    expand to; and a gzip file that is larger than this many bytes can need is refused unread.

    Args:
        path: the file; gzip is recognised by its first bytes, whatever the name.
        shape: the size of each dimension, None where any size is right: ``(None,)`` for labels of any number.
        max_bytes: the largest uncompressed file to accept.

    Raises:
        DataError: the file cannot be read, is not an IDX file of unsigned bytes of this shape, has no items, is too
            large, or is not exactly as long as its header says.

    Source: the file format at the end of LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    if not shape:
        raise ArgumentError("shape", "must have at least one dimension, got ()")
    path = Path(path)
    known = tuple(n for n in shape if n is not None)
    if len(known) == len(shape):
        max_bytes = min(max_bytes, _n_bytes(known))
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise DataError.mismatch(path, "a folder" if stat.S_ISDIR(mode) else "a special file", "an IDX file")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if stream.peek(len(_GZIP_MAGIC))[:2] != _GZIP_MAGIC:
                return _read(stream, path, shape, max_bytes, size)
            most = max_bytes + max_bytes // 100 + 4096  # deflate adds 0.03 % at worst; 4096 is for the header's name
            if size > most:
                raise DataError.mismatch(path, f"a gzip file of {size} bytes", f"at most {most}")
            unzipped = _Gzip(stream)
            file = _read(unzipped, path, shape, max_bytes, None)
            if unzipped.has_trailing_data():
                raise DataError.mismatch(path, "more data after the end of the gzip stream", "the end of the file")
            return file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError.mismatch(path, f"that it cannot be read ({reason})", "an IDX file") from error


class _Gzip:
    """A gzip stream of one member, decompressed by zlib alone.

    Python's ``gzip`` reads the name in a header, and zeros after the end, byte by byte: 52 s for a name of 200 MiB.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._inflate = stream, zlib.decompressobj(wbits=31)  # 31: a gzip header and checksum

    def read(self, n: int) -> bytes:
        out = b""
        while len(out) < n and not self._inflate.eof:
            compressed = self._inflate.unconsumed_tail or self._stream.read(_GZIP_CHUNK)
            if not compressed:
                raise EOFError("the gzip stream is cut off")
            out += self._inflate.decompress(compressed, n - len(out))
        return out

    def has_trailing_data(self) -> bool:
        return bool(self._inflate.unused_data or self._stream.read(1))


def _n_bytes(shape: tuple[int, ...]) -> int:
    return 4 + 4 * len(shape) + math.prod(shape)


def _read(
    stream: BinaryIO | _Gzip, path: Path, expected: tuple[int | None, ...], max_bytes: int, size: int | None
) -> IdxFile:
    """Read the file from its (decompressed) stream; ``size`` is the stream's length where it is known."""
    dimensions = len(expected)
    header = stream.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise DataError.mismatch(path, f"{len(header)} bytes in all", f"a header of {4 + 4 * dimensions}")
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if header[:4] != magic:
        wanted = f"0x{magic.hex()} (unsigned bytes in {dimensions} dimensions)"
        raise DataError.mismatch(path, f"the magic number 0x{header[:4].hex()}", wanted)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    n_bytes = _n_bytes(shape)
    if 0 in shape:
        raise DataError.mismatch(path, f"the shape {shape}, which has no items", "at least one item")
    if any(want not in (None, n) for n, want in zip(shape, expected, strict=True)):
        wanted = str(expected).replace("None", "any")
        raise DataError.mismatch(path, f"the shape {shape}", wanted)
    if n_bytes > max_bytes:
        raise DataError.mismatch(path, f"the shape {shape}, which takes {n_bytes} bytes", f"at most {max_bytes}")
    if size is not None and size != n_bytes:
        raise DataError.mismatch(path, f"{size} bytes", f"{n_bytes} for the shape {shape}")
    content, digest = bytearray(), hashlib.sha256(header)
    while chunk := stream.read(min(_CHUNK, n_bytes - len(header) - len(content))):
        content += chunk
        digest.update(chunk)
    if len(header) + len(content) < n_bytes:
        raise DataError.mismatch(path, f"{len(header) + len(content)} bytes", f"{n_bytes} for the shape {shape}")
    if stream.read(1):  # this also reaches the end of a gzip stream, where zlib compares its checksum
        raise DataError.mismatch(path, "more bytes", f"{n_bytes} for the shape {shape}")
    return IdxFile(shape, content, digest.hexdigest())


def write_idx(path: str | os.PathLike[str], tensor: Tensor) -> None:
    """Write a uint8 tensor of 1 to 255 dimensions as an IDX file, whole or not at all; an old file is replaced.

    Raises:
        ArgumentError: the tensor is not uint8, has no items or no dimension.
        DataError: the file cannot be written.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(f"{folder}/labels", torch.tensor([5, 0, 4], dtype=torch.uint8))
    ...     read_idx(f"{folder}/labels", (None,)).data
    tensor([5, 0, 4], dtype=torch.uint8)
    """
    if tensor.dtype != torch.uint8:
        raise ArgumentError("tensor", f"must be uint8, got {str(tensor.dtype).removeprefix('torch.')}")
    if not 1 <= tensor.ndim <= 255 or tensor.numel() == 0:
        raise ArgumentError("tensor", f"must have at least one item and 1 to 255 dimensions, got {tuple(tensor.shape)}")
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
