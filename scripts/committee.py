"""Train a committee of MLPs on MNIST, each on digits of another width, and average what they say.

A digit's width is that of its bounding box, stretched by bilinear interpolation about the centre; 0 leaves the digits
as they are. Each network trains on random distortions, other ones in each epoch, at a rate that falls linearly to 0.
The networks are kept in --out: a second run goes on with those that are missing. The accuracies are appended to
benchmarks/accuracy.csv; there, seconds are of computing, on all threads together.

Source: Cireşan, Meier, Gambardella and Schmidhuber (2011), Handwritten digit recognition with a committee of deep
neural nets on GPUs.
"""

import argparse
import io
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import score
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from nnlab.config_files import LineParser
from nnlab.data import DataError, Distortion, ensure, load
from nnlab.engine import Descent, MLPEngine
from nnlab.files import write_whole
from nnlab.networks import MLP
from nnlab.validation import ArgumentError, check_at_least

HOLDS = 100  # mini-batches between two changes of the rate
BATCH = 100
DISTORTION = Distortion()


@dataclass(frozen=True)
class Member:
    """A network of the committee, and how it is trained."""

    width: int
    seed: int
    hidden: tuple[int, ...]
    epochs: int
    lr: float

    @property
    def file(self) -> str:
        """The name of its file, which tells it from others."""
        sizes = "-".join(map(str, self.hidden))
        return f"width{self.width}-seed{self.seed}-{sizes}-{self.epochs}epochs-lr{self.lr:g}.pt"

    def network(self) -> MLP:
        """The network before training."""
        generator = torch.Generator().manual_seed(self.seed)
        return MLP([784, *self.hidden, 10], "relu", generator=generator)


def of_width(images: Tensor, width: int) -> Tensor:
    """Digits, uint8 (N, 28, 28), whose bounding boxes are stretched to this width and centred; as they are for 0."""
    if width == 0:
        return images
    lit = (images > 0).any(1)  # the columns that have ink, (N, 28)
    first, last = lit.int().argmax(1), 27 - lit.flip(1).int().argmax(1)
    middle, own = (first + last) / 2, last - first + 1
    at = (torch.arange(28) - 13.5) * (own / width)[:, None] + middle[:, None]  # (N, 28): where each column comes from
    rows = (torch.arange(28) * (2 / 27) - 1).expand(len(images), 28)
    grid = torch.stack(
        ((at * (2 / 27) - 1)[:, None].expand(-1, 28, -1), rows[:, :, None].expand(-1, -1, 28)), -1
    )  # (N, 28, 28, 2)
    stretched = grid_sample(images[:, None].float(), grid, align_corners=True, padding_mode="zeros")
    return (stretched[:, 0] + 0.5).to(torch.uint8)


