"""Data sets by name: nothing that is known about a file is left unchecked, and nothing is read twice."""

import gzip
import itertools
import struct
from pathlib import Path

import pytest
import torch

from nnlab.data import SPECS, DataError, default_root, load, load_split, mnist, raw_folder, verify
from nnlab.validation import ArgumentError
from tests.data.conftest import FILES, IDX_NAMES, N_TEST, N_TRAIN, write_data_set


def refused(name: str, folder: Path) -> str:
    """The one-line message with which every way to read all files refuses the data set."""
    messages = set()
    root = folder.parent.parent
    for read in (verify, load, lambda name, root: load(name, root, splits=("train",))):
        with pytest.raises(DataError) as caught:
            read(name, root)
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    return message


# What is known without reading


@pytest.mark.parametrize(
    ("name", "in_features", "n_train", "n_test", "max_pixel"),
    [
        ("mnist", 784, 60_000, 10_000, 255),
        ("fashion_mnist", 784, 60_000, 10_000, 255),
        ("kmnist", 784, 60_000, 10_000, 255),
        ("digits", 64, 1437, 360, 16),
    ],
)
def test_specs(name, in_features, n_train, n_test, max_pixel):
    spec = SPECS[name]
    assert (spec.in_features, spec.n_train, spec.n_test, spec.max_pixel) == (in_features, n_train, n_test, max_pixel)
    assert spec.n_classes == 10


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_files_lie_as_torchvision_has_them(name, folder):
    assert raw_folder(name, "data") == Path("data", folder, "raw")
    assert [file.name for file in SPECS[name].files] == FILES
    assert [file.shape for file in SPECS[name].files] == [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]


def test_sha256_is_known_for_each_file_of_mnist_and_fashion_mnist():
    sums = [file.sha256 for name in ("mnist", "fashion_mnist") for file in SPECS[name].files]
    assert len({*sums}) == 8
    assert all(len(sha256 or "") == 64 for sha256 in sums)


def test_the_root_is_data_or_the_environments(monkeypatch, tmp_path):
    assert default_root() == Path("data")
    monkeypatch.setenv("NNLAB_DATA", "")
    assert default_root() == Path("data")
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path))
    assert default_root() == tmp_path
    assert raw_folder("mnist") == tmp_path / "MNIST" / "raw"
    assert raw_folder("mnist", "elsewhere") == Path("elsewhere/MNIST/raw")
    assert raw_folder("mnist", "~/data") == Path.home() / "data/MNIST/raw"


# Good data


@pytest.mark.parametrize("name", IDX_NAMES)
def test_a_good_data_set_loads(small, name):
    root = small(name).parent.parent
    verify(name, root)
    both = load(name, root)
    assert list(both) == ["train", "test"]
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        images, labels = both[split]
        assert (images.dtype, tuple(images.shape)) == (torch.uint8, (n, 28, 28))
        assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (n,))
        assert labels[0] == 9
        alone = load_split(name, root, split)
        torch.testing.assert_close(alone.images, images)
        torch.testing.assert_close(alone.labels, labels)


def test_the_bytes_of_the_files_are_the_pixels_and_labels(small):
    folder = small("mnist")
    images, labels = load_split("mnist", folder.parent.parent, "test")
    assert bytes(images.flatten().tolist()) == (folder / FILES[2]).read_bytes()[16:]
    assert bytes(labels.tolist()) == (folder / FILES[3]).read_bytes()[8:]


def test_the_environments_root_is_used_when_none_is_given(small, monkeypatch):
    monkeypatch.setenv("NNLAB_DATA", str(small("mnist").parent.parent))
    verify("mnist")
    assert len(load("mnist")["test"].labels) == N_TEST


