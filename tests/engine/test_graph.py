"""A run that is asked for again is recorded once and replayed; what cannot be recorded is launched, and says why."""

import contextlib
import logging
from collections.abc import Iterator

import pytest
import torch

from nnlab.engine import Descent
from nnlab.engine.graph import Recorder
from nnlab.engine.step import Line
from tests.engine.test_mlp import engine_of, order_of
from tests.loops import assert_all_close, by_the_loop, problem
from tests.tolerances import TRAJECTORY, assert_close


class Graph:
    """Stands in for a CUDA graph: it replays the notes taken while it recorded."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    made: list[Graph] = []

    @contextlib.contextmanager
    def recording(graph: Graph) -> Iterator[None]:
        made.append(graph)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    return made


def line_of(notes: list[str], note: str) -> Line:
    line = Line()
    line.then(notes.append, note)
    return line


def test_the_second_run_is_recorded_and_every_later_one_replayed(graphs):
    notes: list[str] = []
    recorder, lines = Recorder(torch.device("cuda")), [line_of(notes, "a"), line_of(notes, "b")]
    recorder.run("one", lines)
    assert (notes, graphs) == (["a", "b"], [])
    recorder.run("one", lines)  # recording carries nothing out: the notes are the stand-in's
    assert (notes, [g.replays for g in graphs]) == (["a", "b"] * 2, [1])
    recorder.run("one", lines)
    assert (notes, [g.replays for g in graphs]) == (["a", "b"] * 2, [2])
    recorder.run("other", lines)
    assert (len(notes), len(graphs)) == (6, 1)
    recorder.forget()
    recorder.run("one", lines)
    assert (len(notes), [g.replays for g in graphs]) == (8, [2])


def test_on_a_cpu_nothing_is_recorded(graphs, caplog):
    notes: list[str] = []
    recorder = Recorder(torch.device("cpu"))
    for _ in range(3):
        recorder.run("one", [line_of(notes, "a")])
    recorder.refuse("a reason")
    assert (notes, graphs, caplog.records) == (["a"] * 3, [], [])


def test_what_cannot_be_recorded_is_launched_and_says_why_once(graphs, caplog, monkeypatch):
    def refused(graph: Graph) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refused)
    notes: list[str] = []
    recorder = Recorder(torch.device("cuda"))
    with caplog.at_level(logging.INFO, "nnlab"):
        for _ in range(4):
            recorder.run("one", [line_of(notes, "a")])
        recorder.refuse("another reason")
    assert notes == ["a"] * 4
    assert caplog.messages == [
        "steps are launched one by one, without a CUDA graph: operation not permitted when stream is capturing"
    ]


@pytest.mark.cuda
@pytest.mark.parametrize("descent", [Descent(0.05), Descent(0.05, momentum=0.9, weight_decay=0.1)], ids=str)
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_replayed_epochs_are_the_plain_loop(monkeypatch, descent, l2):
    device, replays, replay = torch.device("cuda"), [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(graph) or replay(graph))
    given = problem([7, 5, 3], ["gelu", "identity"], "softmax_cross_entropy", torch.float64, device)
    engine, parameters = engine_of(given, 6, l2=l2)
    orders = [order_of(given, seed) for seed in range(4)]
    outputs = [engine.run_(order, descent).outputs for order in orders]
    assert len(replays) == 3
    expected = by_the_loop(given, [batch for order in orders for batch in order.split(6)], descent, l2=l2)
    assert_close(torch.cat(outputs), expected.outputs, 4 * TRAJECTORY[torch.float64])
    assert_all_close(parameters, expected.parameters, 4 * TRAJECTORY[torch.float64])
