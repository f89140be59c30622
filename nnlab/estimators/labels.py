"""Class labels of any kind as the numbers 0 … K−1, by scikit-learn's own rules and in its words."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from nnlab.estimators.arrays import Array, to_host


def find_classes(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes of a classification target, sorted, and the number of each sample's class.

    >>> find_classes(np.array(["b", "a", "b"]))
    (array(['a', 'b'], dtype='<U1'), array([1, 0, 1]))

    Args:
        y: labels, (N,), past scikit-learn's validation.

    Returns:
        (K,), and (N,) int64.

    Raises:
        ValueError: a continuous target, or fewer than two classes.
    """
    check_classification_targets(y)
    encoder = LabelEncoder()
    index = encoder.fit_transform(y)
    if len(encoder.classes_) < 2:
        raise ValueError(
            f"The number of classes has to be greater than one; got {len(encoder.classes_)} class: "
            f"{encoder.classes_.tolist()}"
        )
    return encoder.classes_, index.astype(np.int64, copy=False)


def encode_labels(y: Any, classes: NDArray[Any]) -> NDArray[np.int64]:
    """The number of each sample's class, (N,) int64, among ``classes``.

    Raises:
        ValueError: no classification target, or a label that is not among the classes.
    """
    y = column_or_1d(to_host(y), warn=True)
    check_classification_targets(y)
    encoder = LabelEncoder()
    encoder.classes_ = classes
    index: NDArray[np.int64] = encoder.transform(y).astype(np.int64, copy=False)
    return index


def weigh_classes(
    class_weight: Any,
    classes: NDArray[Any],
    index: NDArray[np.int64],
    sample_weight: NDArray[Any] | None,
    dtype: Any,
) -> NDArray[Any] | None:
    """Sample weights with the weight of each sample's class multiplied in; None where neither is given.

    "balanced" counts the samples of a class by their weights, so that a weight of 2 stays the sample given twice.
    """
    if class_weight is None:
        return sample_weight
    counted = {} if sample_weight is None else {"sample_weight": sample_weight}
    of_class = compute_class_weight(class_weight, classes=classes, y=classes[index], **counted)
    weights: NDArray[Any] = of_class[index].astype(dtype)
    return weights if sample_weight is None else weights * sample_weight


class LabelClassifier(ClassifierMixin):  # type: ignore[misc]
    """scikit-learn's classifier, whose score takes tensors on any device."""

    classes_: NDArray[Any]

    def predict(self, X: Any) -> Array:
        """The label of each sample, (N,)."""
        raise NotImplementedError

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of samples whose label is predicted right."""
        return float(accuracy_score(to_host(y), to_host(self.predict(X)), sample_weight=to_host(sample_weight)))
