"""Export of a checkpoint to ONNX, torch.export's format or safetensors, each compared with the network."""

import copy
import io
import json
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnlab.config_files import UserError
from nnlab.data import SPECS, load_split
from nnlab.data.mnist import Root, find_files
from nnlab.files import write_whole
from nnlab.ops import LOSSES
from nnlab.training.checkpoints import DIGEST, class_names, read_checkpoint
from nnlab.training.mlp import LitMLP
from nnlab.training.perceptron import LitPerceptron
from nnlab.validation import ArgumentError, check_choice
from nnlab.versions import __version__

NEEDED = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": (), ".safetensors": ("safetensors",)}
"""The suffixes of a file, and the packages that writing it needs; all are in the extra ``export``."""

N_SAMPLES = 1000
ALLOWED = 64  # roundings of the largest logit: sums in another order differ by a few of them

Dtype = Literal["auto", "float32", "float64"]


class _NoKernelError(Exception):
    """onnxruntime cannot compute in the file's dtype."""


class DifferenceError(Exception):
    """A file does not compute what the network computes; it is not kept."""


class Export(NamedTuple):
    """A file that was written, and how it compared."""

    path: Path
    card: Path
    about: dict[str, str]  # what the file says of itself
    samples: str  # what it was compared on
    difference: float  # from the network's outputs, the largest
    allowed: float


class Inputs(NamedTuple):
    """What a file takes: pixels as they lie in a picture, or numbers as the network takes them."""

    name: str
    shape: tuple[int, ...]  # of one
    dtype: torch.dtype
    scaling: str
    most: float  # the largest pixel

    @property
    def formula(self) -> str:
        """The scaling in Python."""
        most = f"{self.most:g}"
        return {"unit": f"x / {most}", "bipolar": f"x * (2 / {most}) - 1", "raw": "x"}[self.scaling]

    @property
    def words(self) -> str:
        """What they are, in a few words."""
        shape = ", ".join(map(str, ("N", *self.shape)))
        limits = f", from 0 to {self.most:g}" if self.name == "pixels" else ""
        return f"{self.name}, {_name(self.dtype)} ({shape}){limits}"

    def random(self) -> Tensor:
        """Random samples, the same in each call."""
        generator = torch.Generator().manual_seed(0)
        if self.name == "pixels":
            pixels = torch.randint(0, int(self.most) + 1, (N_SAMPLES, *self.shape), generator=generator)
            return pixels.to(self.dtype)
        return torch.randn(N_SAMPLES, *self.shape, generator=generator, dtype=self.dtype)


