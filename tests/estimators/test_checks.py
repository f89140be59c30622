"""scikit-learn's own test suite on the four estimators."""

import pytest
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

from nnlab import Adaline, NeuralNetMLP, NeuralNetRegressor, Perceptron

FAST = {
    "minibatch_size": 25,
    "drop_last": False,
    "eta": 0.02,
    "epochs": 30,
}  # the defaults' one sample per step takes a minute

SGD_FAMILY = "sample_weight is not equivalent to removing/repeating samples"  # scikit-learn's words, for its own family


def expected_failures(estimator: object) -> dict[str, str]:
    """scikit-learn's own exemption of estimators that update per sample or mini-batch."""
    if not isinstance(estimator, NeuralNetMLP | NeuralNetRegressor):
        return {}
    checks = ("on_dense_data", "on_sparse_data")
    return {f"check_sample_weight_equivalence_{data}": SGD_FAMILY for data in checks}


# where sklearn's warnings are not about us: it skips a check that needs pandas, for one
skips = pytest.mark.filterwarnings("default::sklearn.exceptions.SkipTestWarning")


@skips
@parametrize_with_checks(
    [Perceptron(), Adaline(), NeuralNetMLP(**FAST), NeuralNetRegressor(minibatch_size=10, epochs=50, eta=0.01)],
    expected_failed_checks=expected_failures,
)
def test_passes_scikit_learns_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@skips
@parametrize_with_checks(
    [
        Perceptron(average=True, shuffle=True, output="step", tol=0),
        NeuralNetMLP((8, 8), activation=("tanh", "relu"), loss="softmax_cross_entropy", optimizer="adam", **FAST),
        NeuralNetRegressor((8, 8), activation="tanh", momentum=0.5, minibatch_size=10, epochs=50, eta=0.01),
    ],
    expected_failed_checks=expected_failures,
)
def test_passes_scikit_learns_check_with_other_settings(estimator, check):
    check(estimator)


FULL_BATCH = {"minibatch_size": 10**6, "drop_last": False, "epochs": 50}


@pytest.mark.parametrize(
    "estimator",
    [
        NeuralNetMLP(eta=0.01, **FULL_BATCH),
        NeuralNetMLP(eta=0.01, l2=0.1, loss="softmax_cross_entropy", class_weight="balanced", **FULL_BATCH),
        NeuralNetMLP(eta=0.01, loss="sum_of_squares", momentum=0.5, **FULL_BATCH),
        NeuralNetRegressor(eta=0.01, **FULL_BATCH),
        NeuralNetRegressor(eta=0.01, optimizer="adam", activation="tanh", **FULL_BATCH),
    ],
    ids=str,
)
def test_a_weight_is_a_repetition_where_all_samples_make_one_batch(estimator):
    """What the two exempted checks ask, held where it can hold."""
    check_sample_weight_equivalence_on_dense_data(type(estimator).__name__, estimator)
