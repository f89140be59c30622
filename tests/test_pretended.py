"""The pretended CUDA device finds planted faults: each of these breaks a rule of CUDA that a CPU does not have."""

import copy
import io
import threading
from collections.abc import Callable

import pytest
import torch

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _only_pretended(pretended):
    """These say nothing of a real device."""


def record(x: torch.Tensor, work: Callable[[], object], **options: object) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(x.device), **options):
        work()
    return graph


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (lambda x: x + torch.ones(3), RuntimeError, "same device, but found at least two devices, cuda:0 and cpu"),
        (lambda x: x.index_select(0, torch.arange(2)), RuntimeError, "same device"),
        (lambda x: x.add_(torch.ones(3)), RuntimeError, "same device"),
        (lambda x: torch.mm(x[None], torch.ones(3, 1)), RuntimeError, "same device"),
        (lambda x: torch.rand(3, generator=torch.Generator(), device=CUDA), RuntimeError, "'cuda' device type for gen"),
        (lambda x: x.numpy(), TypeError, "can't convert cuda:0 device type tensor to numpy"),
        (lambda x: __import__("numpy").asarray(x), TypeError, "can't convert cuda:0"),
        (lambda x: torch.empty(3, device="cuda:1"), RuntimeError, "invalid device ordinal"),
        (lambda x: x.pin_memory(), RuntimeError, "cannot pin"),
        (lambda x: torch.ones(2, 2, device=CUDA).to_mkldnn(), NotImplementedError, "Could not run"),
    ],
)
def test_what_torch_refuses_on_cuda_is_refused(fault, kind, message):
    with pytest.raises(kind, match=message):
        fault(torch.zeros(3, device=CUDA))


def test_what_torch_takes_on_cuda_is_taken():
    x = torch.arange(6.0, device=CUDA).view(2, 3)
    assert (x + torch.tensor(1.0)).device == x.device == torch.device("cuda", 0)  # a number on the CPU
    assert x[torch.tensor([1])].tolist() == [[3, 4, 5]]  # indices, which are copied
    assert x.new_zeros(2).is_cuda
    assert torch.zeros_like(x, device="cpu").device.type == "cpu"
    assert copy.deepcopy(x).is_cuda
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    assert torch.load(file).is_cuda
    file.seek(0)
    assert not torch.load(file, map_location="cpu").is_cuda
    drawn = [
        torch.rand(2, generator=g.manual_seed(1), device=g.device) for g in (torch.Generator(), torch.Generator(CUDA))
    ]
    assert drawn[0].tolist() != drawn[1].tolist()
    with torch.device("cuda"):
        made = torch.zeros(1), torch.tensor([1]), torch.as_tensor([1]), torch.nn.Linear(1, 1).weight
    assert all(t.is_cuda for t in made)


def test_waits_copies_and_kernels_are_counted(pretended):
    x, pinned = torch.ones(4, 4, device=CUDA), torch.ones(4).pin_memory()
    with pretended.watch() as seen:
        torch.addmm(x[0], x, x, out=torch.empty_like(x)).t()
        pinned.to(CUDA, non_blocking=True)
    assert (dict(seen.operations), seen.kernels, dict(seen.syncs)) == ({"addmm": 1}, 1, {})
    waits = [x.cpu, lambda: x.sum().item(), lambda: bool(x.any()), x.tolist, lambda: torch.ones(4).to(CUDA)]
    waits += [lambda: torch.tensor([1.0], device=CUDA), x.nonzero, lambda: x[x > 2], lambda: x.equal(x)]
    waits += [torch.cuda.synchronize, lambda: x.copy_(torch.ones(4))]
    for wait in waits:
        with pretended.watch() as seen:
            wait()
        assert seen.syncs.total() == 1, wait


def test_a_recording_carries_nothing_out_and_a_replay_uses_its_addresses(pretended):
    x, y = torch.ones(3, device=CUDA), torch.zeros(3, device=CUDA)
    with pretended.watch() as seen:
        graph = record(x, lambda: y.copy_(x * 2), capture_error_mode="thread_local")
    assert (y.tolist(), seen.recordings, seen.kernels) == ([0, 0, 0], ["thread_local"], 0)
    x.fill_(5)
    with pretended.watch() as seen:
        graph.replay()
        graph.replay()
    assert (y.tolist(), seen.replays, seen.kernels, seen.syncs.total()) == ([10, 10, 10], 2, 4, 0)
    (recording,) = pretended.live_recordings()
    assert (dict(recording.operations), recording.kernels) == ({"mul": 1, "copy_": 1}, 2)
    del graph, recording
    assert not pretended.live_recordings()


