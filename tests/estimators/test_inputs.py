"""Labels of any kind, and what is no input at all: in scikit-learn's own words."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from nnlab import Adaline, NeuralNetMLP, NeuralNetRegressor, Perceptron

MLP = {"epochs": 40, "eta": 0.1, "minibatch_size": 10, "seed": 1}
CLASSIFIERS = [Perceptron(), Adaline(), NeuralNetMLP(**MLP)]
ALL = [*CLASSIFIERS, NeuralNetRegressor(5, epochs=2)]
each_classifier = pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda e: type(e).__name__)
each = pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)

LABELS = [
    (-1, 1),
    (1, 2),
    (0, 5),
    (1, 2, 3),
    (-4, 0, 17),
    ("setosa", "versicolor"),
    ("a", "bb", "ccc"),
    (0.0, 1.0, 7.0),
]


@each_classifier
@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_labels_are_names_and_nothing_else(estimator, labels, blobs):
    X, y = blobs
    X, y = X[y < len(labels)], y[y < len(labels)]
    named = np.array(labels)[y]
    plain, estimator = estimator.fit(X, y).predict(X), estimator.fit(X, named)
    assert estimator.classes_.tolist() == list(labels)
    assert estimator.predict(X).dtype == named.dtype
    assert (estimator.predict(X) == np.array(labels)[plain]).all()
    assert estimator.score(X, named) > 0.75


def test_validation_labels_are_encoded_alike(blobs):
    X, y = blobs
    plain = NeuralNetMLP(**MLP).fit(X[:60], y[:60], X[60:], y[60:])
    names = np.array(["x", "y", "z"])[y]
    named = NeuralNetMLP(**MLP).fit(X[:60], names[:60], X[60:].tolist(), names[60:].tolist())
    assert named.eval_ == plain.eval_
    with pytest.raises(ValueError, match=r"y contains previously unseen labels: .*7"):
        NeuralNetMLP(**MLP).fit(X, y, X, np.where(y == 2, 7, y))


X4 = np.arange(12.0).reshape(4, 3) % 5
Y4 = np.array([0, 1, 0, 1])
BAD = [
    (X4[0], Y4, r"Expected 2D array, got 1D array instead"),
    (X4[:, :, None], Y4, r"Found array with dim 3"),
    (np.empty((0, 3)), [], r"Found array with 0 sample\(s\)"),
    (np.empty((4, 0)), Y4, r"Found array with 0 feature\(s\)"),
    (np.where(X4 == 3, np.nan, X4), Y4, r"Input X contains NaN"),
    (np.where(X4 == 3, np.inf, X4), Y4, r"Input X contains infinity"),
    (X4 * 1j, Y4, r"Complex data not supported"),
    (X4, Y4[:3], r"Found input variables with inconsistent numbers of samples: \[4, 3\]"),
    (X4, None, r"requires y to be passed, but the target y is None"),
]


@each
@pytest.mark.parametrize(("X", "y", "message"), BAD, ids=[m for *_, m in BAD])
def test_data_that_cannot_be_learnt(estimator, X, y, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, y)


@each_classifier
@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1, 1, 1, 1], r"^The number of classes has to be greater than one; got 1 class: \[1\]$"),
        ([0.5, 1.5, 2.5, 0.5], "Unknown label type: continuous"),
        ([0.0, np.nan, 1.0, 0.0], "Input y contains NaN"),
        ([[0, 1], [1, 0], [0, 1], [1, 1]], "y should be a 1d array"),
    ],
    ids=str,
)
def test_targets_that_are_no_classes(estimator, y, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X4, y)


@each
def test_prediction_asks_for_a_fit_and_for_the_same_width(estimator, blobs):
    X, y = blobs
    fresh = type(estimator)()
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    estimator.fit(X, y)
    name = type(estimator).__name__
    with pytest.raises(ValueError, match=f"X has 3 features, but {name} is expecting 4 features as input"):
        estimator.predict(X[:, :3])
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array instead"):
        estimator.predict(X[0])


@pytest.mark.parametrize(
    "estimator", [Adaline(), NeuralNetMLP(**MLP), NeuralNetRegressor()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1, 1, 1], r"sample_weight.shape == \(3,\), expected \(4,\)!"),
        ([1, 1, np.nan, 1], "Input sample_weight contains NaN"),
        ([1, 1, -1, 1], "Negative values in data passed to `sample_weight`"),
        ([0, 0, 0, 0], "Sample weights must contain at least one non-zero number"),
    ],
    ids=str,
)
def test_sample_weights_that_weigh_nothing(estimator, weight, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X4, Y4, sample_weight=weight)


@pytest.mark.parametrize("estimator", [NeuralNetMLP(**MLP), NeuralNetRegressor()], ids=lambda e: type(e).__name__)
def test_validation_data_that_cannot_be_measured(estimator, blobs):
    X, y = blobs
    for arguments in ((X, None), (None, y)):
        with pytest.raises(ValueError, match=r"^X_valid and y_valid must be given together, got one of them$"):
            estimator.fit(X, y, *arguments)
    with pytest.raises(ValueError, match="X has 2 features, but"):
        estimator.fit(X, y, X[:, :2], y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.fit(X, y, X, y[1:])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        estimator.fit(X, y, np.where(X > 1, np.nan, X), y)


def test_a_data_frames_names_are_kept(blobs):
    pd = pytest.importorskip("pandas")
    X, y = blobs
    frame = pd.DataFrame(X, columns=list("abcd"))
    perceptron = Perceptron().fit(frame, y)
    assert perceptron.feature_names_in_.tolist() == list("abcd")
    with pytest.raises(ValueError, match="feature names should match"):
        perceptron.predict(frame.rename(columns={"a": "z"}))
