"""The resident loader: every sample once per epoch over all ranks, and an interrupted run that goes on bit for bit."""

import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnlab.data import ResidentLoader
from nnlab.validation import ArgumentError

CPU = torch.device("cpu")


def make(n: int, batch_size: int, *, device: torch.device = CPU, shuffle: bool = True, **kwargs: int) -> ResidentLoader:
    """A loader of n samples in which image i is (i, −i) and label i is i."""
    labels = torch.arange(n, device=device)
    images = torch.stack((labels, -labels), 1).float()
    return ResidentLoader(images, labels, batch_size, shuffle=shuffle, **kwargs)


def epoch(loader: ResidentLoader) -> list[list[int]]:
    """The labels of an epoch's batches; each image must be its label's."""
    batches = []
    for images, labels in itertools.islice(loader, len(loader) + 1):
        torch.testing.assert_close(images, torch.stack((labels, -labels), 1).float())
        batches.append(labels.tolist())
    assert len(batches) == len(loader)
    return batches


# Batches


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_ranks_share_each_global_batch(n, batch_size, world_size, shuffle, seed):
    whole = make(n, batch_size * world_size, shuffle=shuffle, seed=seed)
    ranks = [
        make(n, batch_size, shuffle=shuffle, seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for _ in range(2):
        steps = epoch(whole)
        parts = [epoch(loader) for loader in ranks]
        assert sorted(itertools.chain(*steps)) == list(range(n))
        for step, shares in zip(steps, zip(*parts, strict=True), strict=True):
            assert [list(share) for share in torch.tensor(step).tensor_split(world_size)] == list(shares)


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 3, [2]), (1, 1, [1])])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_tail_is_a_batch(device, n, batch_size, sizes, shuffle):
    loader = make(n, batch_size, shuffle=shuffle, device=device)
    assert [len(batch) for batch in epoch(loader)] == sizes
    assert len(loader) == len(sizes)


def test_a_rank_without_a_share_of_the_tail_gets_an_empty_batch(device):
    shares = [epoch(make(13, 2, device=device, shuffle=False, rank=rank, world_size=3)) for rank in range(3)]
    assert shares == [[[0, 1], [6, 7], [12]], [[2, 3], [8, 9], []], [[4, 5], [10, 11], []]]
    images, labels = list(make(13, 2, device=device, rank=2, world_size=3))[-1]
    assert (tuple(images.shape), tuple(labels.shape)) == ((0, 2), (0,))
    assert (images.dtype, labels.dtype, images.device.type) == (torch.float32, torch.int64, device.type)


