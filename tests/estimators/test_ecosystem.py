"""The estimators inside scikit-learn: meta-estimators, pickles, clones, callbacks; and torch's tensors in and out."""

import pickle
from importlib.util import find_spec

import matplotlib as mpl
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnlab import Adaline, NeuralNetMLP, NeuralNetRegressor, Perceptron

CLASSIFIERS = [Perceptron(), Adaline(), NeuralNetMLP(8, epochs=30, eta=0.1, minibatch_size=10, seed=1)]
REGRESSOR = NeuralNetRegressor(8, epochs=30, eta=0.05, minibatch_size=10, seed=1)
ALL = [*CLASSIFIERS, REGRESSOR]


def name(estimator: object) -> str:
    return type(estimator).__name__


each_classifier = pytest.mark.parametrize("estimator", CLASSIFIERS, ids=name)
each = pytest.mark.parametrize("estimator", ALL, ids=name)


@each
def test_pipeline_grid_search_and_cross_validation(estimator, blobs):
    X, y = blobs
    X = 100 * X + 7  # not to be learnt without the scaler
    pipeline = make_pipeline(StandardScaler(), clone(estimator))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.4
    key = f"{name(estimator).lower()}__eta"
    search = GridSearchCV(pipeline, {key: np.array([1e-8, 0.05])}, cv=3).fit(X, y)
    assert search.best_params_[key] == 0.05
    assert search.score(X, y) > 0.5


@each_classifier
def test_one_against_the_rest_and_calibrated(estimator, blobs):
    X, y = blobs
    rest = OneVsRestClassifier(estimator).fit(X, y)
    assert len(rest.estimators_) == 3
    assert rest.score(X, y) > 0.7
    calibrated = CalibratedClassifierCV(estimator, cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(1), 1)
    assert calibrated.score(X, y) > 0.7


