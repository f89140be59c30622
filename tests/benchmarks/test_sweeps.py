"""Points of sizes, densities and widths, their arithmetic, the busy process, and the alarm."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import sweeps
from benchmarks.__main__ import main
from benchmarks.measure import Comparison, Peer
from benchmarks.peers.torch_models import products
from benchmarks.problems import blobs
from benchmarks.process import Make
from benchmarks.tasks import TASKS, Task
from nnlab.data import Distortion
from tests.benchmarks.conftest import mlp_problem
from tests.tolerances import assert_close


@pytest.fixture
def run(here, mnist, monkeypatch, capsys) -> Callable[..., list[dict]]:
    """Run a task on contestants that say how long they took; return its rows, and what else was said."""

    def run(task: str, *flags: str, status: int = 0, ours: float = 1.0, **peers: float) -> tuple[list[dict], str]:
        def times(seconds: float) -> Make:
            return Make("tests.benchmarks.contestants:times", {"seconds": seconds})

        entries = [Peer(name, {"": times(seconds)}, trains=False) for name, seconds in peers.items()]
        comparison = Comparison("engine", times(ours), "softmax", entries)
        monkeypatch.setitem(TASKS, task, Task("", [comparison], 2, "named", TASKS[task].measure))
        assert main(["--task", task, "--json", *flags]) == status
        out, err = capsys.readouterr()
        return json.loads(out)["rows"], err

    return run


def test_sizes(run, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    problems, prepare = [], sweeps.prepare

    def spy(session, stack, task, comparison, problem, **options):
        problems.append((problem.sizes, options["threads"], problem.momentum))
        return prepare(session, stack, task, comparison, problem, **options)

    monkeypatch.setattr(sweeps, "prepare", spy)
    rows, _ = run("sizes", "--quick", eager=3.0)
    points = [(width, threads, momentum) for width in (100, 512) for threads in (1, 2) for momentum in (0.0, 0.9)]
    assert [(row["width"], row["threads"], row["momentum"]) for row in rows] == points
    assert problems == [((784, width, 10), threads, momentum) for width, threads, momentum in points]
    assert rows[3]["ours"] == "engine, 784-100-10, 2 threads, momentum"


def test_densities(run):
    rows, _ = run("density", "--before", ".", eager=3.0)
    assert [row["density"] for row in rows[::2]] == [0.05, 0.1, 0.2, 0.4, 0.7, 1.0]
    assert [row["peer"] for row in rows[:2]] == ["eager", f"engine before: {Path(__file__).parents[2].name}"]


def test_distortions(run, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    rows, _ = run("distortion", ours=2.0, torch=4.0)
    assert [(row["ours"], row["threads"]) for row in rows] == [("engine, 1 thread", 1), ("engine, 2 threads", 2)]
    assert (rows[0]["ours_images_per_second"], rows[0]["peer_images_per_second"]) == (200, 100)
    assert rows[0]["note"] == "200 images a second, the peer 100"


@pytest.mark.usefixtures("here", "mnist")
def test_distorted_images_are_compared(monkeypatch, capsys):
    assert main(["--task", "distortion", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"][:2]
    assert [row["compared"] for row in rows] == ["images after one epoch", ""]
    assert rows[0]["difference"] <= 1e-4
    numbers = Distortion.numbers
    monkeypatch.setattr(Distortion, "numbers", lambda *given: [part + 1e-3 for part in numbers(*given)])
    assert main(["--task", "distortion", "--quick", "--json"]) == 0
    assert "its images differ from ours by" in json.loads(capsys.readouterr().out)["rows"][0]["note"]


@pytest.mark.parametrize("density", [0.05, 0.2, 1.0])
def test_made_up_images(density):
    x = blobs(200, density)
    assert x.shape == (200, 784)
    assert torch.equal((x != 0).sum(1), torch.full((200,), round(784 * density)))
    assert_close((x * 255).round() / 255, x)
    pairs = (x.view(200, 392, 2) != 0).any(2).double().mean()
    assert pairs < 1.5 * density  # 1.95 where pixels are lit one by one, 1.17 in MNIST


@pytest.mark.parametrize("linear", [False, True])
def test_the_ceiling_is_all_dense_products(linear):
    problem = mlp_problem(torch.float32)
    contestant = products(problem, linear=linear)
    counts = {
        torch.ops.aten.addmm_: lambda w, a, b, **_: 2 * a[0] * a[1] * b[1],
        torch.ops.mkldnn._linear_pointwise: lambda a, b, *_, **__: 2 * a[0] * a[1] * b[0],
    }
    with FlopCounterMode(display=False, custom_mapping=counts) as counter:
        contestant.train(problem.order(1))
    first, flop = sweeps.flop_per_sample(problem.sizes)
    assert (first, flop) == (2 * 2 * 12 * 7, 2 * 2 * 12 * 7 + 3 * 2 * 7 * 5)
    assert counter.get_total_flops() == 250 * flop
    weights = problem.network().state_dict()
    u, outputs = contestant.parameters()
    assert_close(u, problem.x[240:] @ weights["0.weight"].T)  # the tail
    assert_close(outputs, torch.full((10, 7), 1e-3) @ weights["2.weight"].T)


def test_the_grid(run, monkeypatch):
    monkeypatch.setattr(sweeps, "WIDTHS", (1024, 2048))
    monkeypatch.setattr(sweeps, "BATCHES", (100,))
    monkeypatch.setattr(sweeps, "CELL_FLOP", 1e9)
    rows, _ = run("wide", JAX=1.1, floor=0.8, floor_b=0.5)
    assert [row["ours"] for row in rows[::3]] == [
        f"engine, 784-{sizes}-10, batch 100" for sizes in ("1024", "2048", "1024-1024", "2048-2048")
    ]
    shares = [row["first_layer_share"] for row in rows[::3]]
    dense = 2 * 784 * 1024, 3 * 1024 * 1024, 3 * 1024 * 10
    assert shares[2] == pytest.approx(dense[0] / sum(dense))
    assert [row["target"] for row in rows[::3]] == [1.2, 1.2, 1.2, 1.0]
    assert ["(missed)" in row["note"] for row in rows[::3]] == [True, True, True, False]
    jax, slower, ceiling = rows[6:9]
    assert jax["samples"] == 400  # four mini-batches at least
    assert slower["gflops"] == pytest.approx(400 * 2 * sum(dense) / 0.8 / 1e9)
    assert jax["ceiling"] == 0.5
    assert jax["ceiling_without_zeros"] == pytest.approx(0.5 * (1 - (1 - jax["density"]) * shares[2]))
    assert ["the ceiling: " in row["note"] for row in (slower, ceiling)] == [False, True]


def test_a_busy_process_runs_while_the_second_half_is_timed(run, monkeypatch):
    started = []
    popen = sweeps.subprocess.Popen

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(sweeps.subprocess, "Popen", start)
    rows, _ = run("busy", eager=3.0)
    assert [(row["ours"], row["busy"], row["ratio"]) for row in rows] == [
        ("engine", 0, 3.0),
        ("engine, beside a busy process", 1, 3.0),
    ]
    assert rows[1]["note"] == "1.0 times the time alone, the peer 1.0 times"
    assert [process.returncode for process in started] == [-9]


@pytest.mark.parametrize(("floor", "status"), [(1.3, 0), (1.1, 1)])
def test_the_alarm(floor, status, run, monkeypatch):
    monkeypatch.setattr(sweeps, "RECORDED", {(8, 0.9): 2.0})
    rows, err = run("kernels", "--before", ".", status=status, floor=floor)
    assert [row.get("recorded_ratio") for row in rows] == [2.0, None]
    words = "the compiled kernels have become slow: 784-8-10, 1 thread, momentum, dense products take 1.10 times"
    assert (words in err) == bool(status)
