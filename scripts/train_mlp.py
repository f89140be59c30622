"""Train configs/mlp.yaml's network by hand-written backpropagation, without Lightning: python scripts/train_mlp.py."""

import argparse

import torch
from rich.progress import track

from nnlab.data import SPECS, ResidentLoader, ensure, load
from nnlab.networks import MLP
from nnlab.ops import softmax_cross_entropy_backward
from nnlab.validation import resolve_device


def main(argv: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to train")
    parser.add_argument("--data", choices=list(SPECS), default="mnist", help="data set")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training images")
    options = parser.parse_args(argv)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    device = resolve_device(options.device)

    ensure(options.data)
    splits, spec = load(options.data), SPECS[options.data]
    x, x_test = (splits[s].images.to(device).flatten(1) / spec.max_pixel for s in ("train", "test"))
    labels, labels_test = (splits[s].labels.to(device) for s in ("train", "test"))

    n_train = len(x) - len(x) // 12  # the rest is kept for validation, as in the chapter
    loader = ResidentLoader(x[:n_train], labels[:n_train], batch_size=100, shuffle=True, seed=1)
    network = MLP([spec.in_features, 512, spec.n_classes], "relu", generator=torch.Generator().manual_seed(1)).to(
        device
    )
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)

    for _ in track(range(options.epochs), "training"):
        for x_batch, labels_batch in loader:
            cache = network.forward(x_batch)
            delta = softmax_cross_entropy_backward(x.new_ones(()), cache[-1], labels_batch, "mean")
            for parameter, gradient in zip(parameters, network.backward(delta, cache).parameters, strict=True):
                parameter.grad = gradient
            optimizer.step()
        scheduler.step()

    accuracy = (network.forward(x_test)[-1].argmax(1) == labels_test).double().mean().item()
    print(f"test accuracy: {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
