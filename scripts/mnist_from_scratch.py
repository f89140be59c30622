"""Walk section 3.4 on MNIST, from data to figures and numbers: python scripts/mnist_from_scratch.py."""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from nnlab import NeuralNetMLP
from nnlab.config_files import LineParser
from nnlab.data import SPECS, DataError, ensure, load
from nnlab.displays import (
    ActivationDisplay,
    Display,
    TrainingCurvesDisplay,
    WeightTilesDisplay,
    WrongDigitsDisplay,
    save_picture,
)
from nnlab.validation import ArgumentError, check_at_least, resolve_device


def main(argv: list[str] | None = None) -> float:
    parser = LineParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/figures"), help="folder for the figures")
    parser.add_argument("--epochs", type=int, default=200, help="passes over the training images")
    parser.add_argument("--data", choices=list(SPECS), default="mnist", help="data set; digits is small and built in")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu", help="where to train")
    options = parser.parse_args(argv)
    matplotlib.use("Agg")  # the figures go to files; no window is needed

    try:
        check_at_least("--epochs", options.epochs, 1)
        resolve_device(options.device)
        ensure(options.data)
        splits, spec = load(options.data), SPECS[options.data]
        options.out.mkdir(parents=True, exist_ok=True)
    except (ArgumentError, DataError, OSError) as error:
        parser.error(str(error))
    # pixels from −1 to 1, as the chapter has them, in double precision, as its NumPy code computes
    X, X_test = (splits[s].images.flatten(1).double().numpy() / spec.max_pixel * 2 - 1 for s in ("train", "test"))
    y, y_test = (splits[s].labels.numpy() for s in ("train", "test"))
    n_train = len(X) - len(X) // 12  # 55,000 of MNIST's 60,000
    print(f"{options.data}: {n_train:,} training, {len(X) - n_train:,} validation and {len(X_test):,} test images")

    network = NeuralNetMLP(
        n_hidden=100,
        l2=0.01,
        epochs=options.epochs,
        eta=0.0005,
        minibatch_size=100,
        shuffle=True,
        seed=1,
        verbose=True,
        device=options.device,
    )
    network.fit(X[:n_train], y[:n_train], X[n_train:], y[n_train:])
    figures = network.eval_
    print(f"cost:                {figures['cost'][-1]:.2f}")
    print(f"training accuracy:   {figures['train_acc'][-1]:.2%}")
    print(f"validation accuracy: {figures['valid_acc'][-1]:.2%}")
    predicted = network.predict(X_test)
    accuracy = float(np.mean(predicted == y_test))
    print(f"test accuracy:       {accuracy:.2%}")

    print("figures:")
    pictures: dict[str, Display] = {
        "sigmoid": ActivationDisplay.from_name("sigmoid"),
        "curves": TrainingCurvesDisplay.from_estimator(network),
        "wrong": WrongDigitsDisplay.from_predictions(splits["test"].images, y_test, predicted),
        "weights": WeightTilesDisplay.from_estimator(network, shape=spec.image_shape),
    }
    for name, display in pictures.items():
        print(f"  {save_picture(display, options.out / f'{options.data}-{name}.png')}")
    return accuracy


if __name__ == "__main__":
    main()
