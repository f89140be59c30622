"""What a CUDA device asks of the package besides the engine: data stay there, the host seldom waits, memory is spared.

Counted on the pretended device.
"""

import functools
import types
from typing import Any

import numpy as np
import pytest
import torch

from nnlab.data import ResidentLoader
from nnlab.estimators import Adaline, NeuralNetMLP, NeuralNetRegressor, Perceptron
from nnlab.networks import MLP, PerceptronBank
from nnlab.training import KeepOnInterrupt, LitMLP
from tests.training.runs import digits, fit, trainer

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda", 0)


@pytest.fixture
def blobs():
    rng = np.random.RandomState(0)
    y = np.arange(240) % 3
    return (rng.normal(size=(240, 50)) + 2 * y[:, None]).astype(np.float32), y


# ---- the mere presence of a GPU -------------------------------------------------------------------------------------


def test_a_trainer_on_the_cpu_does_not_warn_of_the_gpu(tmp_path):
    trainer(torch.device("cpu"), tmp_path).fit(LitMLP(in_features=64), digits(40, 20))


def test_the_command_on_the_cpu_does_not_warn_of_the_gpu(tmp_path):
    assert (
        "not used"
        not in fit(
            "--config=smoke",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
            f"--trainer.default_root_dir={tmp_path}",
        ).out
    )


# ---- estimators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NeuralNetMLP, NeuralNetRegressor, Perceptron, Adaline])
def test_samples_on_cuda_do_not_pass_through_the_host(pretended, blobs, kind):
    X, y = (torch.from_numpy(array).to(CUDA) for array in blobs)
    few = {"n_iter": 2} if kind in (Perceptron, Adaline) else {"epochs": 1}
    with pretended.watch() as seen:
        model = kind(**few).fit(X, y)
        model.predict(X)
    times = 1.5 if kind is Perceptron else 0.5  # which learns on the CPU, as there is no Triton on a pretended device
    assert max(seen.copied.values()) < times * X.nbytes
    assert model.n_features_in_ == 50


def spoil(X, at, value):
    X = X.copy()
    X[at] = value
    return X


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X[0],
        lambda X: X[:, :0],
        lambda X: X[:0],
        lambda X: X[None],
        lambda X: spoil(X, (3, 2), np.nan),
        lambda X: spoil(X, (3, 2), -np.inf),
        lambda X: X + 1j,
    ],
    ids=["1-d", "no features", "no samples", "3-d", "nan", "inf", "complex"],
)
def test_samples_that_scikit_learn_refuses_are_refused_in_its_words(blobs, change):
    X, y = blobs
    for fault in (
        lambda model, X: model.fit(X, y),
        lambda model, X: model.fit(torch.from_numpy(blobs[0]), y).predict(X),
    ):
        texts = []
        for place in (torch.device("cpu"), CUDA):
            with pytest.raises(ValueError, match=r".") as caught:
                fault(NeuralNetMLP(epochs=1), torch.from_numpy(change(X)).to(place))
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


def test_another_width_and_another_number_of_labels_are_refused_on_cuda(blobs):
    X, y = torch.from_numpy(blobs[0]).to(CUDA), blobs[1]
    model = NeuralNetMLP(epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="X has 49 features, but NeuralNetMLP is expecting 50 features"):
        model.predict(X[:, :49])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X[:-1], y)


def test_other_dtypes_become_float64_on_cuda(blobs):
    X, y = torch.from_numpy((10 * blobs[0]).astype(np.int64)), blobs[1]
    there = NeuralNetMLP(epochs=1, seed=0).fit(X.to(CUDA), y)
    assert there.coefs_[0].dtype == torch.float64
    here = NeuralNetMLP(epochs=1, seed=0).fit(X.double(), y)
    torch.testing.assert_close(there.coefs_[0].cpu(), here.coefs_[0])


@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        (NeuralNetMLP, {"minibatch_size": 20, "l2": 0.1}, 3),  # the order, the engine, the figures
        (NeuralNetMLP, {"minibatch_size": 20, "n_hidden": (9, 8), "dropout": 0.2, "optimizer": "adam"}, 5),  # two masks
        (NeuralNetMLP, {"minibatch_size": 20, "class_weight": "balanced", "early_stopping": True}, 3),
        (NeuralNetRegressor, {"minibatch_size": 20, "eta": 1e-4}, 3),
    ],
    ids=["l2", "dropout, adam", "weighted, early stopping", "regressor"],
)
def test_an_epoch_of_a_network_waits_for_the_device_at_most_so_often(pretended, blobs, kind, options, most):
    X, y = (torch.from_numpy(array).to(CUDA) for array in blobs)
    valid = (X[:30], y[:30]) if options.get("early_stopping") else (None, None)
    waits = []
    for epochs in (3, 5):
        with pretended.watch() as seen:
            kind(epochs=epochs, seed=1, **options).fit(X, y, *valid)
        waits.append(seen.syncs)
    more = waits[1] - waits[0]
    assert more.total() <= 2 * most, more


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_a_loader_copies_the_samples_only_for_an_epoch_of_mini_batches(pretended):
    images, labels = torch.zeros(100, 784, device=CUDA), torch.zeros(100, dtype=torch.int64, device=CUDA)
    before = torch.cuda.memory_allocated()
    next(iter(ResidentLoader(images, labels, 10, shuffle=True, chunk=2)))
    assert torch.cuda.memory_allocated() - before < images.nbytes / 2
    loader = ResidentLoader(images, labels, 10, shuffle=True)
    for _ in range(2):
        assert sum(len(x) for x, _ in loader) == 100
    assert torch.cuda.memory_allocated() - before < 1.5 * images.nbytes


