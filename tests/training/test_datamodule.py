"""MNISTDataModule: the chapter's split and scalings, only the stage's own tensors, and no training on a bad file."""

from functools import partial

import pytest
import torch

from nnlab.data import SPECS, DataError, Distortion, load
from nnlab.training import LitMLP, LitPerceptron, MNISTDataModule, datamodule
from nnlab.validation import ArgumentError
from tests.tolerances import assert_close
from tests.training.runs import digits, small_data_set, state, trainer

FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def ready(stage: str = "fit", **options: object) -> MNISTDataModule:
    data = MNISTDataModule(**options)
    data.prepare_data()
    data.setup(stage)
    return data


@pytest.mark.parametrize(
    ("name", "n_train", "n_val"), [("mnist", 55_000, 5_000), ("fashion_mnist", 55_000, 5_000), ("digits", 1318, 119)]
)
def test_by_default_one_twelfth_is_for_validation(name, n_train, n_val):
    assert MNISTDataModule(name).val_size == n_val
    assert SPECS[name].n_train - n_val == n_train


@pytest.mark.parametrize("val_size", [None, 1, 300])
def test_the_last_training_images_are_for_validation_and_the_others_are_trained_on_once_each(val_size):
    data = ready(name="digits", batch_size=50, val_size=val_size)
    n_val = 119 if val_size is None else val_size
    images, labels = load("digits")["train"]
    x = images.flatten(1) / 16
    validation = [torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True)]
    torch.testing.assert_close(validation, [x[-n_val:], labels[-n_val:]], rtol=0, atol=0)
    epoch = [(a.clone(), b.clone()) for a, b in data.train_dataloader()]
    assert {len(a) for a, _ in epoch[:-1]} == {50}
    seen = torch.cat([torch.cat((a, b[:, None]), 1) for a, b in epoch])
    expected = torch.cat((x, labels[:, None]), 1)[:-n_val]
    assert sorted(seen.tolist()) == sorted(expected.tolist())
    assert seen.tolist() != expected.tolist()  # in another order


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_val_size_0_trains_on_all_and_validates_on_nothing(device, tmp_path):
    data = ready(name="digits", val_size=0)
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 1437
    assert data.val_dataloader() == []
    run = trainer(device, tmp_path)
    run.fit(LitMLP(in_features=64, engine="off"), data)
    assert run.global_step == 15
    assert "val_loss" not in run.callback_metrics


@pytest.mark.parametrize(
    ("scaling", "values"), [("unit", [0.0, 0.5, 1.0]), ("bipolar", [-1.0, 0.0, 1.0]), ("raw", [0.0, 8.0, 16.0])]
)
def test_pixels_are_scaled(scaling, values):
    data = ready(name="digits", scaling=scaling)
    raw = load("digits")["train"].images[-119:].flatten(1)
    ((x, _),) = data.val_dataloader()
    for pixel, value in zip((0, 8, 16), values, strict=True):
        assert x[raw == pixel].unique().tolist() == [value]
    assert x.dtype == torch.float32


def test_255_is_the_largest_pixel_of_mnist(monkeypatch, tmp_path):
    small_data_set(monkeypatch, "mnist", tmp_path)
    x = torch.cat([x for x, _ in ready(root=str(tmp_path), val_size=0).train_dataloader()])
    torch.testing.assert_close((x * 255).round().sum(), load("mnist", tmp_path)["train"].images.float().sum())
    assert (x.min(), x.max()) == (0, 1)


def test_a_stage_builds_its_own_tensors_alone(device, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(datamodule, "load", lambda *a, splits: built.append(splits) or load(*a, splits=splits))
    model, data, run = LitPerceptron(in_features=64), digits(100, 50), trainer(device, tmp_path)
    run.fit(model, data)
    assert built == [["train"]]
    run.validate(model, data, verbose=False)
    assert built == [["train"]]  # which are those of training
    fresh = digits(100, 50)
    run.test(model, fresh, verbose=False)
    run.predict(model, fresh)
    assert built == [["train"], ["test"]]


def test_tensors_are_on_the_training_device_and_are_not_copied_per_batch(device, tmp_path):
    data = digits(100, 50)
    trainer(device, tmp_path).fit(LitPerceptron(in_features=64, engine="off"), data)
    first, second = (x for x, _ in data.train_dataloader())
    assert first.device.type == device.type
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


@pytest.mark.parametrize(("file", "stage"), list(zip(FILES, ["fit", "test"] * 2, strict=True)))
def test_every_file_is_checked_before_every_stage(monkeypatch, tmp_path, file, stage):
    folder = small_data_set(monkeypatch, "mnist", tmp_path)
    data = ready(stage, root=str(tmp_path))
    raw = bytearray((folder / file).read_bytes())
    raw[-1] ^= 1
    (folder / file).write_bytes(raw)
    with pytest.raises(DataError, match=rf"{file}: found the SHA-256 .* remove it or put the right file there"):
        data.prepare_data()
    with pytest.raises(DataError, match=f"{file}: found the SHA-256"):
        MNISTDataModule(root=str(tmp_path)).setup(stage)


def test_root_wins_over_nnlab_data_which_wins_over_the_working_directory(monkeypatch, tmp_path):
    small_data_set(monkeypatch, "kmnist", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    ready(name="kmnist")  # data/ in the working directory
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        MNISTDataModule("kmnist").setup("fit")
    ready(name="kmnist", root=str(tmp_path / "data"))
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path / "data"))
    monkeypatch.chdir("/")
    ready(name="kmnist")
    with pytest.raises(DataError, match="nowhere"):
        MNISTDataModule("kmnist", root=str(tmp_path / "nowhere")).setup("fit")


