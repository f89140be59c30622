"""Small data sets in torchvision's layout: ``SPECS`` is given smaller counts, so that the real code reads them."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nnlab.data import SPECS, raw_folder, write_idx

N_TRAIN, N_TEST = 13, 7


def write_data_set(name: str, root: Path) -> Path:
    """Write the files of ``SPECS[name]`` with content that is always the same; return their folder."""
    folder = raw_folder(name, root)
    assert folder is not None
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    for file in SPECS[name].files:
        largest = 255 if file.n_classes is None else file.n_classes - 1
        content = torch.randint(0, largest + 1, file.shape, dtype=torch.uint8, generator=generator)
        content.view(-1)[0] = largest
        write_idx(folder / file.name, content)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Make a data set small, write it to a folder of its own and return that folder: ``small("mnist")``.

    mnist keeps its promise of known SHA-256 sums: they are those of the small files.
    """

    def make(name: str) -> Path:
        spec = dataclasses.replace(SPECS[name], n_train=N_TRAIN, n_test=N_TEST, sha256={})
        monkeypatch.setitem(SPECS, name, spec)
        folder = write_data_set(name, tmp_path / "root")
        if name == "mnist":
            sums = {file.name: hashlib.sha256((folder / file.name).read_bytes()).hexdigest() for file in spec.files}
            monkeypatch.setitem(SPECS, name, dataclasses.replace(spec, sha256=sums))
        return folder

    return make
