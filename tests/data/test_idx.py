"""The IDX reader accepts exactly what the format allows, and takes no memory on a header's word."""

import gzip
import hashlib
import os
import struct
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnlab.data import DataError, read_idx, write_idx
from nnlab.data.idx import MAX_BYTES
from nnlab.validation import ArgumentError

LABELS = bytes((0, 0, 8, 1)) + struct.pack(">I", 3) + bytes((5, 0, 4))
MIB = 2**20


def refused(path: Path, shape: tuple[int | None, ...] = (None,), *, max_bytes: int = MAX_BYTES) -> str:
    """The one-line message with which the file is refused."""
    with pytest.raises(DataError) as caught:
        read_idx(path, shape, max_bytes=max_bytes)
    message = str(caught.value)
    assert message.startswith(f"{path}: found ")
    assert ", expected " in message
    assert "\n" not in message
    return message


def test_a_file_written_by_hand_gives_its_items_and_the_sha256_of_its_bytes(tmp_path):
    path = tmp_path / "images"
    raw = bytes.fromhex("00000803 00000002 00000001 00000003 010203 fdfeff")
    path.write_bytes(raw)
    file = read_idx(path, (None,) * 3)
    torch.testing.assert_close(file.data, torch.tensor([[[1, 2, 3]], [[253, 254, 255]]], dtype=torch.uint8))
    assert file.shape == (2, 1, 3)
    assert file.sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize("name", ["labels", "labels.gz"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_gzip_is_recognised_by_content_whatever_the_name(tmp_path, name, compressed):
    path = tmp_path / name
    path.write_bytes(gzip.compress(LABELS) if compressed else LABELS)
    file = read_idx(path, (None,))
    assert file.data.tolist() == [5, 0, 4]
    assert file.sha256 == hashlib.sha256(LABELS).hexdigest()


BAD = {
    "empty": (b"", "0 bytes in all, expected a header of 8"),
    "cut in the magic number": (LABELS[:3], "3 bytes in all, expected a header of 8"),
    "cut in the header": (LABELS[:7], "7 bytes in all, expected a header of 8"),
    "no items": (LABELS[:8], r"8 bytes, expected 11 for the shape \(3,\)"),
    "truncated": (LABELS[:-1], r"10 bytes, expected 11 for the shape \(3,\)"),
    "lengthened": (LABELS + b"\0", r"(12|more) bytes, expected 11 for the shape \(3,\)"),
    "first byte not zero": (b"\1" + LABELS[1:], "the magic number 0x01000801, expected 0x00000801"),
    "second byte not zero": (b"\0\1" + LABELS[2:], "the magic number 0x00010801, expected 0x00000801"),
    "float items": (LABELS[:2] + b"\x0d" + LABELS[3:], "the magic number 0x00000d01, expected 0x00000801"),
    "signed items": (LABELS[:2] + b"\x09" + LABELS[3:], "the magic number 0x00000901, expected 0x00000801"),
    "three dimensions": (LABELS[:3] + b"\3" + LABELS[4:], r"0x00000803, expected 0x00000801 .* in 1 dimensions"),
    "no dimension": (LABELS[:3] + b"\0" + LABELS[4:], "0x00000800, expected 0x00000801"),
    "zero items": (LABELS[:4] + bytes(4), r"the shape \(0,\), which has no items, expected at least one item"),
    "text": (b"<html>404 not found</html>", "the magic number 0x3c68746d, expected 0x00000801"),
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_anything_but_the_format_is_refused(tmp_path, raw, message, compressed):
    path = tmp_path / "labels"
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    with pytest.raises(DataError, match=message):
        read_idx(path, (None,))
    refused(path)


@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_images_are_read_in_three_dimensions_only(tmp_path, dimensions):
    path = tmp_path / "images"
    write_idx(path, torch.zeros(2, 3, 3, dtype=torch.uint8))
    assert f"in {dimensions} dimensions" in refused(path, (None,) * dimensions)


ZIPPED = gzip.compress(LABELS)
BAD_GZIP = {
    "magic number alone": ZIPPED[:2],
    "cut in the header": ZIPPED[:9],
    "cut in the items": ZIPPED[:14],
    "cut in the checksum": ZIPPED[:-1],
    "wrong checksum": ZIPPED[:-8] + bytes((ZIPPED[-8] ^ 1,)) + ZIPPED[-7:],
    "wrong length": ZIPPED[:-1] + b"\1",
    "unknown method": ZIPPED[:2] + b"\7" + ZIPPED[3:],
    "garbage inside": ZIPPED[:10] + b"\xff" * 8 + ZIPPED[18:],
}


@pytest.mark.parametrize("raw", BAD_GZIP.values(), ids=BAD_GZIP)
def test_a_corrupt_gzip_file_is_refused(tmp_path, raw):
    path = tmp_path / "labels.gz"
    path.write_bytes(raw)
    assert "cannot be read (" in refused(path)


def test_a_gzip_file_inside_a_gzip_file_is_not_unpacked_twice(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(ZIPPED))
    assert "the magic number 0x1f8b" in refused(path)


def peak_while_refused(path: Path, shape: tuple[int | None, ...]) -> int:
    tracemalloc.start()
    try:
        refused(path, shape)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "sizes", [(2**31,), (2**32 - 1,), (2**31, 28, 28), (200 * MIB,), (2**16, 2**16, 2**16, 2**16)], ids=str
)
def test_a_header_that_claims_much_takes_no_memory(tmp_path, sizes, compressed):
    raw = bytes((0, 0, 8, len(sizes))) + struct.pack(f">{len(sizes)}I", *sizes) + bytes(1000)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    assert peak_while_refused(path, (None,) * len(sizes)) < 2 * MIB


@pytest.mark.parametrize("shape", [(None,), (3,)], ids=["any size", "known size"])
def test_a_gzip_bomb_takes_no_memory(tmp_path, shape):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(LABELS + bytes(64 * MIB), compresslevel=1))
    assert peak_while_refused(path, shape) < 2 * MIB


def with_name(n: int) -> bytes:
    """The labels in gzip, with a name of n bytes in its header."""
    return ZIPPED[:3] + b"\x08" + ZIPPED[4:10] + b"n" * n + b"\0" + ZIPPED[10:]


def with_empty_blocks(n: int) -> bytes:
    """The labels in gzip, after n blocks of deflate that hold nothing."""
    return ZIPPED[:10] + b"\0\0\0\xff\xff" * n + ZIPPED[10:]


def reads(path: Path, shape: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """The message with which the file is refused, and how many calls decompressed a part of it."""
    calls = []
    true = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self.inflate = true(wbits=wbits)

        def __getattr__(self, name: str) -> object:
            calls.extend([name] if name == "decompress" else [])
            return getattr(self.inflate, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    return refused(path, shape), len(calls)


SLOW_GZIP = {
    "a long name": with_name(8 * MIB),
    "empty blocks": with_empty_blocks(8 * MIB // 5),
    "empty members": gzip.compress(b"") * 100_000 + ZIPPED,
    "empty members after": ZIPPED + gzip.compress(b"") * 100_000,
    "zeros after": ZIPPED + bytes(8 * MIB),
    "bomb": gzip.compress(LABELS + bytes(64 * MIB), compresslevel=1),
}


@pytest.mark.parametrize("raw", SLOW_GZIP.values(), ids=SLOW_GZIP)
def test_a_gzip_file_too_large_for_its_shape_is_refused_unread(tmp_path, monkeypatch, raw):
    path = tmp_path / "labels.gz"
    path.write_bytes(raw)
    message, calls = reads(path, (3,), monkeypatch)
    assert f"found a gzip file of {len(raw)} bytes, expected at most 4107" in message
    assert calls == 0


@pytest.mark.parametrize("name", ["empty members", "empty members after", "zeros after", "bomb"])
def test_a_gzip_file_of_unknown_size_is_refused_at_the_first_thing_too_many(tmp_path, monkeypatch, name):
    path = tmp_path / "labels.gz"
    path.write_bytes(SLOW_GZIP[name])
    assert reads(path, (None,), monkeypatch)[1] <= 3


def test_a_header_of_gzip_is_read_in_large_pieces(tmp_path, monkeypatch):
    path = tmp_path / "labels.gz"
    path.write_bytes(with_name(8 * MIB)[:-1])
    message, calls = reads(path, (None,), monkeypatch)
    assert "cut off" in message
    assert calls < 200


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(ZIPPED)
    os.truncate(path, 2**40)  # takes no room on the disk
    assert "found a gzip file of 1099511627776 bytes" in refused(path)


@pytest.mark.parametrize(
    "raw",
    [with_name(1000), with_empty_blocks(500), gzip.compress(LABELS, compresslevel=0)],
    ids=["a name", "empty blocks", "not compressed"],
)
def test_any_gzip_file_of_a_sensible_size_is_read(tmp_path, raw):
    path = tmp_path / "labels.gz"
    path.write_bytes(raw)
    assert read_idx(path, (3,)).data.tolist() == [5, 0, 4]


@pytest.mark.parametrize("after", [b"garbage", bytes(512), ZIPPED], ids=["garbage", "zeros", "another member"])
def test_what_follows_the_gzip_stream_is_refused(tmp_path, after):
    path = tmp_path / "labels.gz"
    path.write_bytes(ZIPPED + after)
    assert "found more data after the end of the gzip stream" in refused(path)
    whole_piece = with_name(2**16 - len(with_name(0)))  # the stream ends where a piece that is read ends
    path.write_bytes(whole_piece)
    read_idx(path, (None,))
    path.write_bytes(whole_piece + after)
    assert "found more data after the end of the gzip stream" in refused(path)


def test_the_largest_size_is_kept_to_the_byte(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(LABELS)
    assert read_idx(path, (None,), max_bytes=11).data.tolist() == [5, 0, 4]
    assert "which takes 11 bytes, expected at most 10" in refused(path, max_bytes=10)


def test_what_is_no_readable_file_is_refused(tmp_path):
    assert "No such file" in refused(tmp_path / "absent")
    assert "a folder" in refused(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(LABELS)
    assert "Not a directory" in refused(file / "below")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "cannot be read" in refused(loop)
    os.mkfifo(tmp_path / "pipe")
    assert "a special file" in refused(tmp_path / "pipe")  # and does not wait for a writer


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "labels"
    path.write_bytes(LABELS)

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    assert "cannot be read (Permission denied)" in refused(path)


def test_a_shape_has_a_dimension(tmp_path):
    with pytest.raises(ArgumentError, match=r"^shape must have at least one dimension"):
        read_idx(tmp_path / "labels", ())


@pytest.mark.parametrize(("shape", "wanted"), [((2, 2, 3), "(2, 2, 3)"), ((None, 28, 28), "(any, 28, 28)")])
def test_another_shape_is_refused_before_the_items_are_read(tmp_path, shape, wanted):
    path = tmp_path / "images"
    path.write_bytes(bytes.fromhex("00000803 00000002 00000001 00000003") + b"cut")
    assert refused(path, shape).endswith(f"found the shape (2, 1, 3), expected {wanted}")


@settings(max_examples=50, deadline=None)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 2**32), zipped=st.booleans())
def test_what_is_written_is_read_back(shape, seed, zipped):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        write_idx(path, tensor)
        raw = path.read_bytes()
        if zipped:
            path.write_bytes(gzip.compress(raw))
        file = read_idx(path, tuple(shape))
    torch.testing.assert_close(file.data, tensor)
    assert file.sha256 == hashlib.sha256(raw).hexdigest()


def test_several_chunks_are_read_back(tmp_path):
    tensor = torch.arange(3 * MIB + 5).to(torch.uint8)
    write_idx(tmp_path / "file", tensor)
    torch.testing.assert_close(read_idx(tmp_path / "file", (None,)).data, tensor)


def test_a_view_is_written_in_its_own_order(tmp_path):
    tensor = torch.arange(6, dtype=torch.uint8).view(2, 3).T
    write_idx(tmp_path / "file", tensor)
    assert read_idx(tmp_path / "file", (3, 2)).data.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.zeros((), dtype=torch.uint8), torch.zeros(0, 2).byte()],
    ids=["float32", "int64", "no dimension", "nothing"],
)
def test_what_the_format_cannot_hold_is_not_written(tmp_path, tensor):
    with pytest.raises(ArgumentError, match=r"^tensor must"):
        write_idx(tmp_path / "file", tensor)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "labels"
    path.write_bytes(LABELS)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"labels: cannot be written \(No space left on device\)"):
        write_idx(path, torch.ones(9, dtype=torch.uint8))
    assert path.read_bytes() == LABELS
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_into_no_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_idx(tmp_path / "absent" / "labels", torch.ones(1, dtype=torch.uint8))
