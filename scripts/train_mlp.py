"""Train configs/mlp_plain.yaml's network without Lightning, by nnlab's engine: python scripts/train_mlp.py."""

import argparse

import torch
from rich.progress import track

from nnlab.config_files import LineParser
from nnlab.data import SPECS, DataError, ensure, load
from nnlab.engine import Descent, MLPEngine
from nnlab.networks import MLP
from nnlab.validation import ArgumentError, check_at_least, resolve_device


def main(argv: list[str] | None = None) -> float:
    parser = LineParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train")
    parser.add_argument("--data", choices=list(SPECS), default="mnist", help="data set")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training images")
    options = parser.parse_args(argv)
    try:
        check_at_least("--epochs", options.epochs, 1)
        device = resolve_device(options.device)
        ensure(options.data)
    except (ArgumentError, DataError) as error:
        parser.error(str(error))
    splits, spec = load(options.data), SPECS[options.data]
    x, x_test = (splits[s].images.to(device).flatten(1) / spec.max_pixel for s in ("train", "test"))
    labels, labels_test = (splits[s].labels.to(device) for s in ("train", "test"))

    n_train = len(x) - len(x) // 12  # the rest is kept for validation, as in the chapter
    generator = torch.Generator().manual_seed(1)
    network = MLP([spec.in_features, 512, spec.n_classes], "relu", generator=generator).to(device)
    data = x[:n_train], labels[:n_train]
    engine = MLPEngine([*network.parameters()], network.activations, "softmax_cross_entropy", *data, batch_size=100)
    shuffle, lr = torch.Generator().manual_seed(1), 0.1

    for _ in track(range(options.epochs), "training"):
        order = torch.randperm(n_train, generator=shuffle).to(device)
        engine.run_(order, Descent(lr, momentum=0.9, weight_decay=1e-4))
        lr *= 0.8

    accuracy: float = (network(x_test).argmax(1) == labels_test).double().mean().item()
    print(f"test accuracy: {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
