"""nnlab export: what a file computes, what it says of itself, and what is refused."""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from nnlab.data import load
from nnlab.ops import ACTIVATIONS
from nnlab.training import DifferenceError, LitMLP, LitPerceptron, MNISTDataModule, export_model, read_checkpoint
from nnlab.training.checkpoints import sign
from tests.pairwise import pairwise
from tests.training.runs import files_in, nnlab, small_data_set, trainer

PERCEPTRON = "perceptron"
SUFFIXES = (".onnx", ".pt2", ".safetensors")
CPU = torch.device("cpu")
FAST = ".safetensors"  # the others take seconds


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[..., Path]:
    """Train on digits, or take the checkpoint that did: a function of a model, a precision and a scaling."""

    @cache
    def train(model: str = "relu", precision: str = "32-true", scaling: str = "unit", **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("run")
        learner = LitPerceptron(in_features=64, engine="off", **options) if model == PERCEPTRON else None
        made = learner or LitMLP([8], model, in_features=64, **options)
        with contextlib.chdir(folder):
            runner = trainer(CPU, folder, precision=precision, max_epochs=2)
            runner.fit(made, MNISTDataModule("digits", batch_size=100, scaling=scaling, seed=1))
            runner.save_checkpoint(folder / "model.ckpt", weights_only=False)
        return folder / "model.ckpt"

    return train


def crafted(checkpoint: Path, **fields: Any) -> Path:
    """A checkpoint with other fields, signed."""
    content = read_checkpoint(checkpoint) | fields
    sign(content)
    torch.save(content, "crafted.ckpt")
    return Path("crafted.ckpt")


def run_file(path: Path, x: Tensor) -> Tensor:
    """The outputs of an .onnx or a .pt2."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(x)
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def metadata(path: Path) -> dict[str, str]:
    """What a file says of itself."""
    if path.suffix == ".onnx":
        return {item.key: item.value for item in onnx.load(path).metadata_props}
    if path.suffix == ".pt2":
        extra = {"nnlab.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["nnlab.json"])
    with safe_open(path, "pt") as file:
        return file.metadata()


def run_card(path: Path, x: Tensor) -> Any:
    """The outputs for x by the code of the card, and what the file says there."""
    (code,) = re.findall(r"```python\n(.*?)```", Path(f"{path}.md").read_text(encoding="utf-8"), re.DOTALL)
    code, count = re.subn(r"^x = .*# yours$", "x = given", code, flags=re.MULTILINE)
    assert count == 1
    names = {"given": x.numpy() if path.suffix == ".onnx" else x}
    exec(code, names)
    return torch.as_tensor(names["outputs"]), names["about"]


def outputs_in_training(checkpoint: Path, scaling: str) -> Tensor:
    """What the network gives for the test images of digits, scaled as in training."""
    kind = LitPerceptron if read_checkpoint(checkpoint)["learner"] == "LitPerceptron" else LitMLP
    data = MNISTDataModule("digits", scaling=scaling)
    data.setup("test")
    model = kind.load_from_checkpoint(checkpoint).eval()
    with torch.no_grad():
        return torch.cat([model(x) for x, _ in data.test_dataloader()])


# What the file computes


@pytest.mark.slow
@pairwise(model=[*ACTIVATIONS, PERCEPTRON], suffix=SUFFIXES, precision=["32-true", "64-true"])
def test_a_file_computes_what_the_network_computes(trained, model, suffix, precision):
    export = export_model(trained(model, precision), f"model{suffix}")
    assert export.samples.startswith("1,000 images of digits")
    assert export.difference <= export.allowed
    no_kernel = suffix == ".onnx" and model in ("gelu", "leaky_relu")
    assert export.about["dtype"] == ("float32" if no_kernel or precision == "32-true" else "float64")


def check_scaling(trained: Callable[..., Path], suffix: str, scaling: str, model: str) -> None:
    checkpoint = trained(model, scaling=scaling)
    path = export_model(checkpoint, f"model{suffix}").path
    images = load("digits")["test"].images
    outputs, about = run_card(path, images)
    expected = outputs_in_training(checkpoint, scaling)
    assert torch.allclose(outputs, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert about["scaling"].startswith(scaling)


@pytest.mark.parametrize("scaling", ["unit", "bipolar", "raw"])
def test_the_scaling_is_that_of_training(trained, scaling):
    check_scaling(trained, FAST, scaling, "tanh")


@pytest.mark.slow
@pairwise(suffix=SUFFIXES, scaling=["unit", "bipolar", "raw"], model=["tanh", PERCEPTRON])
def test_the_scaling_is_that_of_training_in_every_format(trained, suffix, scaling, model):
    check_scaling(trained, suffix, scaling, model)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_says_what_it_is_and_its_card_says_how_to_load_it(trained, suffix):
    checkpoint = trained()
    export = export_model(checkpoint, f"model{suffix}", softmax=True)
    about = metadata(export.path)
    assert about == export.about
    assert json.loads(about["classes"]) == [str(k) for k in range(10)]
    assert about["input"] == "pixels, uint8 (N, 8, 8), from 0 to 16"
    assert about["output"] == "probabilities (softmax) (N, 10)"
    assert about["checkpoint_sha256"] == read_checkpoint(checkpoint)["digest"]["sha256"]
    images = load("digits")["test"].images
    outputs, said = run_card(export.path, images)
    assert said == about
    assert torch.allclose(outputs, outputs_in_training(checkpoint, "unit").softmax(1), atol=1e-6)
    if suffix != FAST:
        assert torch.equal(run_file(export.path, images[:7]), outputs[:7])
    card = export.card.read_text(encoding="utf-8")
    assert f"val_acc: {read_checkpoint(checkpoint)['training']['figures']['val_acc']:.4f}" in card


@pytest.mark.slow
def test_the_inputs_of_an_onnx_are_bytes_in_any_number(trained):
    path = export_model(trained(), "model.onnx").path
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    with pytest.raises(Exception, match="Unexpected input data type"):  # scaled already: not silently scaled twice
        run_file(path, torch.rand(1, 8, 8))


def test_the_mean_weights_are_exported_also_in_float64(trained):
    checkpoint = trained("tanh", "64-true", average_epochs=2)
    state = read_checkpoint(checkpoint)["state_dict"]
    state["mean_0_weight"] += 1e-9
    export_model(crafted(checkpoint, state_dict=state), "model.safetensors")
    with safe_open("model.safetensors", "pt") as file:
        found = file.get_tensor("0.weight")
    assert torch.equal(found, state["mean_0_weight"])
    assert not torch.equal(found, state["network.0.weight"])


@pytest.mark.parametrize("average", [True, False])
def test_a_perceptron_is_exported_with_the_weights_that_it_predicts_with(trained, average):
    checkpoint = trained(PERCEPTRON, average=average)
    export_model(checkpoint, "model.safetensors")
    bank = LitPerceptron.load_from_checkpoint(checkpoint).bank
    with safe_open("model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("0.weight"), bank.averaged()[0] if average else bank.weight)


def test_the_chapters_logistic_cost_gives_sigmoid_outputs(trained):
    checkpoint = trained("sigmoid", loss="binary_cross_entropy")
    path = export_model(checkpoint, "model.safetensors", softmax=True).path
    outputs, about = run_card(path, load("digits")["test"].images)
    assert torch.allclose(outputs, outputs_in_training(checkpoint, "unit").sigmoid(), atol=1e-6)
    assert about["output"] == "probabilities (sigmoid) (N, 10)"


def test_a_float64_network_as_a_float32_file(trained):
    export = export_model(trained("tanh", "64-true"), "model.safetensors", dtype="float32")
    assert 1e-9 < export.difference <= export.allowed < 1e-3
    assert run_card(export.path, load("digits")["test"].images)[0].dtype == torch.float32


@pytest.mark.parametrize("there", [True, False])
def test_images_of_the_data_set_are_used_where_they_are_there(trained, there, tmp_path, monkeypatch):
    small_data_set(monkeypatch, "mnist", tmp_path / "data" if there else tmp_path / "far/from/it/all")
    checkpoint = crafted(trained(), datamodule_hyper_parameters={"name": "mnist", "scaling": "unit"}, **of_size(784))
    export = export_model(checkpoint, "model.safetensors")
    assert export.samples == (
        "10 images of mnist" if there else "1,000 random samples (the images of mnist are not there)"
    )
    assert export.about["input"] == "pixels, uint8 (N, 28, 28), from 0 to 255"


def of_size(n: int) -> dict[str, Any]:
    """The fields of a checkpoint of another number of inputs."""
    model = LitMLP([3], in_features=n)
    return {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}


def test_a_model_of_ones_own_data_takes_what_the_network_takes(trained):
    checkpoint = crafted(trained(), datamodule_hyper_parameters={})
    export = export_model(checkpoint, "model.safetensors")
    assert export.samples == "1,000 random samples"
    assert export.about["input"] == "inputs, float32 (N, 64)"
    named = {"scaling": "unit", "max_pixel": 4.0, "classes": [f"a|{k}" for k in range(10)]}
    export = export_model(crafted(trained(), datamodule_hyper_parameters=named), "model.safetensors")
    assert export.about["scaling"] == "unit: x / 4"
    assert "| classes | a/0, a/1" in export.card.read_text(encoding="utf-8")


# What is refused


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=pytest.mark.slow), ".pt2", FAST])
def test_a_file_that_differs_is_not_kept(trained, suffix, monkeypatch, tmp_path):
    checkpoint = trained()
    Path(f"model{suffix}").write_text("of before")
    before = files_in(tmp_path)
    if suffix == ".onnx":
        run = onnxruntime.InferenceSession.run
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *a: [y * 1.0001 for y in run(*a)])
    elif suffix == ".pt2":
        monkeypatch.setattr(torch.export, "load", lambda _: Wrong())
    else:
        save = safetensors.torch.save
        monkeypatch.setattr(
            safetensors.torch, "save", lambda state, about: save({k: v * 1.0001 for k, v in state.items()}, about)
        )
    ended = nnlab("export", "--ckpt_path", checkpoint, f"model{suffix}")
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert re.match(rf"nnlab export: error: model\{suffix} is not kept: it differs from the network by up to ", line)
    assert Path(f"model{suffix}").read_text() == "of before"
    assert files_in(tmp_path) == before
    with pytest.raises(DifferenceError):
        export_model(checkpoint, f"model{suffix}")


class Wrong:
    """As a loaded program of NaN."""

    def module(self) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.full((len(x), 10), torch.nan)


def test_a_file_whose_metadata_says_another_scaling_is_not_kept(trained, monkeypatch):
    save = safetensors.torch.save
    monkeypatch.setattr(
        safetensors.torch, "save", lambda state, about: save(state, about | {"scaling": "bipolar: x * (2 / 16) - 1"})
    )
    with pytest.raises(DifferenceError):
        export_model(trained(), "model.safetensors")
    assert files_in(Path()) == set()


MISTAKES = {
    "suffix": (["model.txt"], "OUT must end in .onnx, .pt2, .safetensors, got model.txt"),
    "folder": (["no/model.pt2"], "OUT is in a folder that does not exist: no"),
    "is a folder": (["folder.pt2"], "OUT must be a file, but folder.pt2 is a folder"),
    "no file": (["--ckpt_path=no.ckpt", "m.pt2"], "ckpt_path names no file: no.ckpt (--ckpt_path)"),
    "no run": (["m.pt2"], "there is no checkpoint under runs: train one with nnlab fit, or name one with --ckpt_path"),
    "of something else": (
        ["--ckpt_path=other.ckpt", "m.pt2"],
        "ckpt_path is no checkpoint of a model of nnlab: other.ckpt (--ckpt_path)",
    ),
    "no OUT": ([], "the following arguments are required: OUT"),
    "dtype": (["--dtype=int8", "m.pt2"], "argument --dtype: invalid choice: 'int8'"),
    "config": (["--config", "mlp", "m.pt2"], "unrecognized arguments: --config m.pt2"),
}


@pytest.mark.parametrize(("arguments", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(trained, arguments, line, tmp_path):
    if "OUT" in line and arguments:
        arguments = ["--ckpt_path", trained(), *arguments]
    Path("folder.pt2").mkdir()
    torch.save({"state_dict": {}}, "other.ckpt")
    before = files_in(tmp_path)
    ended = nnlab("export", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"nnlab export: error: {line}")
    assert len(ended.err.splitlines()) == 1
    assert files_in(tmp_path) == before


def refused(*arguments: object) -> str:
    ended = nnlab("export", *arguments)
    assert ended.status == 2, ended
    (line,) = ended.err.splitlines()
    return line.removeprefix("nnlab export: error: ")


def test_softmax_is_refused_where_it_would_mean_nothing(trained):
    line = refused("--softmax", "--ckpt_path", trained(PERCEPTRON), "model.pt2")
    assert line == "softmax must be off for a perceptron, whose net inputs are no logits (--softmax)"
    line = refused("--softmax", "--ckpt_path", trained(loss="sum_of_squares"), "model.pt2")
    assert line == "softmax must be off for sum_of_squares, whose outputs are no logits (--softmax)"


def test_a_checkpoint_that_says_too_little(trained):
    checkpoint = crafted(trained(), datamodule_hyper_parameters={"scaling": "unit", "name": ["x"]})
    assert "does not say the largest value of its data" in refused("--ckpt_path", checkpoint, "model.pt2")
    checkpoint = crafted(trained(), datamodule_hyper_parameters={"scaling": ["unit"]})
    assert "has no usable scaling" in refused("--ckpt_path", checkpoint, "model.pt2")
    checkpoint = crafted(trained(), learner="LitOther")
    assert "holds a LitOther" in refused("--ckpt_path", checkpoint, "model.pt2")


@pytest.mark.slow
def test_float64_is_refused_where_onnxruntime_has_none(trained):
    line = refused("--dtype=float64", "--ckpt_path", trained("gelu"), "model.onnx")
    assert line.startswith("dtype must be float32 or auto, got float64: onnxruntime cannot compute all of this network")


@pytest.mark.parametrize(
    ("package", "suffix"), [("onnxscript", ".onnx"), ("onnxruntime", ".onnx"), ("safetensors", FAST)]
)
def test_a_missing_package_is_named_with_its_extra(trained, package, suffix, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    line = refused("--ckpt_path", trained(), f"model{suffix}")
    assert line.startswith(f"{suffix} needs {package}: pip install 'nnlab[export]'")


def test_a_folder_that_cannot_be_written_to(trained, monkeypatch):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "model.safetensors")

    monkeypatch.setattr("nnlab.training.export.write_whole", fail)
    line = refused("--ckpt_path", trained(), "model.safetensors")
    assert line == "model.safetensors cannot be written (Permission denied)"


# The command


def test_export_needs_no_flag_after_a_run(trained):
    folder = Path("runs/LitMLP/version_0/checkpoints")
    folder.mkdir(parents=True)
    shutil.copy(trained(), folder / "last.ckpt")
    shutil.copy(trained(), folder / "best.ckpt")
    ended = nnlab("export", "model.safetensors")
    assert (ended.status, ended.err) == (0, "")
    checkpoint, what, compared, written = ended.lines
    assert checkpoint == "checkpoint: runs/LitMLP/version_0/checkpoints/best.ckpt"
    network = "64-8-10 relu, softmax_cross_entropy"
    assert what == f"{network}: pixels, uint8 (N, 8, 8), from 0 to 16 -> logits (N, 10), float32"
    assert compared.startswith("compared on 1,000 images of digits: largest difference ")
    assert written == "written: model.safetensors and model.safetensors.md"
    assert nnlab("export", "--ckpt_path=last", "model.safetensors").lines[0].endswith("last.ckpt")
