"""Draw README's picture from a short training run on scikit-learn's 8 × 8 digits: python scripts/readme_picture.py."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from nnlab import NeuralNetMLP
from nnlab.config_files import LineParser
from nnlab.displays import TrainingCurvesDisplay, WeightTilesDisplay, WrongDigitsDisplay
from nnlab.ops import linear_backward, sigmoid_backward
from nnlab.validation import ArgumentError, check_at_least

EQUATIONS: dict[Callable[..., Any], str] = {
    linear_backward: (
        r"$\dfrac{\partial E}{\partial w_{ji}} = \delta_j \, x_i$  (3.9)"
        r"$\qquad \dfrac{\partial E}{\partial x_i} = \sum_j w_{ji} \, \delta_j$"
    ),
    sigmoid_backward: r"$\delta_j = h'(u_j) \, \dfrac{\partial E}{\partial z_j}$  (3.17)",
}


def main(argv: list[str] | None = None) -> float:
    parser = LineParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/nnlab.png"), help="the picture")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training images")
    options = parser.parse_args(argv)
    try:
        check_at_least("--epochs", options.epochs, 1)
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except (ArgumentError, OSError) as error:
        parser.error(str(error))

    X, y = load_digits(return_X_y=True)
    X_train, X_valid, y_train, y_valid = train_test_split(X / 8 - 1, y, test_size=0.25, random_state=1, stratify=y)
    network = NeuralNetMLP(n_hidden=36, epochs=options.epochs, eta=0.05, minibatch_size=20, seed=1)
    network.fit(X_train, y_train, X_valid, y_valid)
    accuracy = float(network.score(X_valid, y_valid))

    figure = Figure(figsize=(11.5, 5.6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.0, 2.6))
    draw_equations(halves[0].subplots())
    curve, tiles, wrong = halves[1].subplots(1, 3, width_ratios=(1.3, 1.1, 1.0))
    TrainingCurvesDisplay(
        cost=network.eval_["cost_per_sample"], valid_cost=network.eval_["valid_cost_per_sample"]
    ).plot(curve)
    WeightTilesDisplay.from_estimator(network, ax=tiles)
    tiles.set_title("What each hidden unit has learnt", fontsize=11)
    display = WrongDigitsDisplay.from_estimator(network, X_valid, y_valid, n_images=12, ax=wrong)
    wrong.set_title(f"{display.n_wrong} of {display.n_samples} misread: target → prediction", fontsize=11)
    figure.savefig(options.out, dpi=110)
    print(f"validation accuracy: {accuracy:.2%}")
    print(options.out)
    return accuracy


def draw_equations(ax: Axes) -> None:
    """The chapter's equations of backpropagation, each beside the lines of nnlab that compute it."""
    ax.set_axis_off()
    for x, heading in ((0.0, "the chapter's equations"), (0.34, "nnlab.ops")):
        ax.text(x, 1.02, heading, fontsize=10, color="#777777")
    for y, (function, equation) in zip((0.68, 0.12), EQUATIONS.items(), strict=True):
        lines = [line for line in inspect.getsource(function).splitlines() if not line.startswith("@")]
        ax.text(0.0, y, equation, fontsize=13, va="center")
        ax.text(0.34, y, f"{lines[0]}\n{lines[-1]}", fontsize=10, family="monospace", linespacing=1.6, va="center")


if __name__ == "__main__":
    main()
