"""Small data sets in torchvision's layout, which the real code reads, and a machine without a network."""

import dataclasses
import gzip
import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from nnlab.data import SPECS, raw_folder, write_idx

N_TRAIN, N_TEST = 13, 7
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
IDX_NAMES = ["mnist", "fashion_mnist", "kmnist"]

Download = Callable[[str, Path], None]


def write_data_set(name: str, root: Path) -> Path:
    """Write the files of ``SPECS[name]``, always with the same content; return their folder."""
    folder = raw_folder(name, root)
    assert folder is not None
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(list(SPECS).index(name))
    for file in SPECS[name].files:
        largest = 255 if file.n_classes is None else file.n_classes - 1
        content = torch.randint(0, largest + 1, file.shape, dtype=torch.uint8, generator=generator)
        content.view(-1)[0] = largest
        write_idx(folder / file.name, content)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Make a data set small, write it to a folder of its own and return that folder: ``small("mnist")``.

    Where SHA-256 sums are known, those of the small files take their place.
    """

    def make(name: str) -> Path:
        sums_are_known = bool(SPECS[name].sha256)
        spec = dataclasses.replace(SPECS[name], n_train=N_TRAIN, n_test=N_TEST, sha256={})
        monkeypatch.setitem(SPECS, name, spec)
        folder = write_data_set(name, tmp_path / "root")
        if sums_are_known:
            sums = {file.name: hashlib.sha256((folder / file.name).read_bytes()).hexdigest() for file in spec.files}
            monkeypatch.setitem(SPECS, name, dataclasses.replace(spec, sha256=sums))
        return folder

    return make


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No name resolves, npm is not on the PATH; what is written elsewhere or left set for others would show."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("NNLAB_DATA", raising=False)

    def fail(url: str, _: Path) -> None:
        raise URLError("no route to host")

    serve(monkeypatch, fail)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(77)
    yield
    after = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before)
    assert after == 77
    assert list(home.iterdir()) == []


def serve(monkeypatch: pytest.MonkeyPatch, download: Download) -> list[str]:
    """Let ``download(url, path)`` stand for the network; return the list in which the requested URLs will be."""
    asked: list[str] = []

    def download_url(url: str, root: Path, filename: str, md5: str) -> None:
        asked.append(url)
        assert len(md5) == 32
        download(url, Path(root, filename))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    return asked


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def from_mirror(served: dict[str, bytes]) -> Download:
    """A mirror that has ``served``, compressed."""
    return lambda url, path: path.write_bytes(gzip.compress(served[path.name.removesuffix(".gz")])) and None