def test_memory_freed_under_a_recording_is_found(pretended):
    x, others = torch.ones(3, device=CUDA), [torch.ones(3, device=CUDA)]
    graph = record(x, lambda: x.add_(others[0]))
    graph.replay()
    before = torch.cuda.memory_allocated()
    others.clear()
    assert torch.cuda.memory_allocated() == before - 12
    with pytest.raises(RuntimeError, match="memory that has been freed"):
        graph.replay()


def test_a_workspace_freed_under_a_recording_is_found():
    x = torch.ones(2, 2, device=CUDA)
    stream, own, shared = torch.cuda.Stream(), torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    torch._C._cuda_clearCublasWorkspaces()
    with torch.cuda.graph(own, stream=stream):
        x @ x
    with torch.cuda.graph(shared, stream=stream):
        x @ x
    torch._C._cuda_clearCublasWorkspaces()
    own.replay()
    shared.replay()
    del own
    with pytest.raises(RuntimeError, match="workspace of cuBLAS"):
        shared.replay()


@pytest.mark.parametrize(
    "fault", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x.copy_(torch.ones(3))]
)
def test_what_may_not_be_recorded_breaks_the_recording_and_keeps_its_stream(fault):
    x, before, graph = torch.ones(3, device=CUDA), torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="error during capture"), torch.cuda.graph(graph):  # noqa: PT012
        x.add_(1)
        fault(x)
    assert torch.cuda.current_stream() is not before  # as torch leaves it
    torch.cuda.set_stream(before)
    assert x.tolist() == [1, 1, 1]


def test_a_fault_can_be_injected_at_any_operation(pretended):
    x, before = torch.ones(3, device=CUDA), torch.cuda.current_stream()
    for k in (0, 1):
        with pretended.recording_fails_at(k), pytest.raises(RuntimeError, match="during capture"):
            record(x, lambda: x.add_(1).mul_(2))
        torch.cuda.set_stream(before)
    with pretended.recording_fails_at(2):
        record(x, lambda: x.add_(1).mul_(2))
    assert x.tolist() == [1, 1, 1]


def test_a_recording_on_another_card_is_empty(pretended):
    with pretended.cards(2):
        x, graph = torch.ones(3, device="cuda:1"), torch.cuda.CUDAGraph()
        with pytest.warns(UserWarning, match="Graph is empty"), torch.cuda.graph(graph):
            x.add_(1)
        graph.replay()
        assert x.tolist() == [2, 2, 2]  # carried out once, and never replayed
        with torch.cuda.device(1):
            graph = record(x, lambda: x.add_(1))
            graph.replay()
        assert (x.tolist(), torch.cuda.current_device()) == ([3, 3, 3], 0)
        with pytest.raises(RuntimeError, match="cuda:1 and cuda:0"):
            x + torch.ones(3, device="cuda:0")


def test_a_recording_in_the_mode_global_breaks_on_another_threads_allocation():
    x, raised = torch.ones(3, device=CUDA), []

    def allocate() -> None:
        try:
            torch.ones(3, device=CUDA)
        except RuntimeError as error:
            raised.append(error)

    def work() -> None:
        x.add_(1)
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()

    record(x, work, capture_error_mode="thread_local")
    assert not raised
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="during capture"):
        record(x, work)
    torch.cuda.set_stream(before)
    assert len(raised) == 1


def test_memory_used_by_two_streams_at_once_is_found():
    x, side = torch.ones(3, device=CUDA), torch.cuda.Stream()
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match="uses memory that"):
        x.add_(1)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        x.add_(1)
    with pytest.raises(RuntimeError, match="uses memory that"):
        x + 1
    torch.cuda.current_stream().wait_stream(side)
    assert (x + 1).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    "fault",
    [
        lambda x, i: x.index_select(0, i),
        lambda x, i: x[i],
        lambda x, i: torch.nn.functional.cross_entropy(x.view(1, 3), i),
        lambda x, i: x.view(1, 3).gather(1, i[None]),
    ],
)
def test_an_index_out_of_range_kills_the_device(pretended, fault):
    x = torch.ones(3, device=CUDA)
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        fault(x, torch.tensor([7], device=CUDA))
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        x + 1
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        torch.cuda.synchronize()
    pretended.revive()
    assert (x + 1).tolist() == [2, 2, 2]


def test_products_are_rounded_otherwise_where_asked_for(pretended):
    torch.manual_seed(0)
    a, b = torch.rand(64, 99, device=CUDA), torch.rand(99, 64, device=CUDA)
    buffer = torch.zeros(64 * 99 + 1, device=CUDA)
    shifted = buffer[1:].view(64, 99)
    shifted.copy_(a)
    plain = a @ b
    with pretended.rounding("align"):
        assert torch.equal(a @ b, plain)
        assert not torch.equal(shifted @ b, plain)
    with pretended.rounding("always"):
        assert not torch.equal(a @ b, plain)
        torch.testing.assert_close(a @ b, plain)