# ---- torch.set_default_device ---------------------------------------------------------------------------------------


@pytest.fixture
def default_cuda():
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


def test_networks_are_made_on_the_default_device(default_cuda):
    for generator in (None, torch.Generator(), torch.Generator("cuda")):
        network = MLP([4, 3, 2], generator=generator)
        assert {p.device for p in network.parameters()} == {CUDA}
        assert network(torch.zeros(5, 4)).device == CUDA
        assert network.to_sequential()(torch.zeros(5, 4)).device == CUDA
    assert {p.device for p in MLP([4, 3, 2], device="cpu").parameters()} == {torch.device("cpu")}
    bank = PerceptronBank(4, 2)
    bank.learn_(torch.ones(3, 4), torch.tensor([0, 1, 0]), 0.5)
    assert bank.averaged()[0].device == CUDA


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_loader_of_either_device_yields_the_same_order(default_cuda, place, shuffle):
    def loader_on(place: str, **options: Any) -> ResidentLoader:
        x, labels = torch.zeros(7, 2, device=place), torch.arange(7, device=place)
        return ResidentLoader(x, labels, 3, shuffle=shuffle, seed=1, **options)

    loader = loader_on(place)
    state = loader.state_dict()
    assert {value.device.type for value in state.values() if isinstance(value, torch.Tensor)} == {"cpu"}
    seen = torch.cat([labels for _, labels in loader])
    assert seen.device.type == place
    loader = loader_on(place, chunk=3)
    loader.load_state_dict(state)
    (order,) = next(iter(loader))
    assert order.tolist() == seen.tolist()
    assert order.device.type == place
    torch.set_default_device(None)
    assert torch.cat([labels for _, labels in loader_on("cpu")]).tolist() == seen.tolist()


@pytest.mark.parametrize("place", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "model",
    [
        NeuralNetMLP(epochs=2, seed=1, minibatch_size=60, dropout=0.1),
        NeuralNetMLP(
            epochs=2, seed=1, minibatch_size=60, optimizer="adam", loss="softmax_cross_entropy", class_weight="balanced"
        ),
        NeuralNetRegressor(epochs=2, seed=1, minibatch_size=60, eta=1e-4),
        Perceptron(n_iter=2, average=True),
        Adaline(n_iter=2),
    ],
    ids=["mlp", "mlp, adam", "regressor", "perceptron", "adaline"],
)
def test_an_estimator_learns_where_it_is_told_to(default_cuda, blobs, model, place):
    X, y = blobs
    for samples in (X, torch.from_numpy(X).to(place)):
        fitted = model.set_params(device="cpu" if samples is not X else place).fit(samples, y)
        predicted = fitted.predict(samples)
        assert isinstance(predicted, np.ndarray) if samples is X else predicted.device.type == place
        assert fitted.score(samples, y) is not None


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_lightning_run_trains_where_it_is_told_to(default_cuda, tmp_path, place):
    model = LitMLP(hidden=[5], in_features=64, l2=0.1)
    run = trainer(torch.device(place), tmp_path, max_epochs=2)
    run.fit(model, digits(60, 20))
    run.test(model, digits(60, 20), verbose=False)
    assert run.callback_metrics["test_loss"].isfinite()


# ---- several processes ----------------------------------------------------------------------------------------------


def test_a_mini_batch_of_several_processes_needs_no_question_to_the_others():
    loader = ResidentLoader(torch.zeros(25, 2), torch.zeros(25, dtype=torch.int64), 5, shuffle=False, world_size=2)
    assert [loader.samples_in(k) for k in range(len(loader))] == [10, 10, 5]
    model = LitMLP(hidden=[3], in_features=2)
    asked = functools.partial(pytest.fail, "the other processes were asked")
    model._trainer = types.SimpleNamespace(
        world_size=2,
        accumulate_grad_batches=1,
        num_training_batches=3,
        train_dataloader=loader,
        strategy=types.SimpleNamespace(reduce=lambda *_, **__: asked()),
    )
    assert [model._factors(n, k)[0] for k, n in enumerate((5, 5, 3))] == [1.0, 1.0, 3 * 2 / 5]


def test_an_interrupt_is_asked_of_several_processes_every_20_steps():
    asked = []
    run = types.SimpleNamespace(
        world_size=2,
        accumulate_grad_batches=1,
        is_last_batch=False,
        global_step=0,
        strategy=types.SimpleNamespace(
            root_device=torch.device("cpu"), reduce=lambda own, reduce_op: asked.append(run.global_step) or own
        ),
    )
    callback = KeepOnInterrupt()
    for k in range(50):
        run.global_step, run.is_last_batch = k + 1, k == 49
        callback.on_train_batch_end(run, None, None, None, k)
    assert asked == [20, 40]
    callback.on_train_epoch_end(run, None)  # after the validation of the last step's epoch
    assert asked == [20, 40, 50]
