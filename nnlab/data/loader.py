"""Mini-batches of tensors on one device: one copy per epoch, and a position that can be saved and restored exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor

from nnlab.validation import ArgumentError, check_at_least, check_tensors


class ResidentLoader:
    """Yield ``(images, labels)`` mini-batches as views of one buffer that is filled once per epoch.

    Each ``iter()`` begins a new epoch; batches are valid until the next one begins. With W processes, global batch s
    is ``permutation[s W B : (s + 1) W B]``, and rank r gets its r-th part. Every sample is in exactly one batch: the
    tail is shared among the ranks as evenly as possible, and a rank without a share of it gets an empty batch, so that
    all ranks make ``len()`` steps. The permutation is drawn on the CPU, so it is the same on every device and rank.

    After ``load_state_dict``, the next ``iter()`` continues the epoch in which the state was saved, with the batch
    after the last one yielded.

    An epoch can also be given as sample indices, for an engine that gathers the samples itself: see
    ``yield_indices``.

    Args:
        images: N samples, floating point, (N, …).
        labels: int64, (N,), on the device of ``images``.
        batch_size: B, samples per step and process.
        shuffle: whether to draw a new order for every epoch.
        seed: seed of the orders.
        rank: r, the rank of this process.
        world_size: W, the number of processes.

    Raises:
        ArgumentError: an argument is not as above; the error names it.

    >>> loader = ResidentLoader(torch.zeros(5, 3), torch.arange(5), batch_size=2, shuffle=False)
    >>> [labels.tolist() for _, labels in loader]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_samples(images, labels)
        check_at_least("batch_size", batch_size, 1)
        check_at_least("seed", seed, 0)
        check_at_least("world_size", world_size, 1)
        check_at_least("rank", rank, 0)
        if rank >= world_size:
            raise ArgumentError("rank", f"must be below world_size = {world_size}, got {rank}")
        self.batch_size = batch_size
        self._images, self._labels = images, labels
        self._shuffle, self._rank, self._world_size = shuffle, rank, world_size
        self._generator = torch.Generator().manual_seed(seed)
        self._permutation = torch.arange(len(images), device="cpu")
        self._position = len(self)  # batches yielded in this epoch; at len(self) the next epoch is due
        self._resumes = False
        self._indices_next = False
        self._epoch = 0  # counts the epochs begun, so that an iterator notices that a later one has begun
        # None until an epoch of mini-batches is asked for: on CUDA, memory that is not used counts as well
        self._buffers = None if shuffle or world_size > 1 else (images, labels)

    @property
    def images(self) -> Tensor:
        """All samples, in their own order, (N, …)."""
        return self._images

    @property
    def labels(self) -> Tensor:
        """Their labels, (N,)."""
        return self._labels

    def __len__(self) -> int:
        """The number of mini-batches per epoch, the same on every rank."""
        return math.ceil(len(self._images) / (self._world_size * self.batch_size))

    def samples_in(self, index: int) -> int:
        """The number of samples of a global batch, those of all ranks together."""
        size = self._world_size * self.batch_size
        return min(size, len(self._images) - index * size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Begin a new epoch, or continue the restored one, when the first batch is asked for.

        An iterator that is never advanced changes nothing: Lightning makes one to see whether it can. An iterator
        that is advanced after a later one has begun raises a RuntimeError, because its batches are gone.
        """
        indices = self._begin()
        epoch, (images, labels) = self._epoch, self._buffers or (self._images, self._labels)
        while self._position < len(self):
            batch = slice(self._position * self.batch_size, (self._position + 1) * self.batch_size)
            if indices is None:
                self._position += 1  # before the yield: Lightning does not come back after the last batch
                yield images[batch], labels[batch]
            else:
                yield indices[batch.start :]  # type: ignore[misc]  # only after ``yield_indices``
            if epoch != self._epoch:
                raise RuntimeError("this iterator of a ResidentLoader ended when the next one began")

    def yield_indices(self, wanted: bool = True) -> None:
        """Make the next epoch, and only that one, yield sample indices instead of mini-batches.

        Its iterator yields the indices of all samples left in the epoch, int64, (n,), on the device of ``images``;
        ``take`` says how many mini-batches of them were used.

        Args:
            wanted: False cancels an earlier call.

        >>> loader = ResidentLoader(torch.zeros(5, 3), torch.arange(5), batch_size=2, shuffle=False)
        >>> loader.yield_indices()
        >>> left = iter(loader)
        >>> next(left)
        tensor([0, 1, 2, 3, 4])
        >>> loader.take(2)
        >>> next(left)
        tensor([4])
        """
        self._indices_next = wanted

    def take(self, n_batches: int) -> None:
        """Move the position past ``n_batches`` mini-batches of an epoch that yields indices.

        Raises:
            ArgumentError: ``n_batches`` is less than 1, or more than are left.
        """
        check_at_least("n_batches", n_batches, 1)
        if n_batches > len(self) - self._position:
            left = len(self) - self._position
            raise ArgumentError("n_batches", f"must be at most the {left} that are left, got {n_batches}")
        self._position += n_batches

    def _begin(self) -> Tensor | None:
        """Draw the epoch's order unless it is restored; fill the buffers, or return the indices if they are wanted."""
        if not (self._resumes and self._position < len(self)):
            self._position = 0
            if self._shuffle:
                self._permutation = torch.randperm(len(self._images), generator=self._generator, device="cpu")
        indices_wanted, self._indices_next = self._indices_next, False
        self._resumes = False
        self._epoch += 1
        own = self._own(self._permutation).to(self._images.device)
        if indices_wanted:
            return own
        if self._buffers is None:
            with torch.inference_mode(False):  # or no later epoch could write to them
                shape = len(own), *self._images.shape[1:]
                self._buffers = self._images.new_empty(shape), self._labels.new_empty(len(own))
        if self._buffers[0] is not self._images:
            torch.index_select(self._images, 0, own, out=self._buffers[0])
            torch.index_select(self._labels, 0, own, out=self._buffers[1])
        return None

    def _own(self, permutation: Tensor) -> Tensor:
        """The indices in this rank's parts of the global batches: batch s is at [s B : (s + 1) B]."""
        n_full = len(permutation) // (self._world_size * self.batch_size)
        full, tail = permutation.tensor_split([n_full * self._world_size * self.batch_size])
        own_full = full.view(n_full, self._world_size, self.batch_size)[:, self._rank]  # (n_full, B)
        return torch.cat((own_full.flatten(), tail.tensor_split(self._world_size)[self._rank]))

    def state_dict(self) -> dict[str, int | Tensor]:
        """The position, the order of this epoch and the state of the generator; the same on all ranks.

        The values are ints, bools and CPU tensors, so ``torch.load(weights_only=True)`` reads them.
        """
        return self._identity() | {
            "position": self._position,
            "permutation": self._permutation,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Restore the position of a loader with the same arguments; rank, device and seed may differ.

        Raises:
            ArgumentError: the state is of a loader with another number of samples, batch size, world size or
                shuffling, or is not the state of a loader; the loader is then unchanged.
        """
        for key, expected in self._identity().items():
            if state_dict.get(key) != expected:
                raise ArgumentError("state_dict", f"must have {key} = {expected}, got {state_dict.get(key)}")
        position, permutation = state_dict.get("position"), state_dict.get("permutation")
        if not isinstance(position, int) or not 0 <= position <= len(self):
            raise ArgumentError("state_dict", f"must have a position from 0 to {len(self)}, got {position}")
        if not (
            isinstance(permutation, Tensor)
            and permutation.dtype == torch.int64
            and permutation.sort().values.tolist() == list(range(len(self._images)))
        ):
            raise ArgumentError("state_dict", f"must have a permutation of 0 to {len(self._images) - 1}")
        try:
            self._generator.set_state(cast(Tensor, state_dict.get("generator")))
        except (RuntimeError, TypeError) as error:
            raise ArgumentError("state_dict", f"must have the state of a CPU generator ({error})") from error
        self._position, self._permutation = position, permutation.cpu()
        self._resumes = True
        self._epoch += 1

    def _identity(self) -> dict[str, int | Tensor]:
        """The arguments that must be equal for a saved position to mean the same batches."""
        return {
            "n_samples": len(self._images),
            "batch_size": self.batch_size,
            "world_size": self._world_size,
            "shuffle": self._shuffle,
        }


def _check_samples(images: Tensor, labels: Tensor) -> None:
    check_tensors(images=(images, "..."))
    if images.ndim == 0 or len(images) == 0:
        raise ArgumentError("images", f"must hold at least one sample, got the shape {tuple(images.shape)}")
    if not isinstance(labels, Tensor):
        raise ArgumentError("labels", f"must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or labels.device != images.device:
        came = f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)} on {labels.device}"
        raise ArgumentError("labels", f"must be int64 ({len(images)},) on {images.device} as images, got {came}")
