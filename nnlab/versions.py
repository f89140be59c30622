"""The version of nnlab, and those of what it runs on."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

__version__ = "0.2.0.dev0"

PACKAGES = (
    *("torch", "torchvision", "lightning", "jsonargparse", "torchmetrics", "scikit-learn", "numpy", "scipy"),
    *("matplotlib", "rich", "numba", "triton", "onnx", "onnxruntime", "safetensors", "jax", "pip"),
)


def show_versions() -> None:
    """Print what a report of a bug should contain: the system, the versions installed, and torch's CUDA devices."""
    system = {"python": sys.version.replace("\n", " "), "executable": sys.executable, "machine": platform.platform()}
    installed = {"nnlab": __version__, **{name: _version(name) for name in PACKAGES}}
    devices = {"CUDA": _cuda(), "torchvision": torchvision_problem() or "can be imported"}
    for title, lines in (("System", system), ("Packages", installed), ("Devices and libraries", devices)):
        print(f"\n{title}:")
        for name, value in lines.items():
            print(f"{name:>12}: {value}")


def torchvision_problem() -> str | None:
    """In one line, why torchvision cannot be imported and what to do; None where it can be, or is not installed."""
    if find_spec("torchvision") is None:  # nnlab needs it for a download alone
        return None
    try:
        import torchvision  # noqa: F401, PLC0415 - with torch, seconds
    except (ImportError, OSError, RuntimeError) as error:  # "operator torchvision::nms does not exist"
        reason = str(error).partition("\n")[0]
        return (
            f"torchvision {_version('torchvision')} does not match torch {_version('torch')} ({reason}): install both "
            "from the same index with one command, such as pip install --force-reinstall torch torchvision"
        )
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    try:
        import torch  # noqa: PLC0415 - seconds
    except (ImportError, OSError, RuntimeError) as error:
        return f"torch cannot be imported ({error})"
    if torch.version.cuda is None:
        return "torch was built without it"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}, {', '.join(devices) or 'no device'}"
