"""Train one perceptron per digit by Rosenblatt's rule, without Lightning: python scripts/train_perceptron.py."""

import argparse

import torch
from rich.progress import track

from nnlab.config_files import LineParser
from nnlab.data import SPECS, DataError, ensure, load
from nnlab.engine import PerceptronEngine
from nnlab.networks import PerceptronBank
from nnlab.validation import ArgumentError, check_at_least, resolve_device


def main(argv: list[str] | None = None) -> float:
    parser = LineParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train")
    parser.add_argument("--data", choices=list(SPECS), default="mnist", help="data set")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images")
    options = parser.parse_args(argv)
    try:
        check_at_least("--epochs", options.epochs, 1)
        device = resolve_device(options.device)
        ensure(options.data)
    except (ArgumentError, DataError) as error:
        parser.error(str(error))
    splits, spec = load(options.data), SPECS[options.data]
    # whole numbers in float64: no sum rounds, so the answer is the same on every device
    x, x_test = (splits[s].images.to(device).flatten(1).double() for s in ("train", "test"))
    labels, labels_test = (splits[s].labels.to(device) for s in ("train", "test"))

    n_train = len(x) - len(x) // 12  # the rest is kept for validation, as in the chapter
    bank = PerceptronBank(spec.in_features, spec.n_classes, dtype=x.dtype, device=device)
    engine, shuffle = PerceptronEngine(bank, x[:n_train], labels[:n_train]), torch.Generator().manual_seed(1)

    for _ in track(range(options.epochs), "training"):
        order = torch.randperm(n_train, generator=shuffle).to(device)
        errors = engine.run_(order, lr=1.0)

    accuracy = (bank.predict(x_test, average=True) == labels_test).double().mean().item()
    print(f"updates in the last epoch: {errors.count_nonzero()}")
    print(f"test accuracy: {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
