"""Mini-batches of tensors that live on one device: one copy per epoch, and a position that can be saved exactly."""

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
    is ``permutation[s W B : (s + 1) W B]``, and rank r takes its r-th part. Every sample is in exactly one batch:
    the tail, too, is shared as evenly as can be, and where it leaves nothing for a rank, that rank gets an empty
    batch, so that all ranks make ``len()`` steps. The permutation is drawn on the CPU: it is the same on every
    device and every rank.

    After ``load_state_dict``, the next ``iter()`` continues the epoch in which the state was saved, at the batch
    after the last one yielded.

    An epoch may also be given as the numbers of its samples, for an engine that gathers them itself: see
    ``give_numbers``.

    Args:
        images: N samples, floating point, (N, …).
        labels: int64, (N,), on the device of ``images``.
        batch_size: B, samples per step and process.
        shuffle: draw a new order for every epoch; otherwise samples come in their own order.
        seed: what the orders are drawn from.
        rank: r, this process among the W.
        world_size: W.

    Raises:
        ArgumentError: an argument is not as above; it is named.

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
        self._permutation = torch.arange(len(images))
        self._position = len(self)  # batches yielded in this epoch; at len(self) the next epoch is due
        self._resumes = False
        self._numbers_next = False
        self._epoch = 0  # counts beginnings, so that an iterator notices when it is overtaken
        if shuffle or world_size > 1:
            n_own = len(self._own(self._permutation))
            self._buffers = images.new_empty(n_own, *images.shape[1:]), labels.new_empty(n_own)
        else:
            self._buffers = images, labels

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

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Begin a new epoch, or continue the one that ``load_state_dict`` put back, when its first batch is asked for.

        An iterator that is never asked, as Lightning makes one to see whether it can, leaves no trace. One that is
        still in use when the next begins raises a RuntimeError: its batches are gone.
        """
        numbers = self._begin()
        epoch, (images, labels) = self._epoch, self._buffers
        while self._position < len(self):
            batch = slice(self._position * self.batch_size, (self._position + 1) * self.batch_size)
            if numbers is None:
                self._position += 1  # before the yield: Lightning does not come back after the last batch
                yield images[batch], labels[batch]
            else:
                yield numbers[batch.start :]  # type: ignore[misc]  # only to who asked for it by ``give_numbers``
            if epoch != self._epoch:
                raise RuntimeError("this iterator of a ResidentLoader ended when the next one began")

    def give_numbers(self, wanted: bool = True) -> None:
        """Let the next epoch to begin, and no other, be given as numbers of samples: nothing is gathered.

        Its iterator yields the numbers of all samples that are left of the epoch, int64, (n,), on the device of
        ``images``. Who takes some says so by ``take``.

        Args:
            wanted: False takes the wish back.

        >>> loader = ResidentLoader(torch.zeros(5, 3), torch.arange(5), batch_size=2, shuffle=False)
        >>> loader.give_numbers()
        >>> left = iter(loader)
        >>> next(left)
        tensor([0, 1, 2, 3, 4])
        >>> loader.take(2)
        >>> next(left)
        tensor([4])
        """
        self._numbers_next = wanted

    def take(self, n_batches: int) -> None:
        """Note that the next mini-batches of an epoch given as numbers were learnt; until then the position stays.

        Args:
            n_batches: how many.

        Raises:
            ArgumentError: fewer than 1, or more than are left.
        """
        check_at_least("n_batches", n_batches, 1)
        if n_batches > len(self) - self._position:
            left = len(self) - self._position
            raise ArgumentError("n_batches", f"must be at most the {left} that are left, got {n_batches}")
        self._position += n_batches

    def _begin(self) -> Tensor | None:
        """Draw the order of the epoch, unless it goes on; put the samples in it, or return their numbers."""
        if not (self._resumes and self._position < len(self)):
            self._position = 0
            if self._shuffle:
                self._permutation = torch.randperm(len(self._images), generator=self._generator)
        numbers, self._numbers_next = self._numbers_next, False
        self._resumes = False
        self._epoch += 1
        own = self._own(self._permutation).to(self._images.device)
        if numbers:
            return own
        if self._buffers[0] is not self._images:
            torch.index_select(self._images, 0, own, out=self._buffers[0])
            torch.index_select(self._labels, 0, own, out=self._buffers[1])
        return None

    def _own(self, permutation: Tensor) -> Tensor:
        """This rank's part of every global batch, one after the other: batch s is at [s B : (s + 1) B]."""
        n_full = len(permutation) // (self._world_size * self.batch_size)
        full, tail = permutation.tensor_split([n_full * self._world_size * self.batch_size])
        own_full = full.view(n_full, self._world_size, self.batch_size)[:, self._rank]  # (n_full, B)
        return torch.cat((own_full.flatten(), tail.tensor_split(self._world_size)[self._rank]))

    def state_dict(self) -> dict[str, int | Tensor]:
        """Position, order of this epoch, and what the next orders are drawn from; the same on all ranks.

        It holds numbers and CPU tensors only, so that ``torch.load(weights_only=True)`` reads it.
        """
        return self._identity() | {
            "position": self._position,
            "permutation": self._permutation,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Take up where a loader made with the same arguments stood; its rank, device and seed may have differed.

        Args:
            state_dict: what ``state_dict`` returned.

        Raises:
            ArgumentError: it was saved by a loader of another number of samples, batch size, world size or
                shuffling, or is no state of a loader; the loader is then left as it was.
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
        """What must be equal for a saved position to mean the same batches."""
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
