"""The displays: their numbers, what they draw, and their refusals."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnlab import NeuralNetMLP
from nnlab.data import Distortion
from nnlab.displays import (
    ActivationDisplay,
    DecisionRegionsDisplay,
    DistortedDigitsDisplay,
    ErrorsPerEpochDisplay,
    TrainingCurvesDisplay,
    WeightTilesDisplay,
    WrongDigitsDisplay,
    save_picture,
)
from nnlab.ops import ACTIVATIONS
from nnlab.validation import ArgumentError

RNG = np.random.default_rng(0)
CORNERS = np.array([[0.0, 0.0], [0.0, 1.0], [4.0, 4.0], [4.0, 5.0]])


class Threshold:
    """As bare as the chapter's own class: predicts the higher of two labels where the first feature is above 2."""

    def __init__(self, labels: Any = (0, 1), with_classes: bool = True) -> None:
        self.labels = np.asarray(labels)
        if with_classes:
            self.classes_ = self.labels

    def predict(self, X: Any) -> Any:
        return self.labels[(np.asarray(X)[:, 0] > 2).astype(int)]


def lines(ax: Axes) -> dict[str, Any]:
    return {line.get_label(): line for line in ax.lines}


def texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [t.get_text() for t in legend.get_texts()]


DRAWN = {
    "samples": lambda ax: DecisionRegionsDisplay.from_samples(CORNERS, [0, 0, 1, 1], ax=ax),
    "regions": lambda ax: DecisionRegionsDisplay.from_estimator(Threshold(), CORNERS, [0, 0, 1, 1], ax=ax),
    "errors": lambda ax: ErrorsPerEpochDisplay.from_estimator(SimpleNamespace(errors_=[2, 1, 0]), ax=ax),
    "curves": lambda ax: TrainingCurvesDisplay.from_eval({"cost": [3.0, 2.0]}, ax=ax),
    "activation": lambda ax: ActivationDisplay.from_name("tanh", ax=ax),
    "wrong": lambda ax: WrongDigitsDisplay.from_predictions(np.zeros((3, 2, 2)), [1, 2, 3], [1, 0, 0], ax=ax),
    "distorted": lambda ax: DistortedDigitsDisplay.from_images(np.zeros((2, 8, 8), np.uint8), n_distortions=2, ax=ax),
    "tiles": lambda ax: WeightTilesDisplay.from_weights(np.eye(4), ax=ax),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_display_draws_into_given_axes_or_a_new_figure(name: str, tmp_path: Path) -> None:
    figure, settings = Figure(), rcParams.copy()
    ax = figure.subfigures(1, 2)[1].subplots()
    display = DRAWN[name](ax)
    assert display.figure_ is figure
    assert np.ravel(display.ax_)[0] is ax
    assert ax.get_title()
    assert ax.title.get_fontsize() == 11
    assert display.plot() is display
    assert display.figure_ is not figure
    assert rcParams == settings  # the style stays within the picture
    path = save_picture(display, tmp_path / "new" / "folder" / f"{name}.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    from matplotlib import pyplot as plt

    assert not plt.get_fignums()  # saved and let go


@pytest.mark.parametrize("labels", [(0, 1), (-1, 1), ("no", "yes")])
@pytest.mark.parametrize("with_classes", [True, False])
def test_regions_hold_the_predictions(labels: tuple, with_classes: bool) -> None:
    y = np.array([labels[0], labels[1], labels[1], labels[1]])
    display = DecisionRegionsDisplay.from_estimator(Threshold(labels, with_classes), CORNERS, y, grid_resolution=50)
    assert display.response.shape == display.xx0.shape == (50, 50)
    np.testing.assert_array_equal(display.response, display.xx0 > 2)  # the index of the class
    assert display.wrong.tolist() == [False, True, False, False]
    assert display.ax_.get_title() == "1 of 4 samples misclassified"
    assert display.xx0.min() == -0.5
    assert display.xx1.max() == 5.5
    assert texts(display.ax_) == [str(labels[0]), str(labels[1]), "misclassified (1)"]
    np.testing.assert_array_equal(display.ax_.collections[-1].get_offsets(), CORNERS[1:2])  # the ring


def test_regions_of_three_classes_through_a_pipeline_and_names() -> None:
    X = np.vstack([RNG.normal(c, 0.1, (20, 2)) for c in ((0, 0), (3, 0), (0, 3))])
    y = np.repeat(["a", "b", "c"], 20)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    display = DecisionRegionsDisplay.from_estimator(
        model, X, y, feature_names=["width [cm]", "height [cm]"], class_names=["A", "B", "C"]
    )
    assert set(np.unique(display.response)) == {0, 1, 2}
    assert not display.wrong.any()
    assert texts(display.ax_) == ["A", "B", "C"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("width [cm]", "height [cm]")


def test_regions_take_tensors_and_a_class_that_no_sample_has() -> None:
    estimator = Threshold()
    display = DecisionRegionsDisplay.from_estimator(estimator, torch.from_numpy(CORNERS[:2]), torch.tensor([0, 0]))
    assert display.classes.tolist() == [0, 1]
    assert not display.wrong.any()


def test_regions_of_an_unfitted_estimator_are_refused() -> None:
    with pytest.raises(NotFittedError):
        DecisionRegionsDisplay.from_estimator(LogisticRegression(), CORNERS, [0, 0, 1, 1])


def test_errors_per_epoch() -> None:
    display = ErrorsPerEpochDisplay.from_estimator(SimpleNamespace(errors_=[1, 3, 3, 2, 1, 0]))
    (line,) = display.ax_.lines
    assert display.errors.tolist() == line.get_ydata().tolist() == [1, 3, 3, 2, 1, 0]
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert (display.ax_.get_title(), display.ax_.get_xlabel()) == ("Updates in each epoch", "epoch")
    assert display.ax_.get_xticks().tolist() == [1, 2, 3, 4, 5, 6]
    assert display.ax_.get_ylim()[0] < 0  # a marker at 0 is seen whole


def test_training_curves() -> None:
    eval_ = {"cost": [9.0, 5.0, 4.0], "train_acc": [0.5, 0.75, 1.0], "valid_acc": [0.4, 0.5, 0.5]}
    display = TrainingCurvesDisplay.from_estimator(SimpleNamespace(eval_=eval_))
    cost, accuracy = display.ax_
    assert cost.lines[0].get_ydata().tolist() == display.cost.tolist() == eval_["cost"]
    assert accuracy.lines[0].get_ydata().tolist() == [50, 75, 100]
    assert accuracy.lines[1].get_ydata().tolist() == [40, 50, 50]
    assert texts(accuracy) == [
        "training: 100.00% at the end",
        "validation: 50.00% at the end",
        "best: 50.00% in epoch 2",  # the first of equals
    ]
    assert (cost.get_ylabel(), accuracy.get_ylabel()) == ("cost, summed over the samples", "accuracy [%]")
    assert cost.get_xticks().tolist() == [1, 2, 3]


def test_costs_per_sample_share_a_panel_and_the_best_epoch_is_ringed() -> None:
    X, y = RNG.normal(size=(60, 4)), np.arange(60) % 3
    network = NeuralNetMLP(3, l2=0.1, epochs=4, minibatch_size=10, seed=1).fit(X[:50], y[:50], X[50:], y[50:])
    display = TrainingCurvesDisplay.from_estimator(network)
    assert display.panels == ["cost", "accuracy"]
    cost, penalty = display.ax_[0], 2 * (np.array(network.eval_["cost"]) - network.eval_["loss"])
    train, valid, ring = cost.lines
    np.testing.assert_allclose(train.get_ydata(), (network.eval_["cost"] - penalty) / 50, rtol=1e-12)
    np.testing.assert_allclose(valid.get_ydata(), (network.eval_["valid_cost"] - penalty) / 10, rtol=1e-12)
    best = int(np.argmin(valid.get_ydata()))
    assert (ring.get_xdata(), ring.get_ydata()) == ([best + 1], [valid.get_ydata()[best]])
    assert (cost.get_title(), cost.get_ylabel()) == ("Cost per sample", "cost per sample")


def test_epochs_that_were_not_measured_are_left_out() -> None:
    display = TrainingCurvesDisplay(updates=[9, 4, 2], valid_acc=[np.nan, 0.5, np.nan], epochs=[7, 8, 9]).plot()
    accuracy, updates = display.ax_
    assert (accuracy.lines[0].get_xdata().tolist(), accuracy.lines[0].get_ydata().tolist()) == ([8], [50])
    assert texts(accuracy) == ["validation: 50.00% at the end", "best: 50.00% in epoch 8"]
    assert updates.lines[0].get_xdata().tolist() == updates.get_xticks().tolist() == [7, 8, 9]
    assert texts(updates) == ["training: 2 at the end"]


@pytest.mark.parametrize(("cost", "scale"), [([2.0, 1.0, 0.1], "log"), ([2.0, 1.0, 0.3], "linear"), ([2, 0], "linear")])
def test_a_cost_that_falls_far_has_a_logarithmic_axis(cost: list, scale: str) -> None:
    assert TrainingCurvesDisplay(cost=cost, train_acc=cost).plot().ax_[0].get_yscale() == scale
    assert TrainingCurvesDisplay(cost=cost, train_acc=cost).plot().ax_[1].get_yscale() == "linear"


def test_many_epochs_have_no_markers() -> None:
    display = ErrorsPerEpochDisplay(errors=np.arange(200)).plot()
    assert display.ax_.lines[0].get_marker() == "None"
    assert display.ax_.get_xticks().tolist() == [1, *range(20, 201, 20)]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_is_nnlabs(name: str) -> None:
    display = ActivationDisplay.from_name(name, limit=3, n_points=7)
    u = torch.tensor([-3.0, -2, -1, 0, 1, 2, 3], dtype=torch.float64, requires_grad=True)
    z = 1 * ACTIVATIONS[name].module()(u)  # torch's own
    (slope,) = torch.autograd.grad(z.sum(), u)  # elementwise, so the sum hides nothing
    np.testing.assert_allclose(display.u, u.detach())
    np.testing.assert_allclose(display.z, z.detach(), rtol=1e-14)
    np.testing.assert_allclose(display.slope, slope, rtol=1e-14, atol=1e-16)
    drawn = lines(display.ax_)
    assert drawn["$h(u)$"].get_ydata().tolist() == display.z.tolist()
    assert drawn["$h'(u)$"].get_ydata().tolist() == display.slope.tolist()


def test_wrong_digits() -> None:
    images, target = RNG.random((40, 64)), np.arange(40) % 10
    predicted = target.copy()
    predicted[[3, 17, 30]] = [9, 9, 1]
    estimator = SimpleNamespace(predict=lambda X: predicted)
    display = WrongDigitsDisplay.from_estimator(estimator, images, target, n_images=2)
    np.testing.assert_array_equal(display.images, images[[3, 17]].reshape(2, 8, 8))
    assert (display.target.tolist(), display.predicted.tolist()) == ([3, 7], [9, 9])
    assert display.ax_.get_title() == "3 of 40 wrong (7.50%); the first 2: target → prediction"
    assert [t.get_text() for t in display.ax_.texts] == ["3 → ", "9", "7 → ", "9"]
    drawn = [np.asarray(i.get_array()) for i in display.ax_.images]
    np.testing.assert_array_equal(drawn, display.images)


def test_no_wrong_digits_is_a_picture_too() -> None:
    display = WrongDigitsDisplay.from_predictions(torch.zeros(4, 2, 2), [1, 2, 3, 4], torch.tensor([1, 2, 3, 4]))
    assert display.ax_.get_title().startswith("0 of 4 wrong (0.00%)")
    display.figure_.canvas.draw()


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_distorted_digits(kind: Any, flat: bool) -> None:
    images = RNG.integers(0, 256, (3, 8, 8), np.uint8)
    distortion = Distortion(30, 0, 0, 1, 1)
    given = kind(images.reshape(3, 64) if flat else images)
    display = DistortedDigitsDisplay.from_images(given, distortion, seed=5, n_distortions=4)
    np.testing.assert_array_equal(display.images, images)
    for epoch in range(4):
        expected = distortion(torch.from_numpy(images), seed=5, epoch=epoch)
        np.testing.assert_array_equal(display.distorted[:, epoch], expected)
    drawn = [np.asarray(i.get_array()) for i in display.ax_.images]
    columns = [display.images, *display.distorted.swapaxes(0, 1)]
    np.testing.assert_array_equal(drawn, np.concatenate(columns))
    assert all(i.get_clim() == (0, 255) for i in display.ax_.images)  # a pale image stays pale
    assert [t.get_text() for t in display.ax_.texts] == ["image", "epoch 0", "epoch 1", "epoch 2", "epoch 3"]
    assert display.ax_.get_title() == "3 images, distorted anew in each epoch"


def test_weight_tiles() -> None:
    weights = RNG.normal(size=(6, 5))  # 6 pixels, 5 units
    for estimator in (
        SimpleNamespace(w_h=torch.from_numpy(weights)),
        SimpleNamespace(coefs_=[weights, None]),
        SimpleNamespace(coef_=weights.T),
    ):
        display = WeightTilesDisplay.from_estimator(estimator, shape=(2, 3))
        np.testing.assert_array_equal(display.tiles, weights.T.reshape(5, 2, 3))
        image = display.ax_.images[0]
        assert image.get_clim() == (-display.limit, display.limit)
        assert 0 < display.limit <= np.abs(weights).max()
        drawn = np.asarray(image.get_array().filled(np.nan))
        np.testing.assert_array_equal(drawn[:2, :3], display.tiles[0])
        np.testing.assert_array_equal(drawn[:2, 4:7], display.tiles[1])
        np.testing.assert_array_equal(drawn[3:, :3], display.tiles[3])


def test_weights_of_zero_are_white() -> None:
    assert WeightTilesDisplay.from_weights(np.zeros((4, 2))).limit == 1


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: DecisionRegionsDisplay(X=np.zeros((3, 3)), y=[0, 1, 0]), "X must have two features, got 3"),
        (lambda: DecisionRegionsDisplay(X=np.zeros(3), y=[0, 1, 0]), "X must have 2 dimensions"),
        (lambda: DecisionRegionsDisplay(X=CORNERS, y=[0, 1]), "y must have a label for each of the 4 samples, got 2"),
        (lambda: DecisionRegionsDisplay(X=np.zeros((11, 2)), y=range(11)), "y must have 10 classes at most, got 11"),
        (
            lambda: DecisionRegionsDisplay.from_estimator(Threshold(), CORNERS, [0, 0, 1, 7]),
            "y must have the labels 0, 1, got 7",
        ),
        (
            lambda: DecisionRegionsDisplay.from_estimator(Threshold(np.eye(2), False), CORNERS, [0, 0, 1, 1]),
            "estimator must predict one label for each sample, got the shape (4, 2)",
        ),
        (
            lambda: DecisionRegionsDisplay.from_estimator(Threshold([0.25, 0.75], False), CORNERS, [0, 0, 1, 1]),
            "estimator must predict the labels 0, 1, got 0.25",
        ),
        (
            lambda: DecisionRegionsDisplay.from_estimator(Threshold(["0", "1"], False), CORNERS, [0, 0, 1, 1]),
            "estimator must predict the labels 0, 1, got '0'",
        ),
        (
            lambda: DecisionRegionsDisplay(X=CORNERS, y=[0, 1, 0, 1], class_names=["a"]),
            "class_names must be 2 names, got 1",
        ),
        (
            lambda: DecisionRegionsDisplay(X=CORNERS, y=[0, 1, 0, 1], feature_names=["a"]),
            "feature_names must be two names, got 1",
        ),
        (lambda: ErrorsPerEpochDisplay(errors=[]), "errors must have at least one epoch"),
        (
            lambda: ErrorsPerEpochDisplay.from_estimator(SimpleNamespace()),
            "estimator must be fitted and have errors_, got SimpleNamespace",
        ),
        (lambda: TrainingCurvesDisplay.from_eval({"loss": [1]}), "eval_ must have the key 'cost', got"),
        (
            lambda: TrainingCurvesDisplay.from_eval({"cost": [2.0], "valid_cost": [1.0]}),
            "eval_ must have 'cost_per_sample' and 'valid_cost_per_sample' to draw 'valid_cost'",
        ),
        (lambda: TrainingCurvesDisplay(cost=[]), "cost must have at least one epoch"),
        (TrainingCurvesDisplay, "cost must be given, or another series, got none"),
        (lambda: TrainingCurvesDisplay(updates=[3], epochs=[1, 2]), "epochs must have the 1 epochs of updates, got 2"),
        (lambda: TrainingCurvesDisplay(cost=[1, 2], train_acc=[1]), "train_acc must have the 2 epochs of cost, got 1"),
        (
            lambda: TrainingCurvesDisplay(cost=[1], train_acc=[1]).plot(Figure().subplots()),
            "ax must be 2 axes, for cost, accuracy; got 1",
        ),
        (lambda: ActivationDisplay.from_name("swish"), "name must be one of"),
        (lambda: ActivationDisplay.from_name("tanh", limit=0), "limit must be a number greater than 0"),
        (
            lambda: WrongDigitsDisplay.from_predictions(np.zeros((3, 4)), [1, 2], [1, 2]),
            "y_pred must be one for each image, got 3, 2, 2",
        ),
        (
            lambda: WrongDigitsDisplay.from_predictions(np.zeros((2, 5)), [1, 2], [1, 1]),
            "shape must be given: 5 pixels make no square",
        ),
        (
            lambda: WeightTilesDisplay.from_weights(np.zeros((6, 2)), shape=(2, 2)),
            "shape must have 6 pixels, got 2 × 2",
        ),
        (
            lambda: DistortedDigitsDisplay(images=np.zeros((2, 4, 4)), distorted=np.zeros((2, 3, 4, 5))),
            "distorted must be (2, epochs, 4, 4), got (2, 3, 4, 5)",
        ),
        (
            lambda: DistortedDigitsDisplay.from_images(np.zeros((0, 4, 4), np.uint8)),
            "images must have at least one image",
        ),
        (lambda: DistortedDigitsDisplay.from_images(np.zeros((2, 4, 4))), "images must be uint8, (N, S, S) or (N, S²)"),
        (
            lambda: DistortedDigitsDisplay.from_images(np.zeros((2, 4, 4), np.uint8), n_distortions=0),
            "n_distortions must be",
        ),
        (lambda: WeightTilesDisplay.from_estimator(SimpleNamespace()), "must be fitted and have w_h or coefs_"),
    ],
)
def test_refusals(draw: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        draw()
    assert message in str(caught.value)


@pytest.mark.slow
def test_pyplot_is_not_imported_until_a_figure_is_asked_for() -> None:
    code = (
        "import sys; from matplotlib.figure import Figure; from nnlab.displays import ActivationDisplay;"
        "ActivationDisplay.from_name('tanh', ax=Figure().subplots());"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'nnlab.estimators' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