@pytest.mark.parametrize("name", FILES[1:3])
def test_gz_is_read_where_the_plain_file_is_absent(small, name):
    folder = small("mnist")
    expected = load("mnist", folder.parent.parent)
    path = folder / name
    (folder / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    found = load("mnist", folder.parent.parent)
    torch.testing.assert_close(found, expected)


def test_the_plain_file_goes_before_gz(small):
    folder = small("mnist")
    (folder / f"{FILES[0]}.gz").write_bytes(b"not looked at")
    verify("mnist", folder.parent.parent)


def test_full_size(tmp_path):
    write_data_set("kmnist", tmp_path)
    both = load("kmnist", tmp_path)
    assert [tuple(both[split].images.shape) for split in both] == [(60_000, 28, 28), (10_000, 28, 28)]


# Only what is needed


def test_each_file_is_read_once(small, monkeypatch):
    root = small("mnist").parent.parent
    read = []
    true = mnist.read_idx
    monkeypatch.setattr(mnist, "read_idx", lambda path, shape: read.append(path.name) or true(path, shape))
    load("mnist", root, splits=("train",))
    assert read == FILES


@pytest.mark.parametrize(("splits", "n_tensors"), [((), 0), (("train",), 2), (("test",), 2), (("train", "test"), 4)])
def test_tensors_are_built_for_the_asked_splits_only(small, monkeypatch, splits, n_tensors):
    root = small("mnist").parent.parent
    built = []
    true = torch.frombuffer
    monkeypatch.setattr(torch, "frombuffer", lambda *args, **kwargs: built.append(1) or true(*args, **kwargs))
    assert set(load("mnist", root, splits=splits)) == set(splits)
    assert len(built) == n_tensors


def test_one_split_needs_its_own_files_only(small):
    folder = small("mnist")
    (folder / FILES[0]).unlink()
    (folder / FILES[1]).write_bytes(b"wrong")
    root = folder.parent.parent
    assert len(load_split("mnist", root, "test").labels) == N_TEST
    with pytest.raises(DataError):
        load_split("mnist", root, "train")


# Bad data


def recount(raw: bytes, n: int) -> bytes:
    """The file with another number of items, in the header and in fact."""
    header = 16 if raw[3] == 3 else 8
    size = (len(raw) - header) // struct.unpack(">I", raw[4:8])[0]
    return raw[:4] + struct.pack(">I", n) + raw[8:header] + (raw[header:] * 2)[: n * size]


DAMAGE = {
    "empty": lambda raw: b"",
    "truncated": lambda raw: raw[:-1],
    "bit-flipped": lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,)),
    "wrong dimensions": lambda raw: raw[:3] + b"\2" + raw[4:],
    "one item fewer": lambda raw: recount(raw, struct.unpack(">I", raw[4:8])[0] - 1),
    "one item more": lambda raw: recount(raw, struct.unpack(">I", raw[4:8])[0] + 1),
    "gzip, cut": lambda raw: gzip.compress(raw)[:-9],
}
FORMS = ["plain", "gzip", "gzip without its name"]


@pytest.mark.parametrize(
    ("damage", "file", "form"),  # each two of the three factors meet
    [(damage, file, FORMS[(i + j) % 3]) for i, damage in enumerate(DAMAGE) for j, file in enumerate(FILES)],
)
def test_any_damage_to_any_file_is_refused(small, damage, file, form):
    folder = small("mnist")
    path = folder / file
    raw = DAMAGE[damage](path.read_bytes())
    if form != "plain":
        raw = gzip.compress(raw)
    if form == "gzip":
        path.unlink()
        path = folder / f"{file}.gz"
    path.write_bytes(raw)
    message = refused("mnist", folder)
    assert message.startswith(f"{path}: found ")
    assert ", expected " in message
    assert message.endswith("; remove it or put the right file there")


def test_a_flipped_bit_is_named_by_both_sums(small):
    folder = small("mnist")
    path = folder / FILES[2]
    path.write_bytes(DAMAGE["bit-flipped"](path.read_bytes()))
    expected = SPECS["mnist"].sha256[FILES[2]]
    assert f", expected {expected};" in refused("mnist", folder)


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [("mnist", FILES[1], 10), ("fashion_mnist", FILES[3], 200), ("kmnist", FILES[1], 255), ("kmnist", FILES[3], 10)],
)
def test_a_label_out_of_range_is_refused(small, name, file, label):
    folder = small(name)
    path = folder / file
    path.write_bytes(path.read_bytes()[:-1] + bytes((label,)))
    assert f"{path}: found the label {label}, expected labels from 0 to 9" in refused(name, folder)


