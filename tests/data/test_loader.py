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
        ({"batch_size": 4}, "must have batch_size = 3, got 4"),
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
        ({"position": -1}, "must have a position from 0 to 8, got -1"),
        ({"position": 9}, "must have a position from 0 to 8, got 9"),
        ({"position": None}, "must have a position from 0 to 8, got None"),
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


# Epochs that yield indices


def indices(loader: ResidentLoader, *takes: int) -> list[list[int]]:
    """What an epoch of indices yields while so many mini-batches at a time are taken."""
    loader.yield_indices()
    iterator, seen = iter(loader), []
    for n_batches in takes:
        seen.append(next(iterator).tolist())
        loader.take(n_batches)
    return seen


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_indices_are_those_of_the_mini_batches(device, shuffle):
    twin = make(7, 2, device=device, shuffle=shuffle)
    loader = make(7, 2, device=device, shuffle=shuffle)
    for _ in range(2):
        whole = [label for batch in epoch(twin) for label in batch]
        assert indices(loader, 1, 2, 1) == [whole, whole[2:], whole[6:]]
    assert epoch(loader) == epoch(twin)  # asked for once, given once
    loader.yield_indices()
    assert next(iter(loader)).device.type == device.type


def test_each_rank_has_indices_of_its_own(device):
    loaders = [make(13, 2, device=device, shuffle=False, rank=rank, world_size=3) for rank in range(3)]
    assert [indices(loader, 3)[0] for loader in loaders] == [[0, 1, 6, 7, 12], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert len({id(loader.images) for loader in loaders}) == 3
    assert all(loader.images.shape == (13, 2) and loader.labels.tolist() == list(range(13)) for loader in loaders)


def test_until_they_are_taken_the_position_stays():
    loader = make(7, 3)
    loader.yield_indices()
    iterator = iter(loader)
    first = next(iterator)
    torch.testing.assert_close(next(iterator), first, rtol=0, atol=0)
    assert loader.state_dict()["position"] == 0
    loader.take(3)
    assert list(iterator) == []
    assert loader.state_dict()["position"] == 3


@pytest.mark.parametrize("as_indices", [False, True])
def test_either_way_goes_on_from_a_position_of_the_other(as_indices):
    loader, other, twin = make(23, 3), make(23, 3, seed=9), make(23, 3)
    whole = [label for batch in epoch(twin) for label in batch]
    if as_indices:
        indices(loader, 2, 3)
    else:
        list(itertools.islice(loader, 5))
    other.load_state_dict(loader.state_dict())
    if as_indices:
        assert [labels.tolist() for _, labels in other] == [whole[15:18], whole[18:21], whole[21:]]
    else:
        assert indices(other, 3) == [whole[15:]]
    assert epoch(other) == epoch(twin)


def test_yield_indices_can_be_cancelled():
    loader = make(7, 3)
    loader.yield_indices()
    loader.yield_indices(False)
    assert epoch(loader) == epoch(make(7, 3))


def test_an_iterator_of_indices_that_was_overtaken_says_so():
    loader = make(7, 3)
    loader.yield_indices()
    first = iter(loader)
    next(first)
    next(iter(loader))
    with pytest.raises(RuntimeError, match=r"ended when the next one began"):
        next(first)


@pytest.mark.parametrize(
    ("n_batches", "message"), [(0, "at least 1, got 0"), (3, "at most the 2 that are left, got 3")]
)
def test_what_is_not_left_cannot_be_taken(n_batches, message):
    loader = make(7, 3)
    indices(loader, 1)
    with pytest.raises(ArgumentError, match=f"^n_batches must be .*{message}"):
        loader.take(n_batches)
    assert loader.state_dict()["position"] == 1


# Wrong arguments


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("images", torch.arange(5), "images must be a floating-point tensor"),
        ("images", [1.0], "images must be a torch.Tensor"),
        ("images", torch.zeros(0, 2), "images must hold at least one sample"),
        ("images", torch.tensor(1.0), "images must hold at least one sample"),
        ("labels", torch.arange(4), r"labels must be int64 \(5,\) on cpu as images, got int64 \(4,\) on cpu"),
        ("labels", torch.zeros(5), r"labels must be int64 \(5,\) on cpu as images, got float32 \(5,\) on cpu"),
        ("labels", torch.zeros(5, 1).long(), r"labels must be int64 \(5,\) on cpu as images, got int64 \(5, 1\)"),
        ("labels", torch.zeros(5, device="meta").long(), r"labels must be int64 \(5,\) on cpu as images, got .* meta"),
        ("labels", [1, 2, 3, 4, 5], "labels must be a torch.Tensor, got list"),
        ("batch_size", 0, "batch_size must be a whole number of at least 1, got 0"),
        ("batch_size", 2.0, "batch_size must be a whole number of at least 1, got 2.0"),
        ("seed", -1, "seed must be a whole number of at least 0, got -1"),
        ("seed", None, "seed must be a whole number of at least 0, got None"),
        ("world_size", 0, "world_size must be a whole number of at least 1, got 0"),
        ("rank", -1, "rank must be a whole number of at least 0, got -1"),
        ("rank", 1, "rank must be below world_size = 1, got 1"),
    ],
)
def test_wrong_arguments_are_named(argument, value, message):
    arguments = {"images": torch.zeros(5, 2), "labels": torch.arange(5), "batch_size": 2, "shuffle": True}
    with pytest.raises(ArgumentError, match=f"^{message}") as caught:
        ResidentLoader(**(arguments | {argument: value}))
    assert caught.value.argument == argument


def test_an_iterator_that_is_never_asked_leaves_no_trace(device):
    def loader():
        return ResidentLoader(torch.arange(7.0, device=device), torch.arange(7, device=device), 3, shuffle=True, seed=5)

    once, twice = loader(), loader()
    iter(twice)
    assert [y.tolist() for _, y in once] == [y.tolist() for _, y in twice]
    next(iter(once))
    saved = once.state_dict()
    twice.load_state_dict(saved)
    iter(twice)  # as Lightning does before it trains
    rest = [y.tolist() for _, y in twice]
    assert len(rest) == 2
    assert sorted(label for batch in rest for label in batch) == sorted(saved["permutation"][3:].tolist())
