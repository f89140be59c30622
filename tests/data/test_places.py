"""Files are found under the names and in the folders that people have them in, and one data set is never another."""

import gzip
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from nnlab.data import DataError, ensure, load, mnist, verify
from tests.data.conftest import FILES, content_of, from_mirror, serve

pytestmark = pytest.mark.usefixtures("offline")

DOTTED = [name.replace("-idx", ".idx") for name in FILES]


@pytest.fixture
def root(tmp_path) -> Path:
    """An empty root below two folders of its own."""
    path = tmp_path / "one" / "two" / "data"
    path.mkdir(parents=True)
    return path


def put(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


NAMES = {
    "dash": FILES,
    "dot": DOTTED,
    "dash.gz": [f"{name}.gz" for name in FILES],
    "dot.gz": [f"{name}.gz" for name in DOTTED],
    "a folder for each": [f"{name}/{name}" for name in FILES],
    "mixed": [FILES[0], f"{FILES[1]}.gz", f"{DOTTED[2]}.gz", f"{DOTTED[3]}/{DOTTED[3]}"],
}
PLACES = [
    *("MNIST/raw", "MNIST", "raw", "."),  # the root's own
    *("archive", "course/week 1", "old/MNIST/raw", "course/mnist_data/raw"),  # below
    *("..", "../..", "../MNIST/raw", "../data/raw", "../../data/MNIST/raw", "../../../data"),  # above
]


@pytest.mark.parametrize(
    ("place", "names"), [(place, [*NAMES][i % len(NAMES)]) for i, place in enumerate([*PLACES, *PLACES[:4]])]
)
def test_files_are_found_and_one_line_says_where(small, root, caplog, place, names):
    folder = small("mnist")
    right = [content_of(folder)[name] for name in FILES]
    expected = load("mnist", folder.parent.parent)
    put(dict(zip(NAMES[names], right, strict=True)), root / place)
    caplog.set_level(logging.INFO, "nnlab")
    ensure("mnist", root)
    usual = place == "MNIST/raw" and names in ("dash", "dash.gz")
    assert len(caplog.messages) == (0 if usual else 1)
    for line in caplog.messages:
        assert line.startswith("mnist: using ")
        assert f" in {os.path.normpath(root / place)}" in line
        assert all(f"{name}" in line for name in NAMES[names])
    torch.testing.assert_close(load("mnist", root), expected)


@pytest.mark.parametrize(
    "place", ["a/b/c", ".hidden", "../../..", "../other", "fashion", "a/KMNIST", "FashionMNIST/raw", "KMNIST/files"]
)
def test_other_places_are_not_searched(small, root, place):
    put(content_of(small("mnist")), root / place)
    with pytest.raises(DataError, match=r"MNIST/raw/train-images-idx3-ubyte: found no such file"):
        verify("mnist", root)


def test_the_line_names_files_of_a_relative_root_and_of_folders_above_it(small, root, monkeypatch, caplog):
    right = content_of(small("mnist"))
    put({name: right[name] for name in FILES[:2]}, root / "raw")
    put({name: right[name] for name in FILES[2:]}, root.parent)
    monkeypatch.chdir(root.parent)
    caplog.set_level(logging.INFO, "nnlab")
    ensure("mnist", "data")
    paths = [*(f"data/raw/{name}" for name in FILES[:2]), *FILES[2:]]
    assert caplog.messages == [f"mnist: using {', '.join(paths)} in {root.parent} in place of data/MNIST/raw"]


def test_no_more_than_so_many_folders_are_searched(small, root, monkeypatch):
    right = content_of(small("mnist"))
    for i in range(5):
        (root / str(i)).mkdir()
    put(right, root / "4")
    verify("mnist", root)
    monkeypatch.setattr(mnist, "MAX_FOLDERS", 4)
    with pytest.raises(DataError, match="found no such file"):
        verify("mnist", root)


def test_nothing_is_searched_for_while_the_files_are_in_the_roots_own_places(small, monkeypatch):
    folder = small("mnist")

    def fail(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(os, "scandir", fail)
    verify("mnist", folder.parent.parent)


@pytest.mark.parametrize("first", range(3))
def test_the_first_place_that_has_the_file_is_used(small, root, first):
    right = content_of(small("mnist"))
    put(right, root / PLACES[first])
    for place in PLACES[first + 1 : 6]:
        put(dict.fromkeys(right, b"not looked at"), root / place)
    verify("mnist", root)


def test_links_that_form_a_loop_are_followed_no_further(small, root):
    put(content_of(small("mnist")), root / "archive")
    (root / "a").mkdir()
    (root / "a" / "loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    verify("mnist", root)


def test_a_root_that_does_not_exist_is_said_to_miss_its_files(small, root):
    small("mnist")
    with pytest.raises(DataError, match=r"nowhere/MNIST/raw/train-images-idx3-ubyte: found no such file"):
        verify("mnist", root / "nowhere")


# Wrong files


@pytest.mark.parametrize(
    ("place", "name"),
    [("MNIST/raw", DOTTED[0]), ("MNIST", f"{FILES[0]}/{FILES[0]}"), ("raw", FILES[0]), (".", DOTTED[0])],
)
def test_a_wrong_file_in_the_roots_own_places_is_refused_and_nothing_is_fetched(small, root, monkeypatch, place, name):
    right = content_of(small("mnist"))
    asked = serve(monkeypatch, from_mirror(right))
    put({name: right[FILES[0]][:10]}, root / place)
    path = root / place / name
    for check in (ensure, verify):
        with pytest.raises(DataError, match=r"10 bytes in all, expected .*; remove it or put the right file there"):
            check("mnist", root)
    assert path.read_bytes() == right[FILES[0]][:10]
    assert asked == []


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "a folder", "a link to itself", "unreadable"])
def test_a_wrong_file_further_away_is_passed_over_with_a_warning(small, root, monkeypatch, caplog, damage):
    right = content_of(small("mnist"))
    serve(monkeypatch, from_mirror(right))
    put(right, root / "archive")
    path = root / "archive" / FILES[0]
    if damage == "truncated":
        path.write_bytes(right[FILES[0]][:-1])
    elif damage == "bit flipped":
        path.write_bytes(right[FILES[0]][:-1] + bytes((right[FILES[0]][-1] ^ 1,)))
    elif damage == "unreadable":
        true = Path.open

        def fail(self: Path, *args: str, **kwargs: object) -> object:
            if self == path:
                raise PermissionError(13, "Permission denied")
            return true(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", fail)
    else:
        path.unlink()
        path.mkdir() if damage == "a folder" else path.symlink_to(path)
    ensure("mnist", root)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(f"passed over {path}: found ")
    assert [p.name for p in (root / "MNIST" / "raw").iterdir()] == [FILES[0]]
    verify("mnist", root)


# Other data sets of the same file names


@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "."])
def test_fashion_mnist_under_mnists_name_is_refused(small, root, place):
    small("mnist")
    put(content_of(small("fashion_mnist")), root / place)
    with pytest.raises(DataError, match=r"found the SHA-256 [0-9a-f]{64} \(a file of fashion_mnist\), expected"):
        ensure("mnist", root)