def test_without_shuffling_samples_come_in_order_every_epoch(device):
    loader = make(7, 3, device=device, shuffle=False)
    assert epoch(loader) == epoch(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_images_keep_shape_and_dtype(device):
    images = torch.randn(5, 1, 4, 3, dtype=torch.float64, device=device)
    loader = ResidentLoader(images, torch.arange(5, device=device), 2, shuffle=True)
    for batch, labels in loader:
        torch.testing.assert_close(batch, images[labels])


# Randomness


def test_the_seed_decides(device):
    first, same, other = (make(101, 10, device=device, seed=seed) for seed in (3, 3, 4))
    orders = [epoch(first), epoch(first)]
    assert orders == [epoch(same), epoch(same)]
    assert orders[0] != orders[1]
    assert orders[0] != epoch(other)
    assert list(itertools.chain(*orders[0])) == torch.randperm(101, generator=torch.Generator().manual_seed(3)).tolist()


def test_the_order_is_the_same_on_every_device(device):
    assert epoch(make(101, 10, device=device)) == epoch(make(101, 10))


def test_torchs_own_generator_is_neither_used_nor_moved(device):
    before = torch.get_rng_state()
    loader = make(50, 7, device=device)
    first = epoch(loader)
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert epoch(make(50, 7, device=device)) == first


# Memory


def test_batches_are_views_of_one_buffer(device):
    loader = make(7, 3, device=device)
    addresses = [[images.untyped_storage().data_ptr() for images, _ in loader] for _ in range(2)]
    assert len({*addresses[0], *addresses[1]}) == 1


def test_without_shuffling_nothing_is_copied(device):
    images, labels = torch.randn(7, 2, device=device), torch.arange(7, device=device)
    for x, y in ResidentLoader(images, labels, 3, shuffle=False):
        assert x.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
        assert y.untyped_storage().data_ptr() == labels.untyped_storage().data_ptr()


def test_shuffling_leaves_the_data_as_it_was(device):
    images, labels = torch.randn(50, 2, device=device), torch.arange(50, device=device)
    before = images.clone(), labels.clone()
    list(ResidentLoader(images, labels, 3, shuffle=True))
    torch.testing.assert_close((images, labels), before)


def test_a_first_epoch_in_inference_mode_spoils_no_later_one(device):
    loader = make(7, 3, device=device)
    with torch.inference_mode():
        epoch(loader)
    images, _ = next(iter(loader))
    assert not images.is_inference()


# Several iterators


def test_each_iter_begins_a_new_epoch(device):
    loader, twin = make(31, 5, device=device), make(31, 5, device=device)
    next(iter(loader))
    epoch(twin)
    assert epoch(loader) == epoch(twin)


def test_an_iterator_that_was_overtaken_says_so():
    loader = make(7, 3)
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    with pytest.raises(RuntimeError, match=r"ended when the next one began"):
        next(first)
    assert len(list(second)) == 2


def test_an_iterator_that_has_ended_stays_so():
    iterator = iter(make(3, 3))
    next(iterator)
    assert list(iterator) == list(iterator) == []


# Saved positions


def through_a_file(state: dict[str, int | torch.Tensor]) -> dict[str, int | torch.Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded, dict)
    return loaded


def uninterrupted(loader: ResidentLoader, n_epochs: int) -> tuple[list[list[int]], list[dict[str, int | torch.Tensor]]]:
    """All batches of some epochs, and the states before the first and, as Lightning sees them, after each."""
    batches, states = [], [through_a_file(loader.state_dict())]
    for _ in range(n_epochs):
        iterator = iter(loader)
        for _ in range(len(loader)):  # never asks for more than len() items
            batches.append(next(iterator)[1].tolist())
            states.append(through_a_file(loader.state_dict()))
    return batches, states


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_a_run_goes_on_from_every_position(device, shuffle, rank, world_size):
    options = {"shuffle": shuffle, "rank": rank, "world_size": world_size, "device": device}
    batches, states = uninterrupted(make(23, 3, seed=5, **options), 3)
    assert len(states) == len(batches) + 1
    for done, state in enumerate(states):
        loader = make(23, 3, seed=99, **options)
        loader.load_state_dict(state)
        rest = [labels.tolist() for _ in range(3 - done // len(loader)) for _, labels in loader]
        assert rest == batches[done:], f"interrupted after {done} batches"


def test_a_state_taken_between_iter_and_the_first_batch_is_the_start_of_that_epoch():
    loader = make(23, 3)
    iterator = iter(loader)
    state = loader.state_dict()
    other = make(23, 3, seed=9)
    other.load_state_dict(state)
    assert epoch(other) == [labels.tolist() for _, labels in iterator]
    assert epoch(other) == epoch(loader)


def test_a_state_is_the_same_before_and_after_it_is_loaded():
    loader, other = make(23, 3), make(23, 3, seed=9)
    next(iter(loader))
    other.load_state_dict(loader.state_dict())
    torch.testing.assert_close(other.state_dict(), loader.state_dict(), rtol=0, atol=0)


def test_a_state_does_not_change_while_the_loader_goes_on():
    loader = make(23, 3)
    next(iter(loader))
    state = loader.state_dict()
    saved = through_a_file(state)
    epoch(loader)
    torch.testing.assert_close(state, saved, rtol=0, atol=0)


def test_a_state_serves_every_rank():
    loaders = [make(23, 3, rank=rank, world_size=2) for rank in range(2)]
    for loader in loaders:
        next(iter(loader))
    torch.testing.assert_close(loaders[0].state_dict(), loaders[1].state_dict(), rtol=0, atol=0)


def test_only_the_iter_after_loading_resumes():
    loader = make(23, 3)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    resumed = iter(loader)
    next(resumed)
    assert len(list(loader)) == len(loader)


def test_loading_ends_the_iterator_in_use():
    loader = make(7, 3)
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match=r"ended when the next one began"):
        next(iterator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 24}, "must have n_samples = 23, got 24"),
        ({"world_size": 2}, "must have world_size = 1, got 2"),
        ({"shuffle": False}, "must have shuffle = True, got False"),
    ],
)
def test_the_state_of_another_loader_is_refused(change, message):
    loader = make(23, 3)
    other = make(**({"n": 23, "batch_size": 3} | change))
    with pytest.raises(ArgumentError, match=f"^state_dict {message}$"):
        loader.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"position": -1}, "must have a position from 0 to 23, got -1"),
        ({"position": 24}, "must have a position from 0 to 23, got 24"),
        ({"position": 4}, "must have a position between two batches, got 4"),
        ({"position": None}, "must have a position from 0 to 23, got None"),
        ({"permutation": None}, "must have a permutation of 0 to 22"),
        ({"permutation": torch.zeros(23, dtype=torch.int64)}, "must have a permutation of 0 to 22"),
        ({"permutation": torch.arange(22)}, "must have a permutation of 0 to 22"),
        ({"permutation": torch.arange(23.0)}, "must have a permutation of 0 to 22"),
        ({"generator": None}, "must have the state of a CPU generator"),
        ({"generator": torch.zeros(3, dtype=torch.uint8)}, "must have the state of a CPU generator"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage, message):
    loader, twin = make(23, 3), make(23, 3)
    state = make(23, 3, seed=9).state_dict()
    with pytest.raises(ArgumentError, match=f"^state_dict {message}"):
        loader.load_state_dict(state | damage)
    with pytest.raises(ArgumentError, match=r"^state_dict must have n_samples = 23, got None"):
        loader.load_state_dict({})
    assert epoch(loader) == epoch(twin)