def test_the_order_follows_the_seed(monkeypatch):
    def order(**options: object) -> list[int]:
        return torch.cat([labels for _, labels in ready(name="digits", **options).train_dataloader()]).tolist()

    assert order(seed=1) == order(seed=1) != order(seed=2)
    torch.manual_seed(1)
    assert order() == order(seed=1)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"name": "cifar"}, "name"),
        ({"scaling": "log"}, "scaling"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"val_size": -1}, "val_size"),
        ({"name": "digits", "val_size": 1437}, "val_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_argument_is_named(options, argument):
    with pytest.raises(ArgumentError) as caught:
        MNISTDataModule(**options)
    assert caught.value.argument == argument


# Distortions

MILD = Distortion(rotation=5, scale=0.05, shear=0.05, shift=0.5, elastic=0.3)


def test_the_images_of_each_epoch_are_distorted_anew_and_those_of_validation_never():
    data, plain = digits(40, 8, distort=MILD), digits(40, 8)
    for module in (data, plain):
        module.prepare_data()
        module.setup("fit")
    pixels = (load("digits", splits=["train"])["train"][0][:40] * (255 / 16)).round().to(torch.uint8).flatten(1)
    for epoch in (0, 1):
        found = torch.cat([x.clone() for x, _ in data.train_dataloader()])
        expected = MILD(pixels, seed=3, epoch=epoch).float() / 255
        assert torch.equal(found.sort(0).values, expected.sort(0).values)
    for ours, theirs in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_distorted_images_are_held_as_bytes_alone(monkeypatch):
    scaled, to = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *given, **named: scaled.append((len(x), given)) or to(x, *given))
    data = digits(40, 8, distort=MILD)
    data.prepare_data()
    data.setup("fit")
    assert [n for n, (kind, *_) in scaled if kind == torch.get_default_dtype()] == [data.val_size]


@pytest.mark.parametrize("make", [partial(LitMLP, hidden=[8]), LitPerceptron], ids=["MLP", "perceptron"])
@pytest.mark.parametrize("scaling", ["unit", "bipolar", "raw"])
def test_the_engine_trains_on_the_same_distorted_images(tmp_path, make, scaling):
    found = []
    for engine in ("on", "off"):
        torch.manual_seed(0)
        model = make(in_features=64, engine=engine)
        run = trainer(torch.device("cpu"), tmp_path, max_epochs=3, precision="64-true")
        run.fit(model, digits(60, 20, distort=MILD, scaling=scaling))
        found.append(state(model))
    for ours, theirs in zip(found[0].values(), found[1].values(), strict=True):
        assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("make", [LitMLP, LitPerceptron])
def test_a_prediction_is_the_mean_over_distorted_copies(tmp_path, monkeypatch, make):
    monkeypatch.setattr("nnlab.training.datamodule.EVALUATION_BATCH", 200)  # two batches
    torch.manual_seed(3)
    model, data = make(in_features=64), digits(40, 8, distort=MILD, copies=3)
    run = trainer(torch.device("cpu"), tmp_path)
    run.fit(model, data)
    run.test(model, data, verbose=False)
    found = run.callback_metrics["test_acc"].item()
    predicted = torch.cat(run.predict(model, data))
    plain = digits(40, 8)
    plain.setup("test")
    images, labels = (torch.cat(parts) for parts in zip(*plain.test_dataloader(), strict=True))
    pixels = (images * 255).round().to(torch.uint8)
    copies = [MILD(pixels, seed=3, epoch=number).float() / 255 for number in range(3)]
    with torch.no_grad():
        outputs = torch.stack([model(x) for x in (images, *copies)])
    assert not torch.equal(outputs[0].argmax(1), outputs.mean(0).argmax(1))  # it matters
    assert torch.equal(predicted, outputs.mean(0).argmax(1))
    assert found == pytest.approx((predicted == labels).double().mean().item(), abs=1e-7)


def test_copies_without_distortions_are_refused():
    with pytest.raises(ArgumentError, match="copies need the limits of their distortions, got 3 and distort = off"):
        digits(40, 8, copies=3)


@pytest.mark.parametrize(("given", "kept"), [("on", Distortion()), (True, Distortion()), ("off", None), (False, None)])
def test_distortions_are_on_or_off(given, kept):
    """YAML reads on and off as true and false."""
    assert digits(40, 8, distort=given).distort == kept
    with pytest.raises(ArgumentError, match="distort must be one of 'on', 'off', True, False, got 'maybe'"):
        digits(40, 8, distort="maybe")