@pytest.mark.parametrize(("file", "n"), [*zip(FILES, [N_TRAIN, N_TRAIN, N_TEST, N_TEST], strict=True)])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_count_is_refused_without_a_sum(small, file, n, change):
    folder = small("kmnist")
    path = folder / file
    path.write_bytes(recount(path.read_bytes(), n + change))
    assert f"{path}: found the shape ({n + change}," in refused("kmnist", folder)


def test_59_999_labels_are_refused(tmp_path):
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / FILES[0]).write_bytes(bytes.fromhex("00000803 0000ea60 0000001c 0000001c") + bytes(60_000 * 784))
    (folder / FILES[1]).write_bytes(bytes.fromhex("00000801 0000ea5f") + bytes(59_999))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: found the shape \(59999,\), expected \(60000,\)"):
        load_split("kmnist", tmp_path, "train")


def test_images_of_another_size_are_refused(small):
    folder = small("kmnist")
    path = folder / FILES[0]
    path.write_bytes(path.read_bytes()[:8] + struct.pack(">II", 14, 56) + path.read_bytes()[16:])
    assert f"found the shape ({N_TRAIN}, 14, 56), expected ({N_TRAIN}, 28, 28)" in refused("kmnist", folder)


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(FILES, 2)])
def test_exchanged_files_are_refused(small, one, other):
    folder = small("kmnist")
    content = (folder / one).read_bytes()
    (folder / one).write_bytes((folder / other).read_bytes())
    (folder / other).write_bytes(content)
    refused("kmnist", folder)


@pytest.mark.parametrize("file", FILES[::3])
def test_a_missing_file_is_named(small, file):
    folder = small("mnist")
    (folder / file).unlink()
    message = f"{folder / file}: found no such file, expected it or {file}.gz beside it"
    assert refused("mnist", folder) == message


@pytest.mark.parametrize("file", FILES[::3])
def test_a_folder_in_place_of_a_file_is_refused(small, file):
    folder = small("mnist")
    (folder / file).unlink()
    (folder / file).mkdir()
    assert f"{folder / file}: found a folder, expected an IDX file" in refused("mnist", folder)


@pytest.mark.parametrize("file", FILES[::3])
def test_a_dangling_link_is_refused(small, file):
    folder = small("mnist")
    (folder / file).rename(folder / f"{file}.gz")
    (folder / file).symlink_to(folder / "nowhere")
    assert f"{folder / file}: found that it cannot be read" in refused("mnist", folder)


# Wrong arguments


@pytest.mark.parametrize("read", [verify, load, lambda name: load_split(name, None, "test")])
def test_an_unknown_name_is_refused(read):
    with pytest.raises(ArgumentError, match=r"^name must be one of 'mnist', 'fashion_mnist', 'kmnist', 'digits', got"):
        read("cifar")


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_an_unknown_split_is_refused(name):
    with pytest.raises(ArgumentError, match=r"^split must be one of 'train', 'test', got 'valid'"):
        load_split(name, None, "valid")
    with pytest.raises(ArgumentError, match=r"^splits must be one of 'train', 'test', got 'valid'"):
        load(name, None, splits=("valid",))


# The digits


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    both = load("digits", tmp_path / "not needed")
    verify("digits")
    assert [tuple(both[split].images.shape) for split in both] == [(1437, 8, 8), (360, 8, 8)]
    images = torch.cat([both["train"].images, both["test"].images])
    labels = torch.cat([both["train"].labels, both["test"].labels])
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    torch.testing.assert_close(images.double(), torch.from_numpy(bunch.images))
    torch.testing.assert_close(labels, torch.from_numpy(bunch.target))
    assert int(images.max()) == SPECS["digits"].max_pixel
    assert list(load("digits", splits=("test",))) == ["test"]
    assert list(tmp_path.iterdir()) == []