# Chunks


def chunks(loader: ResidentLoader) -> list[list[int]]:
    return [indices.tolist() for (indices,) in loader]


def batches(loader: ResidentLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


@pytest.mark.parametrize("shuffle", [False, True])
def test_chunks_hold_the_indices_of_the_mini_batches(device, shuffle):
    twin = make(7, 2, device=device, shuffle=shuffle)
    loader = make(7, 2, device=device, shuffle=shuffle, chunk=3)
    assert len(loader) == 2
    for _ in range(2):
        whole = [label for batch in epoch(twin) for label in batch]
        assert chunks(loader) == [whole[:6], whole[6:]]
    (first,) = next(iter(loader))
    assert (first.dtype, first.device.type) == (torch.int64, device.type)


def test_a_position_within_an_epoch_is_of_one_batch_size_and_one_chunk():
    options = {"chunk": 2}, {}, {"chunk": 3}
    for k, own in enumerate(options):
        loader = make(23, 3, **own)
        next(iter(loader))
        state = loader.state_dict()
        assert state["position"] == 3 * own.get("chunk", 1)
        again = make(23, 3, seed=9, **own)
        again.load_state_dict(state)
        assert [*(chunks if own else batches)(again)] == [*(chunks if own else batches)(make(23, 3, **own))][1:]
        other = options[(k + 1) % 3]
        with pytest.raises(ArgumentError, match=r"^state_dict must have chunk = .* within an epoch"):
            make(23, 3, **other).load_state_dict(state)
        with pytest.raises(ArgumentError, match=r"^state_dict must have batch_size = 4 within an epoch, got 3"):
            make(23, 4, **own).load_state_dict(state)


def test_a_position_within_an_epoch_is_of_one_change():
    def changed(change=None):
        images, options = torch.zeros(23, 2, dtype=torch.uint8), {"shuffle": True, "change": change}
        return ResidentLoader(images, torch.arange(23), 3, changed=lambda seed, epoch: images + 0.5, **options)

    loader = changed("a blur")
    assert next(iter(loader))[0].tolist() == [[0.5, 0.5]] * 3  # of the changed images' dtype
    within = loader.state_dict()
    changed("a blur").load_state_dict(within)
    for other, own in ((changed("a turn"), "a turn"), (changed(), None)):
        with pytest.raises(ArgumentError, match=f"^state_dict must have change = {own} within an epoch, got a blur$"):
            other.load_state_dict(within)
    batches(loader)
    changed("a turn").load_state_dict(loader.state_dict())
    with pytest.raises(ArgumentError, match=r"^change must be None without changed, got 'a blur'$"):
        ResidentLoader(torch.zeros(3, 2), torch.arange(3), 1, shuffle=True, change="a blur")
    with pytest.raises(ArgumentError, match=r"^images must be a torch\.Tensor, got list$"):
        ResidentLoader([], torch.arange(3), 1, shuffle=True, changed=lambda seed, epoch: torch.zeros(3, 2))


def test_the_end_of_an_epoch_is_the_same_for_all_batch_sizes_and_chunks():
    twin = make(23, 3)
    epoch(twin)
    state, whole = twin.state_dict(), [label for batch in epoch(twin) for label in batch]
    for loader in (make(23, 5, seed=9), make(23, 3, seed=9, chunk=2)):
        loader.load_state_dict(state)
        found = chunks(loader) if loader.chunk else epoch(loader)
        assert [index for batch in found for index in batch] == whole


def test_a_chunk_is_of_one_process():
    with pytest.raises(ArgumentError, match=r"^chunk must be None for 2 processes, got 4"):
        make(23, 3, world_size=2, chunk=4)
    with pytest.raises(ArgumentError, match=r"^chunk must be a whole number of at least 1, got 0"):
        make(23, 3, chunk=0)