def train(member: Member, path: Path, threads: int) -> None:
    """Train a member, and keep its weights and the seconds of computing, on all threads together."""
    torch.set_num_threads(threads)
    images, labels = load("mnist", splits=["train"])["train"]
    images = of_width(images, member.width).flatten(1)
    n = len(images) - len(images) // 12  # the rest is for validation, as in the recipes
    images, labels, network = images[:n].contiguous(), labels[:n], member.network()
    began, orders = time.process_time(), torch.Generator().manual_seed(member.seed)
    parameters = [*network.parameters()]
    engine = MLPEngine(parameters, network.activations, "softmax_cross_entropy", images, labels, batch_size=BATCH)
    for epoch in range(member.epochs):
        engine.set_inputs_(DISTORTION(images, seed=member.seed, epoch=epoch))
        order = torch.randperm(n, generator=orders)
        for start in range(0, n, HOLDS * BATCH):
            done = (epoch + start / n) / member.epochs
            rate = Descent(member.lr * (1 - done), momentum=0.9, weight_decay=1e-5)
            run = engine.run_(order[start : start + HOLDS * BATCH], rate)
        if (epoch + 1) % max(1, member.epochs // 10) == 0:
            loss = float(run.losses.mean()) * BATCH
            print(f"{member.file}: epoch {epoch + 1}/{member.epochs}, loss {loss:.4f}", flush=True)
    seconds = time.process_time() - began
    buffer = io.BytesIO()
    torch.save({"member": asdict(member), "seconds": seconds, "weights": network.state_dict()}, buffer)
    write_whole(path, buffer.getvalue())


@torch.no_grad()
def probabilities(member: Member, path: Path, images: Tensor, copies: int) -> Tensor:
    """What a member says of images, (N, 28, 28): (N, 10); averaged over distorted copies, within half the limits."""
    network = member.network()
    network.load_state_dict(torch.load(path, weights_only=True)["weights"])
    pixels = of_width(images, member.width).flatten(1)
    half = Distortion(**{name: limit / 2 for name, limit in asdict(DISTORTION).items()})
    given = [pixels, *(half(pixels, seed=member.seed, epoch=member.epochs + copy) for copy in range(copies))]
    said: Tensor = sum((network(x / 255).softmax(1) for x in given), torch.zeros(()))
    return said / len(given)


def share_right(said: Sequence[Tensor], labels: Tensor) -> float:
    """The share of images whose label has the largest mean probability."""
    return float((torch.stack([*said]).mean(0).argmax(1) == labels).double().mean())


def main(argv: list[str] | None = None) -> None:
    parser = LineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", nargs="+", type=int, default=[0, 20, 18, 16, 14, 12, 10], help="a network for each")
    parser.add_argument("--hidden", nargs="+", type=int, default=[1024, 512], help="units of the hidden layers")
    parser.add_argument("--epochs", type=int, default=70, help="passes over the training images")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate at the start")
    parser.add_argument("--seed", type=int, default=0, help="of the first network; the next has the next")
    parser.add_argument("--copies", type=int, default=16, help="distorted copies of an image that are averaged")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="networks that are trained at a time")
    parser.add_argument("--log", type=Path, default=score.LOG, help="the file to append to")
    parser.add_argument("--out", type=Path, default=Path("runs/committee"), help="the folder for the networks")
    options = parser.parse_args(argv)
    try:
        for name in ("epochs", "jobs"):
            check_at_least(f"--{name}", getattr(options, name), 1)
        for width in options.widths:
            check_at_least("--widths", width, 0)
        ensure("mnist")
        options.out.mkdir(parents=True, exist_ok=True)
    except (ArgumentError, DataError, OSError) as error:
        parser.error(str(error))
    members = [
        Member(width, options.seed + k, tuple(options.hidden), options.epochs, options.lr)
        for k, width in enumerate(options.widths)
    ]
    paths = {member: options.out / member.file for member in members}
    missing = [member for member in members if not paths[member].exists()]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    if options.jobs == 1:
        for member in missing:
            train(member, paths[member], threads)
    else:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            for run in [pool.submit(train, member, paths[member], threads) for member in missing]:
                run.result()

    splits, before = load("mnist"), score.load()
    n_valid = len(splits["train"].images) // 12
    parts = {"val": [part[-n_valid:] for part in splits["train"]], "test": [*splits["test"]]}
    said = {
        part: [probabilities(member, paths[member], images, options.copies) for member in members]
        for part, (images, _) in parts.items()
    }
    seconds = [torch.load(path, weights_only=True)["seconds"] for path in paths.values()]
    names = [member.file.removesuffix(".pt") for member in members]
    singles = [(name, [k], spent) for k, (name, spent) in enumerate(zip(names, seconds, strict=True))]
    for name, whose, spent in [*singles, (f"committee of {', '.join(names)}", [*range(len(names))], sum(seconds))]:
        row: dict[str, object] = {
            f"{part}_acc": f"{share_right([said[part][k] for k in whose], labels):.4f}"
            for part, (_, labels) in parts.items()
        }
        row |= {"recipe": f"{name}; {options.copies} copies", "seed": options.seed, "seconds": f"{spent:.0f}"}
        row |= {"threads": 1, "load_before": before, "load_after": score.load()}
        score.append(row, options.log)
        print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)


if __name__ == "__main__":
    main()
