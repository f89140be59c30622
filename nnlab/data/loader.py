"""Mini-batches of tensors on one device: one copy per epoch, and a position that can be saved and restored exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor

from nnlab.validation import ArgumentError, check_at_least, check_tensors


class Chunk(NamedTuple):
    """Several mini-batches in a row for an engine, as the indices of their samples: int64, (n,)."""

    indices: Tensor


class Copies(NamedTuple):
    """Images, and distorted copies of each: (1 + C, n, …)."""

    images: Tensor


class ResidentLoader:
    """Yield ``(images, labels)`` mini-batches as views of one buffer that is filled once per epoch.

    Each ``iter()`` begins a new epoch; batches are valid until the next one begins. With W processes, global batch s
    is ``permutation[s W B : (s + 1) W B]``, and rank r gets its r-th part. Every sample is in exactly one batch: the
    tail is shared among the ranks as evenly as possible, and a rank without a share of it gets an empty batch, so that
    all ranks make ``len()`` steps. The permutation is drawn on the CPU, so it is the same on every device and rank.

    After ``load_state_dict``, the next ``iter()`` continues the epoch in which the state was saved, with the batch
    after the last one yielded.

    With ``chunk`` it yields a ``Chunk`` in place of that many mini-batches, for an engine that gathers the samples
    itself; the last of an epoch is shorter.

    Args:
        images: N samples, floating point, (N, …); of any dtype where ``changed`` gives others.
        labels: int64, (N,), on the device of ``images``.
        batch_size: B, samples per step and process.
        shuffle: whether to draw a new order for every epoch.
        seed: seed of the orders.
        rank: r, the rank of this process.
        world_size: W, the number of processes.
        chunk: how many mini-batches a Chunk has, on one process; None yields mini-batches.
        changed: gives the images of an epoch, such as distorted ones, from the seed and the epoch, counted from 0. They
            have the shape of ``images``, in whose place they are.
        change: what ``changed`` does, in words. Within an epoch, a state that was saved with another is refused.

    Raises:
        ArgumentError: an argument is not as above; the error names it.

    >>> loader = ResidentLoader(torch.zeros(5, 3), torch.arange(5), batch_size=2, shuffle=False)
    >>> [labels.tolist() for _, labels in loader]
    [[0, 1], [2, 3], [4]]
    >>> loader = ResidentLoader(torch.zeros(5, 3), torch.arange(5), batch_size=2, shuffle=False, chunk=2)
    >>> [indices.tolist() for indices, in loader]
    [[0, 1, 2, 3], [4]]
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
        chunk: int | None = None,
        changed: Callable[[int, int], Tensor] | None = None,
        change: str | None = None,
    ) -> None:
        _check_samples(images, labels, any_dtype=changed is not None)
        if changed is None and change is not None:
            raise ArgumentError("change", f"must be None without changed, got {change!r}")
        check_at_least("batch_size", batch_size, 1)
        check_at_least("seed", seed, 0)
        check_at_least("world_size", world_size, 1)
        check_at_least("rank", rank, 0)
        if rank >= world_size:
            raise ArgumentError("rank", f"must be below world_size = {world_size}, got {rank}")
        if chunk is not None:
            check_at_least("chunk", chunk, 1)
            if world_size > 1:
                raise ArgumentError("chunk", f"must be None for {world_size} processes, got {chunk}")
        self.batch_size, self.chunk = batch_size, chunk
        self._each = batch_size * (chunk or 1)  # samples of what is yielded at a time
        self._images, self._labels, self._changed, self._change = images, labels, changed, change
        self._seed, self._images_of = seed, (-1, -1)  # the seed and the epoch that changed images are of
        self._shuffle, self._rank, self._world_size = shuffle, rank, world_size
        self._generator = torch.Generator().manual_seed(seed)
        self._permutation = torch.arange(len(images), device="cpu")
        self._position = len(images)  # samples yielded in this epoch, on all ranks; at the last the next epoch is due
        self._resumes = False
        self._iterators = 0  # those begun, so that one notices that a later one has begun
        self._epoch = -1  # whose order was drawn last, counted from 0
        # None until an epoch of mini-batches is asked for: on CUDA, memory that is not used counts as well
        self._buffers = None if shuffle or world_size > 1 or changed else (images, labels)

    @property
    def images(self) -> Tensor:
        """All samples, in their own order, (N, …), as they are in this epoch."""
        wanted = self._seed, max(self._epoch, 0)
        if self._changed and self._images_of != wanted:
            self._images, self._images_of = self._changed(*wanted), wanted
        return self._images

    @property
    def epoch(self) -> int:
        """The epoch that was begun last, counted from 0; −1 before the first."""
        return self._epoch

    @property
    def labels(self) -> Tensor:
        """Their labels, (N,)."""
        return self._labels

    def __len__(self) -> int:
        """The number of mini-batches, or chunks, per epoch, the same on every rank."""
        return math.ceil(len(self._images) / (self._world_size * self._each))

    def samples_in(self, index: int) -> int:
        """The number of samples of a global batch, those of all ranks together."""
        size = self._world_size * self.batch_size
        return min(size, len(self._images) - index * size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor] | Chunk]:
        """Begin a new epoch, or continue the restored one, when the first batch is asked for.

        An iterator that is never advanced changes nothing: Lightning makes one to see whether it can. An iterator
        that is advanced after a later one has begun raises a RuntimeError, because its batches are gone.
        """
        indices = self._begin()
        iterator, (images, labels) = self._iterators, self._buffers or (self._images, self._labels)
        while self._position < len(self._images):
            start = self._position // self._world_size  # all batches before it are whole
            batch = slice(start, start + self._each)
            # Before the yield: Lightning does not come back after the last batch.
            self._position = min(self._position + self._world_size * self._each, len(self._images))
            yield (images[batch], labels[batch]) if self.chunk is None else Chunk(indices[batch])
            if iterator != self._iterators:
                raise RuntimeError("this iterator of a ResidentLoader ended when the next one began")

    def _begin(self) -> Tensor:
        """Draw the epoch's order unless it is restored, and fill the buffers of mini-batches; this rank's order."""
        if not (self._resumes and self._position < len(self._images)):
            self._position = 0
            self._epoch += 1
            if self._shuffle:
                self._permutation = torch.randperm(len(self._images), generator=self._generator, device="cpu")
        self._resumes = False
        self._iterators += 1
        own = self._own(self._permutation).to(self._images.device)
        if self.chunk is not None:
            return own
        images = self.images
        if self._buffers is None:
            with torch.inference_mode(False):  # or no later epoch could write to them
                self._buffers = images.new_empty(len(own), *images.shape[1:]), self._labels.new_empty(len(own))
        if self._buffers[0] is not images:
            torch.index_select(images, 0, own, out=self._buffers[0])
            torch.index_select(self._labels, 0, own, out=self._buffers[1])
        return own

    def _own(self, permutation: Tensor) -> Tensor:
        """The indices in this rank's parts of the global batches: batch s is at [s B : (s + 1) B]."""
        n_full = len(permutation) // (self._world_size * self.batch_size)
        full, tail = permutation.tensor_split([n_full * self._world_size * self.batch_size])
        own_full = full.view(n_full, self._world_size, self.batch_size)[:, self._rank]  # (n_full, B)
        return torch.cat((own_full.flatten(), tail.tensor_split(self._world_size)[self._rank]))

    def state_dict(self) -> dict[str, int | str | Tensor | None]:
        """The position, the order of this epoch and the state of the generator; the same on all ranks.

        The values are ints, bools, strings and CPU tensors, so ``torch.load(weights_only=True)`` reads them.
        """
        return self._identity() | {
            "position": self._position,
            "epoch": self._epoch,
            "seed": self._seed,
            "permutation": self._permutation,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Restore the position of a loader with the same arguments; rank, device and seed may differ.

        At the end of an epoch, batch size, chunk and change may differ, too.

        Raises:
            ArgumentError: the state is of a loader with another number of samples, world size or shuffling, or is not
                the state of a loader; the loader is then unchanged.
        """
        n, own = len(self._images), self._identity()
        position, permutation = state_dict.get("position"), state_dict.get("permutation")
        within = not isinstance(position, int) or 0 < position < n
        for key in own if within else ("n_samples", "world_size", "shuffle"):
            if state_dict.get(key) != own[key]:
                where = "" if key in ("n_samples", "world_size", "shuffle") else " within an epoch"
                raise ArgumentError("state_dict", f"must have {key} = {own[key]}{where}, got {state_dict.get(key)}")
        if not isinstance(position, int) or not 0 <= position <= n:
            raise ArgumentError("state_dict", f"must have a position from 0 to {n}, got {position}")
        if position < n and position % (self._world_size * self._each):
            raise ArgumentError("state_dict", f"must have a position between two batches, got {position}")
        epoch, seed = state_dict.get("epoch"), state_dict.get("seed")
        if not isinstance(epoch, int) or not -1 <= epoch < 2**53:
            raise ArgumentError("state_dict", f"must have the number of an epoch, got {epoch}")
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ArgumentError("state_dict", f"must have a seed, got {seed}")
        if not (
            isinstance(permutation, Tensor)
            and permutation.dtype == torch.int64
            and permutation.sort().values.tolist() == list(range(n))
        ):
            raise ArgumentError("state_dict", f"must have a permutation of 0 to {n - 1}")
        try:
            self._generator.set_state(cast(Tensor, state_dict.get("generator")))
        except (RuntimeError, TypeError) as error:
            raise ArgumentError("state_dict", f"must have the state of a CPU generator ({error})") from error
        self._position, self._permutation = position, permutation.cpu()
        self._epoch, self._seed = epoch, seed
        self._resumes = True
        self._iterators += 1

    def _identity(self) -> dict[str, int | str | Tensor | None]:
        """The arguments that must be equal for a saved position to mean the same batches."""
        return {
            "n_samples": len(self._images),
            "batch_size": self.batch_size,
            "world_size": self._world_size,
            "shuffle": self._shuffle,
            "chunk": self.chunk,
            "change": self._change,
        }


class CopiesLoader:
    """Yields ``(Copies, labels)``: the batches of a loader that does not shuffle, with copies of their images.

    Args:
        loader: of one process.
        copy: gives a copy of the images at indices, (n,), from its number, counted from 0, and the indices.
        n_copies: C, the number of copies.
    """

    def __init__(self, loader: ResidentLoader, copy: Callable[[int, Tensor], Tensor], n_copies: int) -> None:
        self._loader, self._copy, self._n_copies = loader, copy, n_copies

    @property
    def labels(self) -> Tensor:
        """The labels of all images, (N,)."""
        return self._loader.labels

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Copies, Tensor]]:
        """Yield the batches in their order."""
        done = 0
        for batch in self._loader:
            images, labels = cast(tuple[Tensor, Tensor], batch)
            indices = torch.arange(done, done + len(images), device=images.device)
            done += len(images)
            yield Copies(torch.stack([images, *(self._copy(k, indices) for k in range(self._n_copies))])), labels


def _check_samples(images: Tensor, labels: Tensor, any_dtype: bool) -> None:
    if not any_dtype:
        check_tensors(images=(images, "..."))
    elif not isinstance(images, Tensor):
        raise ArgumentError("images", f"must be a torch.Tensor, got {type(images).__name__}")
    if images.ndim == 0 or len(images) == 0:
        raise ArgumentError("images", f"must hold at least one sample, got the shape {tuple(images.shape)}")
    if not isinstance(labels, Tensor):
        raise ArgumentError("labels", f"must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or labels.device != images.device:
        came = f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)} on {labels.device}"
        raise ArgumentError("labels", f"must be int64 ({len(images)},) on {images.device} as images, got {came}")