def test_fashion_mnist_in_a_folder_of_another_name_is_not_taken_for_mnist(small, root, caplog):
    small("mnist")
    put(content_of(small("fashion_mnist")), root / "archive")
    with pytest.raises(DataError, match="cannot be downloaded"):
        ensure("mnist", root)
    assert sum("(a file of fashion_mnist), expected" in line for line in caplog.messages) == 4
    ensure("fashion_mnist", root)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_other_files_under_kmnists_name_are_refused(small, root, name):
    small("kmnist")
    put(content_of(small(name)), root / "KMNIST" / "raw")
    with pytest.raises(DataError, match=rf"\(a file of {name}\), expected a file of another data set"):
        ensure("kmnist", root)


def test_a_data_set_without_known_sums_is_taken_from_folders_of_its_name_alone(small, root):
    right = content_of(small("kmnist"))
    for place in (".", "raw", "archive", "MNIST"):
        put(right, root / place)
        with pytest.raises(DataError, match="found no such file"):
            verify("kmnist", root)
        shutil.rmtree(root)
    put(right, root / "Kuzushiji-MNIST")
    verify("kmnist", root)
    verify("kmnist", root / "Kuzushiji-MNIST")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_root_named_for_another_data_set_is_not_searched(small, root, monkeypatch, name):
    small(name)
    put(content_of(small("kmnist")), root / "KMNIST")
    monkeypatch.chdir(root / "KMNIST")
    for path in (root / "KMNIST", "."):
        with pytest.raises(DataError, match="found no such file"):
            verify(name, path)
