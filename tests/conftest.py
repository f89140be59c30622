"""What every test stands on: one device fixture, TF32 off, a fixed seed, nothing written outside tmp_path."""

import os
from collections.abc import Generator
from types import ModuleType

import pytest
import torch

REQUIRE_CUDA = os.environ.get("NNLAB_REQUIRE_CUDA") == "1"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU and, where there is one, a CUDA device."""
    return torch.device(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The two dtypes that a property holds in."""
    return request.param


@pytest.fixture
def pretended(request: pytest.FixtureRequest) -> ModuleType:
    """The pretended CUDA device's own controls; skipped without ``-p tests.pretended``."""
    plugin = request.config.pluginmanager.get_plugin("tests.pretended")
    return plugin or pytest.skip("needs the pretended device: pytest -p tests.pretended -m cuda")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Wait for the device after each of its tests, and end the session where it fails: no later test could pass."""
    try:
        yield
    finally:
        if item.get_closest_marker("cuda"):
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:
                item.session.shouldstop = f"the CUDA device fails after {item.nodeid}: {str(error).splitlines()[0]}"
                raise


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        reason = "no CUDA device (torch.cuda.is_available() is False)"
        if REQUIRE_CUDA:
            pytest.fail(f"{reason}, and NNLAB_REQUIRE_CUDA=1 asks for one")
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")  # TF32 off
    torch.set_num_threads(1)  # what is computed here is tiny: two threads would only wait for each other
    monkeypatch.delenv("NNLAB_DATA", raising=False)
