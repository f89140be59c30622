"""The profile of steps on a CUDA device, as far as it goes without one."""

import pytest
import torch

from benchmarks import cuda_profile
from benchmarks.cuda_profile import RECIPES, Training


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name):
    training = Training(RECIPES[name], torch.device("cpu"), steps=2)
    before = [p.clone() for p in training.parameters]
    training.epoch()
    assert not any(torch.equal(a, b) for a, b in zip(before, training.parameters, strict=True))


def test_without_a_device_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_profile.main() == 2
    assert "there is no CUDA device here" in capsys.readouterr().err