class Exported(nn.Module):
    """The function that a file holds: the scaling, torch's own layers, and the output activation.

    Args:
        layers: the network, of which it takes a copy.
        inputs: what it takes.
        output: the function of the logits.
        dtype: what is computed in.
    """

    most: Tensor

    def __init__(
        self, layers: nn.Sequential, inputs: Inputs, output: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.layers = copy.deepcopy(layers).to(dtype)
        self.scaling, self.output, self.dtype = inputs.scaling, output, dtype
        # a tensor, as torch.onnx rounds numbers to float32
        self.register_buffer("most", torch.tensor(inputs.most, dtype=dtype), persistent=False)
        self.eval().requires_grad_(False)

    def scaled(self, x: Tensor) -> Tensor:
        """Pixels or numbers, (N, …), as the network takes them, (N, I)."""
        x = x.flatten(1).to(self.dtype)
        if self.scaling == "unit":
            return x / self.most
        return x * (2 / self.most) - 1 if self.scaling == "bipolar" else x

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (N, K)."""
        return self.output(self.layers(self.scaled(x)))


def export_model(
    ckpt_path: str | Path, out: str | Path, *, softmax: bool = False, dtype: Dtype = "auto", root: Root = None
) -> Export:
    """Write a checkpoint's network, its scaling inside, to a file, and a model card beside it.

    The file is loaded again and compared with the network before it is kept.

    Args:
        ckpt_path: the checkpoint.
        out: the file; its suffix, .onnx, .pt2 or .safetensors, says the format. The card is ``<out>.md``.
        softmax: whether the outputs are the loss's probabilities in place of logits.
        dtype: what the file computes in; "auto" is the network's own, or float32 where onnxruntime needs it.
        root: the folder of the data sets, whose images the file is compared on if they are there.

    Raises:
        ArgumentError: the checkpoint cannot be used, or an argument does not fit it.
        UserError: a package is missing, or ``out`` cannot be written to.
        DataError: a file of the data set is wrong.
        DifferenceError: the file does not compute what the network computes.
    """
    path = Path(out)
    check_choice("dtype", dtype, ("auto", "float32", "float64"))
    _check_out(path)
    checkpoint = read_checkpoint(ckpt_path)
    model = _model(ckpt_path, checkpoint)
    output, output_name = _output(model, softmax)
    own = next(iter(model.parameters())).dtype
    inputs, data = _inputs(model, checkpoint, own)
    samples, said = _samples(data, inputs, root)
    layers = _layers(model)
    with torch.no_grad():
        logits = model(Exported(layers, inputs, output, own).scaled(samples))
        expected = output(logits)
    names = class_names(checkpoint.get("datamodule_hyper_parameters", {}), logits.shape[1])
    about = {
        "nnlab": __version__,
        "model": model.words,
        "layers": ", ".join(map(repr, layers)),
        "input": inputs.words,
        "scaling": f"{inputs.scaling}: {inputs.formula}",
        "max_pixel": f"{inputs.most:g}",
        "output": f"{output_name} (N, {logits.shape[1]})",
        "classes": json.dumps(names, ensure_ascii=False),
        "data": data or "not known",
        "checkpoint_sha256": checkpoint[DIGEST]["sha256"],
    }
    exported = Exported(layers, inputs, output, own if dtype == "auto" else getattr(torch, dtype))
    write, run = _FORMATS[path.suffix]
    try:
        content = write(exported, inputs, samples, about | {"dtype": _name(exported.dtype)})
    except _NoKernelError as error:
        if dtype != "auto":
            raise ArgumentError("dtype", f"must be float32 or auto, got {dtype}: {error}") from error
        exported = Exported(layers, inputs, output, torch.float32)
        content = write(exported, inputs, samples, about | {"dtype": "float32"})
        said += f", in float32 ({error})"
    about["dtype"] = _name(exported.dtype)
    eps = max(torch.finfo(own).eps, torch.finfo(exported.dtype).eps)
    allowed = ALLOWED * eps * max(1.0, logits.abs().max().item())
    differences: list[float] = []

    def checked(file: IO[bytes]) -> None:
        file.write(content)
        file.flush()
        outputs = run(Path(file.name), exported)
        # one sample, and all the others: the batch may have any size
        found = torch.cat([outputs(samples[:1]), outputs(samples[1:])])
        differences.append((found.double() - expected.double()).abs().max().item())
        if not differences[0] <= allowed:  # NaN is no small difference
            raise DifferenceError(
                f"{path} is not kept: it differs from the network by up to {differences[0]:.2g} on {said}, and "
                f"{allowed:.2g} is allowed"
            )

    card = path.with_name(f"{path.name}.md")
    try:
        write_whole(path, checked)
        export = Export(path, card, about, said, differences[0], allowed)
        write_whole(card, _card(export, inputs, layers, checkpoint))
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be written ({error.strerror or error})") from error
    return export


# ---- what is asked for, and what the checkpoint says -----------------------------------------------------------------


def _check_out(path: Path) -> None:
    if path.suffix not in NEEDED:
        raise UserError(f"OUT must end in {', '.join(NEEDED)}, got {path}")
    if not path.parent.is_dir():
        raise UserError(f"OUT is in a folder that does not exist: {path.parent}")
    for file in (path, path.with_name(f"{path.name}.md")):
        if file.is_dir():
            raise UserError(f"OUT must be a file, but {file} is a folder")
    for package in NEEDED[path.suffix]:
        try:
            import_module(package)
        except ImportError as error:
            raise UserError(f"{path.suffix} needs {package}: pip install 'nnlab[export]' ({error})") from error


def _model(ckpt_path: str | Path, checkpoint: dict[str, Any]) -> LitMLP | LitPerceptron:
    """The model of a checkpoint, in the dtype of its weights."""
    kinds: tuple[type[LitMLP | LitPerceptron], ...] = (LitMLP, LitPerceptron)
    learner = next((kind for kind in kinds if kind.__name__ == checkpoint["learner"]), None)
    if learner is None:
        raise ArgumentError(
            "ckpt_path", f"holds a {checkpoint['learner']}, and only LitMLP and LitPerceptron are exported"
        )
    model: LitMLP | LitPerceptron = learner.load_from_checkpoint(ckpt_path, map_location="cpu")
    weights = [value for value in checkpoint["state_dict"].values() if value.is_floating_point()]
    if any(value.dtype == torch.float64 for value in weights):
        model.double().on_load_checkpoint(checkpoint)  # which puts the mean weights in
        model.load_state_dict(checkpoint["state_dict"])
    return model.eval().requires_grad_(False)


def _output(model: LitMLP | LitPerceptron, softmax: bool) -> tuple[Callable[[Tensor], Tensor], str]:
    """The function of the network's outputs that the file gives, and what it gives."""
    if isinstance(model, LitPerceptron):
        if softmax:
            raise ArgumentError("softmax", "must be off for a perceptron, whose net inputs are no logits")
        return nn.Identity(), "net inputs"
    loss = LOSSES[model.loss]
    if softmax and loss.output_name == "identity":
        raise ArgumentError("softmax", f"must be off for {model.loss}, whose outputs are no logits")
    if softmax:
        return loss.output, f"probabilities ({loss.output_name})"
    return nn.Identity(), "outputs" if loss.output_name == "identity" else "logits"


def _inputs(
    model: LitMLP | LitPerceptron, checkpoint: Mapping[str, Any], own: torch.dtype
) -> tuple[Inputs, str | None]:
    """What the file takes, and the name of the run's data set where it is one of nnlab's."""
    of_data = checkpoint.get("datamodule_hyper_parameters", {})
    name, scaling = of_data.get("name"), of_data.get("scaling", "raw")
    if scaling not in ("unit", "bipolar", "raw"):
        raise ArgumentError("ckpt_path", "has no usable scaling of the data")
    spec = SPECS.get(name) if isinstance(name, str) else None
    if spec and spec.in_features == model.in_features:
        return Inputs("pixels", spec.image_shape, torch.uint8, scaling, spec.max_pixel), name
    most = of_data.get("max_pixel") or (1 if scaling == "raw" else None)
    if not isinstance(most, (int, float)) or not 0 < most < float("inf"):
        raise ArgumentError("ckpt_path", f"does not say the largest value of its data, which scaling {scaling} needs")
    return Inputs("inputs", (model.in_features,), own, scaling, most), None


def _layers(model: LitMLP | LitPerceptron) -> nn.Sequential:
    """The network in torch's own modules."""
    if isinstance(model, LitMLP):
        return model.network.to_sequential()
    bank = model.bank
    weight, bias = bank.averaged() if model.average else (bank.weight, bank.bias)
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    linear.load_state_dict({"weight": weight, "bias": bias})
    return nn.Sequential(linear)


def _samples(data: str | None, inputs: Inputs, root: Root) -> tuple[Tensor, str]:
    """The samples to compare on, and what they are: the data set's images if they are there, test images first."""
    if data is None:
        return inputs.random(), f"{N_SAMPLES:,} random samples"
    files = [file for file in SPECS[data].files if file.split == "test"]
    if any(found is None for _, found in find_files(data, root, files) if files):
        return inputs.random(), f"{N_SAMPLES:,} random samples (the images of {data} are not there)"
    images = load_split(data, root, "test").images
    if len(images) < N_SAMPLES and not files:
        images = torch.cat([images, load_split(data, root, "train").images])
    images = images[:N_SAMPLES].clone()
    return images, f"{len(images):,} images of {data}"


# ---- the formats: how each is written, and how it is loaded to be compared -------------------------------------------

Run = Callable[[Tensor], Tensor]


def _program(exported: Exported, samples: Tensor) -> Any:
    """The function as torch.export records it, for batches of any size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of its own parts, other ones in each version
        return torch.export.export(exported, (samples[:2],), dynamic_shapes=({0: torch.export.Dim("N")},))


def _write_pt2(exported: Exported, inputs: Inputs, samples: Tensor, about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    torch.export.save(_program(exported, samples), file, extra_files={"nnlab.json": json.dumps(about, indent=2)})
    return file.getvalue()


def _run_pt2(path: Path, exported: Exported) -> Run:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def _write_onnx(exported: Exported, inputs: Inputs, samples: Tensor, about: dict[str, str]) -> bytes:
    import onnxruntime  # noqa: PLC0415 - of the extra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _program(exported, samples), input_names=[inputs.name], output_names=["outputs"], dynamo=True, verbose=False
        )
    assert program is not None
    proto = program.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del proto.graph.value_info[:]  # they have torch's name for N
    proto.doc_string = about["model"]
    for key, text in about.items():
        proto.metadata_props.add(key=key, value=text)
    content: bytes = proto.SerializeToString()
    try:
        onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # its class is of onnxruntime's inner parts
        if "NOT_IMPLEMENTED" in str(error) and exported.dtype == torch.float64:
            raise _NoKernelError("onnxruntime cannot compute all of this network in float64") from error
        raise
    return content


def _run_onnx(path: Path, exported: Exported) -> Run:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _write_safetensors(exported: Exported, inputs: Inputs, samples: Tensor, about: dict[str, str]) -> bytes:
    from safetensors.torch import save  # noqa: PLC0415 - of the extra

    return save(exported.layers.state_dict(), about)


def _run_safetensors(path: Path, exported: Exported) -> Run:
    """The function by the file's weights and the scaling that its metadata says."""
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(path, "pt") as file:
        state, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping
    loaded = copy.deepcopy(exported)
    loaded.layers.load_state_dict(state)
    loaded.scaling = about["scaling"].partition(":")[0]
    loaded.most.fill_(float(about["max_pixel"]))
    return loaded


_FORMATS = {
    ".onnx": (_write_onnx, _run_onnx),
    ".pt2": (_write_pt2, _run_pt2),
    ".safetensors": (_write_safetensors, _run_safetensors),
}


# ---- the model card --------------------------------------------------------------------------------------------------

_OUTPUTS = {"softmax": ".softmax(1)", "sigmoid": ".sigmoid()"}
_LOAD = {
    ".onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({file})
x = np.zeros(({shape}), "{kind}")  # yours
(outputs,) = session.run(None, {{"{name}": x}})
about = session.get_modelmeta().custom_metadata_map
""",
    ".pt2": """\
import json

import torch

extra = {{"nnlab.json": ""}}
network = torch.export.load({file}, extra_files=extra).module()
x = torch.zeros({shape}, dtype=torch.{kind})  # yours
outputs = network(x)
about = json.loads(extra["nnlab.json"])
""",
    ".safetensors": """\
import torch
from safetensors import safe_open
from torch import nn

network = nn.Sequential({layers}).to(torch.{dtype})
with safe_open({file}, "pt") as file:
    network.load_state_dict({{name: file.get_tensor(name) for name in file.keys()}})
    about = file.metadata()
x = torch.zeros({shape}, dtype=torch.{kind})  # yours
x = x.flatten(1).to(torch.{dtype})
outputs = network({formula}){output}
""",
}


def _card(export: Export, inputs: Inputs, layers: nn.Sequential, checkpoint: Mapping[str, Any]) -> str:
    """The model card, in Markdown."""
    about, suffix = export.about, export.path.suffix
    code = _LOAD[suffix].format(
        file=json.dumps(export.path.name, ensure_ascii=False),
        shape=", ".join(map(str, (1, *inputs.shape))),
        kind=_name(inputs.dtype),
        name=inputs.name,
        layers=", ".join(f"nn.{layer!r}" for layer in layers),
        dtype=about["dtype"],
        formula=inputs.formula,
        output=next((code for name, code in _OUTPUTS.items() if name in about["output"]), ""),
    )
    where = "stands before the layers, in the code below" if suffix == ".safetensors" else "is inside"
    classes = " ".join(", ".join(json.loads(about["classes"])).replace("|", "/").split())
    lines = [f"- {name}: {value:.4f}" for name, value in _figures(checkpoint).items()]
    return f"""\
# {export.path.name}

{about["model"]}; trained with nnlab {about["nnlab"]}, with gradients written by hand.

| | |
|---|---|
| input | {about["input"]}. The scaling, `{about["scaling"]}`, {where} |
| output | {about["output"]}; the largest is of the predicted class |
| computed in | {about["dtype"]} |
| classes | {classes} |
| trained on | {about["data"]}, {checkpoint["epoch"] + 1} epochs |
| checkpoint | the SHA-256 of its content is {about["checkpoint_sha256"]} |

## Load it

```python
{code}```

`about` is what the file says of itself.

## Figures

{chr(10).join(lines) or "The checkpoint holds none."}

Those of training (`train_`) were measured while the weights changed. Those of validation (`val_`) may have chosen the
epoch, so expect a little less on new samples.

The file was compared with the network on {export.samples}: the largest difference is {export.difference:.2g},
{export.allowed:.2g} is allowed.

## Limits

The network answers any input with one of its classes. Inputs must look like those that it was trained on: of the same
size, centred in the same way, light on dark if those were. It has been tested for no other use.
"""


def _figures(checkpoint: Mapping[str, Any]) -> dict[str, float]:
    """The figures that a checkpoint holds of its epoch."""
    training = checkpoint.get("training")
    found = training.get("figures") if isinstance(training, Mapping) else None
    names = dict.fromkeys((*LitMLP.figures, *LitPerceptron.figures))
    known = found if isinstance(found, Mapping) else {}
    return {name: known[name] for name in names if isinstance(known.get(name), float)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