@each_classifier
def test_decision_boundaries_are_drawn(estimator, iris):
    mpl.use("agg")
    X, y = iris
    estimator.fit(X, np.array(["no", "yes"])[(y + 1) // 2])
    display = DecisionBoundaryDisplay.from_estimator(estimator, X, response_method="predict", grid_resolution=20)
    assert set(np.unique(display.response)) <= {0, 1}
    DecisionBoundaryDisplay.from_estimator(estimator, X, grid_resolution=20)
    mpl.pyplot.close("all")


def test_validation_data_pass_through_a_grid_search(blobs):
    X, y = blobs
    network = NeuralNetMLP(8, epochs=50, eta=0.1, minibatch_size=10, early_stopping=True, patience=2, seed=1)
    search = GridSearchCV(network, {"l2": [0.0, 0.1]}, cv=2).fit(X[:60], y[:60], X_valid=X[60:], y_valid=y[60:])
    assert search.best_estimator_.n_iter_ < 50


@each
def test_a_pickle_predicts_the_same(estimator, blobs):
    X, y = blobs
    estimator.fit(X, y)
    again = pickle.loads(pickle.dumps(estimator))
    assert (again.predict(X) == estimator.predict(X)).all()
    assert clone(again).get_params() == estimator.get_params()


# ---- torch ---------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_in_tensors_out(estimator, dtype, device, blobs):
    X, y = (torch.from_numpy(a).to(device) for a in blobs)
    X = X.to(dtype)
    for train_y, labels in ((y, y), (blobs[1], y)):
        estimator.fit(X, train_y)
        predicted = estimator.predict(X)
        assert isinstance(predicted, torch.Tensor)
        assert predicted.device == X.device
        assert predicted.dtype == (dtype if estimator is REGRESSOR else torch.int64)
        assert estimator.score(X, labels) > 0.5
    arrays = [estimator.w_] if hasattr(estimator, "w_") else [*estimator.coefs_, *estimator.intercepts_]
    outputs = [getattr(estimator, m)(X) for m in ("decision_function", "predict_proba") if hasattr(estimator, m)]
    for array in arrays + outputs:
        assert (array.dtype, array.device) == (dtype, X.device)
    host = X.cpu().numpy()
    plain = clone(estimator).fit(host, blobs[1])
    assert isinstance(plain.predict(host), np.ndarray)
    tolerance = {torch.float32: 2e-3, torch.float64: 1e-9}[dtype]
    if device.type == "cpu" or dtype == torch.float64:  # the perceptron's last weights amplify a difference in rounding
        np.testing.assert_allclose(
            torch.as_tensor(plain.predict(host)).double(), predicted.cpu().double(), atol=tolerance
        )
    assert isinstance(plain.predict(X), torch.Tensor)  # what comes out is as what came in, whatever it was fitted on
    assert isinstance(estimator.predict(host), np.ndarray)


@each_classifier
def test_labels_that_no_tensor_holds_come_as_an_array(estimator, blobs):
    X, y = blobs
    estimator.fit(torch.from_numpy(X), np.array(["a", "b", "c"])[y])
    assert set(estimator.predict(torch.from_numpy(X))) == {"a", "b", "c"}


@each
def test_float32_stays_and_all_else_is_float64(estimator, blobs):
    X, y = blobs
    whole = np.round(3 * X)
    for given, expected in (
        (X.astype(np.float32), np.float32),
        (X, np.float64),
        (X.astype(np.float16), np.float64),
        (whole.astype(np.int32), np.float64),
        (whole.astype(np.uint8), np.float64),
        (X.tolist(), np.float64),
        (X.astype(">f8"), np.float64),
        (torch.from_numpy(X).half(), torch.float64),
        (torch.from_numpy(X).bfloat16(), torch.float64),
        (torch.from_numpy(whole).int(), torch.float64),
    ):
        estimator.fit(given, y)
        for array in [estimator.w_] if hasattr(estimator, "w_") else [*estimator.coefs_, *estimator.intercepts_]:
            assert array.dtype == expected


@each
def test_strides_and_read_only_memory_make_no_difference(estimator, blobs):
    X, y = blobs
    expected = estimator.fit(X, y).predict(X)
    locked = X.copy()
    locked.setflags(write=False)
    wide = np.zeros((180, 8))
    wide[::2, ::2] = X
    for same in (np.asfortranarray(X), wide[::2, ::2], locked, X[::-1].copy()[::-1]):
        assert (estimator.fit(same, y).predict(same) == expected).all()
    np.testing.assert_array_equal(X, locked)  # nothing is written into what came in


@pytest.mark.cuda
@each
def test_numpy_computed_on_cuda_comes_back(estimator, blobs):
    X, y = blobs
    there = clone(estimator).set_params(device="cuda").fit(X, y)
    np.testing.assert_allclose(there.predict(X), estimator.fit(X, y).predict(X), rtol=1e-6, atol=1e-9)
    assert not any(t.is_cuda for t in vars(there).values() if isinstance(t, torch.Tensor))
    pickle.loads(pickle.dumps(there))


@each
def test_auto_is_any_device_there_is(estimator, blobs):
    X, y = blobs
    assert isinstance(clone(estimator).set_params(device="auto").fit(X, y).predict(X), np.ndarray)


# ---- callbacks -----------------------------------------------------------------------------------------------------

with_callbacks = pytest.mark.skipif(
    find_spec("sklearn.callback") is None, reason="scikit-learn before 1.9 has no callbacks"
)


class Recorder:
    """A callback that notes what happens, and may stop the fit."""

    def __init__(self, stop_after=None):
        self.events, self.scores, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X, y):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.events.append(f"end {context.task_name}")
        self.scores.append(fitted_estimator.score(X, y))
        return self.stop_after == context.task_id + 1 and context.task_name == "epoch"


def limited(estimator, n: int):
    return clone(estimator).set_params(**{"n_iter" if "n_iter" in estimator.get_params() else "epochs": n})


@with_callbacks
@each
def test_callbacks_hear_of_every_epoch_and_can_stop_the_fit(estimator, blobs):
    X, y = blobs
    recorder = Recorder()
    fitted = limited(estimator, 3).set_callbacks(recorder).fit(X, y)
    assert recorder.events == ["setup", "begin fit", *["begin epoch", "end epoch"] * 3, "end fit", "teardown"]
    assert recorder.scores[-2:] == [fitted.score(X, y)] * 2
    assert [limited(estimator, n).fit(X, y).score(X, y) for n in (1, 2)] == recorder.scores[:2]
    stopped = limited(estimator, 9).set_callbacks(Recorder(stop_after=2)).fit(X, y)
    assert stopped.n_iter_ == 2


@with_callbacks
@each
def test_callbacks_are_torn_down_when_the_fit_fails(estimator):
    recorder = Recorder()
    with pytest.raises(ValueError, match="infinity"):
        clone(estimator).set_callbacks(recorder).fit([[np.inf], [0.0]], [0, 1])
    assert recorder.events.count("teardown") == recorder.events.count("setup")


@with_callbacks
@each
def test_scikit_learns_progress_bar(estimator, blobs, capsys):
    from sklearn.callback import ProgressBar

    limited(estimator, 3).set_callbacks(ProgressBar()).fit(*blobs)
    assert "100%" in capsys.readouterr().out
