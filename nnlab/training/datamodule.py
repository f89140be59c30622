"""MNIST and its kin, and own data, as a Lightning data module whose tensors live on the training device."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from torch import Tensor

from nnlab.data import SPECS, CopiesLoader, Distortion, Own, ResidentLoader, ensure, load, spec_of
from nnlab.training.classifier import Classifier
from nnlab.training.mlp import LitMLP
from nnlab.validation import ArgumentError, check_at_least, check_choice

EVALUATION_BATCH = 1000  # images per step and process where nothing is learnt; it changes no result

Scaling = Literal["unit", "bipolar", "raw"]
Distort = Distortion | Literal["on", "off"] | bool  # YAML reads on and off as true and false


def check_source(name: str | None, root: str | None, path: str | None, label: str | None) -> None:
    """Check that the data is named once: by its name, or by a path.

    Raises:
        ArgumentError: naming the argument to leave out.
    """
    if name is not None:
        check_choice("name", name, SPECS)
    for argument, value in (("name", name), ("root", root)):
        if path is not None and value is not None:
            raise ArgumentError(argument, f"must be null where path is given, got {value}")
    if path is None and label is not None:
        raise ArgumentError("label", f"needs the path of own data, got {label} without it")


class MNISTDataModule(L.LightningDataModule):
    """Handwritten digits, data sets of the same format and own data, checked file by file before every use.

    Files of a data set by name that are missing are downloaded; one that is present and wrong is refused. An epoch is
    one permutation of tensors that stay on the training device, and mini-batches are slices of it.

    Args:
        name: Which data set, mnist by default; none where path is given. mnist, fashion_mnist and kmnist have 60,000
            training and 10,000 test images of 28×28 pixels; digits is scikit-learn's 1,797 images of 8×8, and needs no
            network.
        root: The folder that holds the files, in torchvision's layout, <root>/MNIST/raw/train-images-idx3-ubyte and so
            on. By default the environment variable NNLAB_DATA, or else data in the working directory.
        batch_size: Images per step and process. A tail shorter than a batch is trained on, too.
        val_size: How many of the training images, from the end, are held out for validation. By default one twelfth,
            which is 5,000 of 60,000 as in the chapter; 0 trains on all.
        chunk: How many mini-batches one of Lightning's batches and steps is where the engine trains (--model.engine);
            the last of an epoch is fewer. Ctrl-C, the progress bar and callbacks have their turn between chunks.
        scaling: What the pixels become. unit is 0 to 1, bipolar is −1 to 1 as in the chapter, raw is the whole numbers
            0 to 255 (0 to 16 in digits).
        seed: What the order of the epochs and their distortions are drawn from. By default seed_everything's.
        distort: Limits of random distortions of the training images, other ones in each epoch; on takes the usual
            limits, off the images as they are. Validation images are never distorted, test images only as copies.
        copies: How many distorted copies of each test image, within the limits of distort, are predicted with it, in
            test and predict: the mean of their outputs is the prediction.
        path: Own data in place of a data set by name: IDX files, .npz, CSV, Parquet, or a folder of pictures for each
            class. What is named test is the test part, else a sixth of the samples. The order of the other samples is
            drawn once, the same for data of the same size.
        label: The column of the labels in a CSV or Parquet file; by default the one named label, else the last. In a
            CSV file without names it is a number, counted from 0.

    Raises:
        ValueError: an argument is not as above; it is named.
        DataError: own data cannot be used.
    """

    def __init__(
        self,
        name: Literal["mnist", "fashion_mnist", "kmnist", "digits"] | None = None,
        root: str | None = None,
        batch_size: int = 100,
        chunk: int = 1000,
        val_size: int | None = None,
        scaling: Scaling = "unit",
        seed: int | None = None,
        distort: Distort = "off",
        copies: int = 0,
        path: str | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__()
        check_source(name, root, path, label)
        check_choice("scaling", scaling, ("unit", "bipolar", "raw"))
        check_at_least("batch_size", batch_size, 1)
        check_at_least("chunk", chunk, 1)
        check_at_least("copies", copies, 0)
        if not isinstance(distort, Distortion):
            check_choice("distort", distort, ("on", "off", True, False))
        self.save_hyperparameters("scaling", "seed")
        usual = Distortion() if distort in ("on", True) else None
        self.distort = distort if isinstance(distort, Distortion) else usual
        if copies and not self.distort:
            raise ArgumentError("copies", f"need the limits of their distortions, got {copies} and distort = off")
        self.hparams["distort"] = asdict(self.distort) if self.distort else "off"
        self._spec = spec = spec_of(name, path, label)
        self.hparams["name"] = self.data_name = None if path else name or "mnist"
        if isinstance(spec, Own):
            self.hparams["classes"], self.hparams["max_pixel"] = list(spec.classes), spec.max_pixel
            if self.distort and not spec.is_square:
                raise ArgumentError("distort", "must be off for samples that are no square pictures of bytes")
            if spec.max_pixel is None and scaling != "raw":
                raise ArgumentError(
                    "scaling", f"must be raw for values that are no pixels from 0 to 255, got {scaling}"
                )
        if val_size is None:
            val_size = spec.n_train // 12
        check_at_least("val_size", val_size, 0)
        if val_size >= spec.n_train:
            raise ArgumentError("val_size", f"must be below the {spec.n_train} training images, got {val_size}")
        if seed is not None:
            check_at_least("seed", seed, 0)
        self.root, self.path, self.batch_size, self.val_size = root, path, batch_size, val_size
        self.chunk, self.scaling, self.seed, self.copies = chunk, scaling, seed, copies
        self.in_features, self.n_classes = spec.in_features, spec.n_classes
        self._tensors: dict[str, tuple[Tensor, Tensor]] = {}
        self._pixels: dict[str, Tensor] = {}  # uint8, from 0 to 255, of the images that are to be distorted
        self._train_loader: ResidentLoader | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._spec.classes

    @property
    def test_index(self) -> list[int]:
        """Where the test samples were in own data, counted from 0; else their numbers in the test part."""
        spec = self._spec
        index: list[int] = spec.test_index.tolist() if isinstance(spec, Own) else list(range(spec.n_test))
        return index

    @property
    def words(self) -> str:
        """What the data is, in a few words."""
        n = self._spec.n_train - self.val_size
        name, kind = (self.data_name, "images") if self.path is None else (Path(self.path).resolve().name, "samples")
        words = f"{name}: {n:,} {kind} in mini-batches of {self.batch_size}, {self.val_size:,} to validate on"
        if isinstance(self._spec, Own):
            words += f", {self._spec.n_test:,} to test on; classes {_some(self.classes)}"
            words += f"; {self._spec.note}" if self._spec.note else ""
        return f"{words}; distorted anew in each epoch" if self.distort else words

    def prepare_data(self) -> None:
        """Get the files that are missing, and check those that are there."""
        if self.data_name is not None:
            ensure(self.data_name, self.root)

    def setup(self, stage: str = "fit") -> None:
        """Check all files and build the tensors of this stage alone, on the training device.

        Raises:
            DataError: a file is missing or not what it must be.
        """
        self._train_loader = None
        split: Literal["train", "test"] = "train" if stage in ("fit", "validate") else "test"
        if split in self._tensors:
            return
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if isinstance(self._spec, Own):
            images, labels = self._spec.train if split == "train" else self._spec.test
        else:
            images, labels = load(str(self.data_name), self.root, splits=[split])[split]
        images, most = images.to(device).flatten(1), self._spec.max_pixel
        pixels = images
        if self.distort and split == "train":  # these are scaled when they have been distorted
            pixels, images = images.tensor_split([len(images) - self.val_size])
        if self.distort and (split == "train" or self.copies):
            self._pixels[split] = pixels if most in (255, None) else (pixels * (255 / most)).round().to(torch.uint8)
        self._tensors[split] = self._scaled(images, most), labels.to(device)

    def _scaled(self, images: Tensor, most: int | None) -> Tensor:
        """Pixels from 0 to ``most``, None for other values, as the model takes them, (N, I)."""
        x = images.to(torch.get_default_dtype())
        if most is None or self._spec.max_pixel is None:
            return x
        if self.scaling == "unit":
            x /= most
        elif self.scaling == "bipolar":
            x.mul_(2 / most).sub_(1)
        elif most != self._spec.max_pixel:
            x *= self._spec.max_pixel / most
        return x

    def _distorted(self, distort: Distortion, pixels: Tensor, as_bytes: bool) -> Callable[[int, int], Tensor]:
        """The training images of an epoch, scaled, or as bytes."""

        def of_epoch(seed: int, epoch: int) -> Tensor:
            images = distort(pixels, seed=seed, epoch=epoch)
            return images if as_bytes else self._scaled(images, 255)

        return of_epoch

    def train_dataloader(self) -> ResidentLoader:
        """Mini-batches of the training images in a new order each epoch, or chunks of them for the engine."""
        x, labels = self._tensors["train"]
        model = self.trainer.lightning_module if self.trainer else None
        by_engine = isinstance(model, Classifier) and model.use_engine()
        n = len(labels) - self.val_size
        seed = torch.initial_seed() if self.seed is None else self.seed
        if self.trainer:
            seed = self.trainer.strategy.broadcast(seed)  # every process must draw the same order
        chunk = self.chunk if by_engine else None
        if self._train_loader is None or self._train_loader.chunk != chunk:  # reloaded, it goes on with its orders
            as_bytes, changed = by_engine and isinstance(model, LitMLP) and self.scaling == "unit", None
            if self.distort:
                x, changed = self._pixels["train"], self._distorted(self.distort, self._pixels["train"], as_bytes)
            self._train_loader = self._loader(x[:n], labels[:n], self.batch_size, seed, chunk, changed)
        return self._train_loader

    def val_dataloader(self) -> ResidentLoader | list[ResidentLoader]:
        """The last ``val_size`` training images, in their own order."""
        if self.val_size == 0:
            return []
        x, labels = self._tensors["train"]
        return self._loader(x[-self.val_size :], labels[-self.val_size :], EVALUATION_BATCH)

    def test_dataloader(self) -> ResidentLoader | CopiesLoader:
        """The test images, in their own order, with their copies."""
        loader = self._loader(*self._tensors["test"], EVALUATION_BATCH)
        if not (self.copies and self.distort):
            return loader
        if self.trainer and self.trainer.world_size > 1:
            raise ArgumentError("copies", f"must be 0 with several processes, got {self.copies}")
        distort, pixels = self.distort, self._pixels["test"]
        seed = torch.initial_seed() if self.seed is None else self.seed

        def copy(number: int, indices: Tensor) -> Tensor:
            return self._scaled(distort(pixels, seed=seed, epoch=number, indices=indices), 255)

        return CopiesLoader(loader, copy, self.copies)

    def predict_dataloader(self) -> ResidentLoader | CopiesLoader:
        """The test images, in their own order, with their copies."""
        return self.test_dataloader()

    def _loader(
        self,
        x: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int | None = None,
        chunk: int | None = None,
        changed: Callable[[int, int], Tensor] | None = None,
    ) -> ResidentLoader:
        ranks = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size} if self.trainer else {}
        shuffle, change = seed is not None, f"distort by {self.distort}" if changed else None
        return ResidentLoader(
            x, labels, batch_size, shuffle=shuffle, seed=seed or 0, chunk=chunk, changed=changed, change=change, **ranks
        )


def _some(classes: tuple[str, ...]) -> str:
    """The names of the classes; the first and the last of many."""
    shown = classes if len(classes) <= 10 else (*classes[:8], "…", classes[-1])
    return ", ".join(name if len(name) <= 20 else f"{name[:19]}…" for name in shown)
