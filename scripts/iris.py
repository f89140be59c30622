"""Walk section 3.2 on Iris, from data to figures and numbers: python scripts/iris.py."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from sklearn.datasets import load_iris
from sklearn.linear_model import Perceptron as ScikitLearnPerceptron
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nnlab import Adaline, Perceptron
from nnlab.config_files import LineParser
from nnlab.displays import DecisionRegionsDisplay, Display, ErrorsPerEpochDisplay, save_picture
from nnlab.validation import ArgumentError, check_at_least


def main(argv: list[str] | None = None) -> int:
    parser = LineParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/figures"), help="folder for the figures")
    parser.add_argument("--epochs", type=int, default=10, help="passes of the perceptron over the samples")
    options = parser.parse_args(argv)
    try:
        check_at_least("--epochs", options.epochs, 1)
        options.out.mkdir(parents=True, exist_ok=True)
    except (ArgumentError, OSError) as error:
        parser.error(str(error))
    matplotlib.use("Agg")  # the figures go to files; no window is needed

    iris = load_iris()
    X, y = iris.data[:100, [0, 2]], iris.target[:100]
    features = ["sepal length [cm]", "petal length [cm]"]
    flowers = [str(name) for name in iris.target_names[:2]]

    def regions(title: str, classifier: object, X: Any, y: Any) -> Display:
        display = DecisionRegionsDisplay.from_estimator(classifier, X, y, feature_names=features, class_names=flowers)
        display.ax_.set_title(title)
        return display

    pictures: dict[str, Display] = {
        "samples": DecisionRegionsDisplay.from_samples(X, y, feature_names=features, class_names=flowers)
    }

    print("Rosenblatt's perceptron, eta 0.1, one update for each misclassified sample")
    perceptron = Perceptron(eta=0.1, n_iter=options.epochs, random_state=1).fit(X, y)
    print(f"  updates in each epoch: {perceptron.errors_}")
    print(f"  bias and weights: {perceptron.w_}")
    pictures["perceptron-updates"] = ErrorsPerEpochDisplay.from_estimator(perceptron, title="Perceptron: updates")
    pictures["perceptron-regions"] = regions(f"Perceptron after {options.epochs} epochs", perceptron, X, y)

    print("scikit-learn's perceptron, the chapter's block")
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=1)
    theirs = ScikitLearnPerceptron(random_state=42).fit(X_train, y_train)
    print(f"  Misclassified samples: {(y_test != theirs.predict(X_test)).sum()}")
    print(f"  threshold: {theirs.intercept_}")  # scikit-learn's sign: this is added to the sum, so it is −θ
    print(f"  w1: {theirs.coef_[0, 0]}")
    print(f"  w2: {theirs.coef_[0, 1]}")
    pictures["scikit-learn-regions"] = regions("scikit-learn's perceptron, test samples", theirs, X_test, y_test)

    print("Adaline, the linear unit: gradient descent of the mean square error, on standardised features")
    model = make_pipeline(StandardScaler(), Adaline()).fit(X, y)
    adaline = model[-1]
    print(f"  iterations: {adaline.n_iter_}, until a step shorter than {adaline.tol}; eta {adaline.eta_:.4g}")
    print(f"  E, the mean of ½ (y − t)²: {adaline.cost_[0]:.4f} after the first, {adaline.cost_[-1]:.4f} at the end")
    print(f"  bias and weights: {adaline.w_}; misclassified samples: {adaline.errors_[-1]}")
    cost = {"label": "E, mean of ½ (y − t)²", "title": "Adaline: cost after each iteration"}
    pictures["adaline-cost"] = ErrorsPerEpochDisplay(errors=adaline.cost_, **cost).plot()
    pictures["adaline-regions"] = regions(f"Adaline after {adaline.n_iter_} iterations", model, X, y)

    print("figures:")
    for name, display in pictures.items():
        print(f"  {save_picture(display, options.out / f'iris-{name}.png')}")
    return int((y_test != theirs.predict(X_test)).sum())


if __name__ == "__main__":
    main()
