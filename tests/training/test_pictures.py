"""Predictions for pictures, in Python and by the command, and the accuracy that they reach with MNIST."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nnlab.data import load
from nnlab.data.pictures import PictureError, prepare
from nnlab.training import LitMLP, LitPerceptron, predict_pictures, read_checkpoint
from nnlab.training.checkpoints import sign
from nnlab.training.pictures import probabilities
from nnlab.validation import ArgumentError
from tests.pictures import DIGITS, STYLES, draw, paste
from tests.training.runs import CONFIGS, REPOSITORY, SMOKE, Ended, fit, nnlab
from tests.training.test_mnist import MISSING, ROOT

BEST = Path("runs/LitMLP/version_0/checkpoints/best.ckpt")


@pytest.fixture(scope="module")
def smoked(tmp_path_factory) -> Path:
    """A checkpoint of a model of 8 × 8 digits."""
    root = tmp_path_factory.mktemp("smoke")
    fit("--config", SMOKE, f"--trainer.default_root_dir={root}")
    return root / "LitMLP/version_0/checkpoints/best.ckpt"


@pytest.fixture(autouse=True)
def _pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(3, STYLES["pen"]).save("three.png")
    draw(0, STYLES["chalk"]).save("zero.jpg")


def changed(path: Path, **fields: object) -> str:
    """A copy of a checkpoint with other fields."""
    checkpoint = read_checkpoint(path)
    for name, value in fields.items():
        checkpoint[name] = {**checkpoint[name], **value} if isinstance(value, dict) else value
    sign(checkpoint)
    torch.save(checkpoint, "changed.ckpt")
    return "changed.ckpt"


# In Python


@pytest.mark.parametrize("as_is", [False, True])
def test_a_prediction_is_the_models_for_the_prepared_picture(smoked, as_is):
    (found,) = predict_pictures(["three.png"], smoked, as_is=as_is)
    assert found.seen.shape == (8, 8)
    model = LitMLP.load_from_checkpoint(smoked).eval()
    with torch.no_grad():
        outputs = model(torch.tensor(found.seen / 255, dtype=torch.float32)[None])
    assert found.outputs == pytest.approx(outputs[0].tolist(), abs=1e-5)
    p, names = outputs.softmax(1)[0].topk(2)
    assert (found.label, found.runner_up) == tuple(str(k) for k in names.tolist())
    assert (found.probability, found.runner_up_probability) == pytest.approx(p.tolist(), abs=1e-5)
    if not as_is:
        assert found.seen.tolist() == prepare(found.given, 8, 8).tolist()
        assert found.label == "3"


def test_the_scaling_and_the_names_of_the_classes_are_the_checkpoints(smoked):
    names = [f"class {k}" for k in range(10)]
    of_data = {"scaling": "raw", "classes": names}
    path = changed(smoked, datamodule_hyper_parameters=of_data)
    (found,) = predict_pictures(["three.png"], path)
    with torch.no_grad():
        outputs = LitMLP.load_from_checkpoint(path)(torch.tensor(found.seen / 255 * 16).round().float()[None])
    assert found.outputs == pytest.approx(outputs[0].tolist(), abs=1e-4)
    assert found.label == f"class {outputs.argmax()}"


def test_mean_weights_are_used_where_there_are_any():
    fit("--config", SMOKE, "--trainer.max_epochs=3", "--model.average_epochs=2")
    path = BEST.with_name("last.ckpt")
    (found,) = predict_pictures(["three.png"], path)
    with torch.no_grad():
        outputs = LitMLP.load_from_checkpoint(path).eval().logits(torch.tensor(found.seen / 255).float().view(1, -1))
    assert found.outputs == pytest.approx(outputs[0].tolist(), abs=1e-5)


def test_a_perceptron_has_no_probabilities():
    fit("--config", CONFIGS / "perceptron.yaml", "--data.name=digits", "--trainer.max_epochs=2")
    path = Path("runs/LitPerceptron/version_0/checkpoints/best.ckpt")
    (found,) = predict_pictures(["three.png"], path)
    assert found.probability is None
    ended = nnlab("predict", "three.png", "--ckpt_path", path)
    assert f"three.png: {found.label} (output " in ended.lines[0]
    assert "not probabilities, which LitPerceptron does not give" in ended.lines[1]
    model = LitPerceptron.load_from_checkpoint(path)
    scaled = read_checkpoint(path)["datamodule_hyper_parameters"]["scaling"]
    x = torch.tensor(found.seen.astype(np.float64))[None].to(model.bank.weight.dtype)
    x = {"unit": x / 255, "bipolar": x * 2 / 255 - 1, "raw": (x * 16 / 255).round()}[scaled]
    assert found.outputs == pytest.approx(model(x)[0].tolist(), rel=1e-4)


def test_probabilities_by_hand():
    u = torch.tensor([[0.0, torch.log(torch.tensor(3.0)), -1e4]])
    assert probabilities(u, "softmax_cross_entropy").tolist()[0] == pytest.approx([0.25, 0.75, 0])
    assert probabilities(u, "binary_cross_entropy").tolist()[0] == pytest.approx([0.4, 0.6, 0])  # 0.5 and 0.75
    assert probabilities(u, "sum_of_squares") is None
    assert probabilities(u, None) is None


def test_an_error_names_the_picture_or_the_checkpoint(smoked):
    Image.new("L", (90, 90), 255).save("blank.png")
    with pytest.raises(PictureError, match=r"^blank.png shows no digit"):
        predict_pictures(["blank.png"], smoked)
    with pytest.raises(ArgumentError, match="ckpt_path names no file"):
        predict_pictures(["three.png"], "none.ckpt")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hyper_parameters": {"in_features": 63}}, "a model of 63 inputs, which are no square image"),
        ({"hyper_parameters": {"in_features": 10**8}}, "has a network.0.weight of shape"),
        ({"hyper_parameters": {"in_features": "64"}}, "no usable in_features"),
        ({"hyper_parameters": {"hidden": [[]]}}, "no usable hidden"),
        ({"hyper_parameters": {"activation": []}}, "no usable activation"),
        ({"hyper_parameters": {"loss": []}}, "no usable loss"),
        ({"learner": "Other"}, "holds a Other; pictures are for LitMLP and LitPerceptron"),
        ({"state_dict": {"network.0.bias": torch.full((32,), torch.nan)}}, "NaN"),
        ({"datamodule_hyper_parameters": {"scaling": "other"}}, "no usable scaling"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:60],
)
def test_a_checkpoint_that_does_not_fit_is_refused(smoked, fields, words):
    ended = nnlab("predict", "three.png", "--ckpt_path", changed(smoked, **fields))
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert words in ended.err
    assert "(--ckpt_path)" in ended.err


# The command


def test_the_command_prints_a_line_for_each_and_draws_what_the_network_saw(smoked):
    ended = nnlab("predict", "three.png", "--ckpt_path", smoked, "zero.jpg")
    assert (ended.status, ended.err) == (0, "")
    lines = [str(found) for found in predict_pictures(["three.png", "zero.jpg"], smoked)]
    out = "runs/LitMLP/version_0/pictures.png"
    assert ended.lines == [*lines, f"what was given, and what the network saw: {out}"]
    with Image.open(out) as image:
        assert image.width > image.height > 100
    assert not list(Path("runs").rglob("*.ckpt"))


def test_out_names_the_file_and_one_that_fails_does_not_stop_the_others(smoked):
    Image.new("L", (90, 90), 255).save("blank.png")
    ended = nnlab("predict", "blank.png", "three.png", "none.png", f"--ckpt_path={smoked}", "--out", "a/b.png")
    assert ended.status == 2
    assert ended.err.splitlines() == [
        "nnlab predict: error: blank.png shows no digit: its ink must differ clearly from its background",
        "nnlab predict: error: none.png does not exist",
    ]
    assert ended.lines[0].startswith("three.png: 3 (")
    assert Path("a/b.png").is_file()
    assert not Path("runs").exists()


def test_the_checkpoint_is_the_best_of_the_newest_run():
    fit("--config", SMOKE, "--trainer.max_epochs=1")
    for arguments in ([], ["--ckpt_path=best"], ["--ckpt_path", "last"]):
        ended = nnlab("predict", "three.png", *arguments)
        name = "last" if "last" in arguments else "best"
        assert ended.lines[0] == f"checkpoint: {BEST.with_name(name + '.ckpt')}"
        assert ended.status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "mlp"], "--config has no effect on pictures: leave it out"),
        (["--data.root=x"], "--data.root has no effect on pictures: leave it out"),
        (["--out", "sheet.pdf"], "--out must end in .png, got sheet.pdf"),
        (["--ckpt_path", "none.ckpt"], "ckpt_path names no file: none.ckpt (--ckpt_path)"),
        ([], "there is no checkpoint under runs"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(arguments, words):
    ended = nnlab("predict", "three.png", *arguments)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert words in ended.err


def test_as_is_needs_a_picture_and_the_help_begins_with_pictures():
    ended = nnlab("predict", "--as-is")
    assert (ended.status, ended.err) == (2, "nnlab predict: error: the following arguments are required: PICTURE\n")
    for arguments in (["--help"], ["three.png", "--help"]):
        assert nnlab("predict", *arguments).lines[0].startswith("usage: nnlab predict PICTURE ...")


def test_the_command_needs_neither_lightning_nor_matplotlib(smoked):
    code = (
        "import sys; from nnlab.training.pictures import main; status = main(sys.argv[1:])\n"
        "sys.exit(status or str(sorted({'lightning', 'matplotlib', 'torchvision'} & set(sys.modules))))"
    )
    command = [sys.executable, "-c", code, "three.png", "--ckpt_path", str(smoked)]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.stderr == "[]\n"


# With MNIST


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mlp")
    fit("--config", CONFIGS / "mlp.yaml", f"--data.root={ROOT}", f"--trainer.default_root_dir={root}")
    return root / "LitMLP/version_0/checkpoints/best.ckpt"


MNIST = [
    pytest.mark.mnist,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason="MNIST's four files are neither under NNLAB_DATA nor under ./data"),
]


def counted(ended: Ended, targets: dict[str, int]) -> int:
    """How many pictures got the right class."""
    return sum(f"\n{name}: {digit} (" in f"\n{ended.out}" for name, digit in targets.items())


class TestWithMNIST:
    pytestmark = MNIST

    def test_18_of_20_drawn_digits_are_read(self, trained):
        targets = {}
        for k, (digit, style) in enumerate((d, s) for s in range(2) for d in DIGITS for s in [(d + 2 * s) % 5]):
            name = f"{k:02}.png"
            draw(digit, list(STYLES.values())[style], seed=1).save(name)
            targets[name] = digit
        assert counted(nnlab("predict", *targets, "--ckpt_path", trained), targets) >= 18

    def test_95_percent_of_test_digits_in_photographs_are_read(self, trained):
        images, labels = load("mnist", str(ROOT), splits=["test"])["test"]
        targets = {}
        for k in range(200):
            paste(images[k].numpy(), np.random.default_rng(k)).save(f"{k}.jpg", quality=85)
            targets[f"{k}.jpg"] = int(labels[k])
        right = counted(nnlab("predict", *targets, "--ckpt_path", trained), targets)
        whole = counted(nnlab("predict", *targets, "--as-is", "--ckpt_path", trained), targets)
        assert right >= 190
        assert whole < 100  # without the preparation
