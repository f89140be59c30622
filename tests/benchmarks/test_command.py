"""The command: rows, files, signals, and errors of one line."""

import contextlib
import json
import multiprocessing
import os
import pkgutil
import signal
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import measure, report, sweeps
from benchmarks.__main__ import main
from benchmarks.measure import Comparison, Peer
from benchmarks.process import Make
from benchmarks.report import Results
from benchmarks.tasks import TASKS, Task
from tests.training.runs import REPOSITORY

COMMITTED = Results.read(str(REPOSITORY / "benchmarks" / "cpu.json"))
KEYS = {"task", "ours", "peer", "ours_seconds", "peer_seconds", "ratio", "device", "threads", "versions", "repeats"}
PEERS = {
    "mlp_epoch": [
        *("torch eager", "torch.compile", "scikit-learn", "JAX", "Lightning + DataLoader, as"),
        *("Lightning + DataLoader of", "floor", "NumPy float64, the", "NumPy float32", "NumPy float64, ours", "memory"),
    ],
    "mlp_wide": ["torch eager"],
    "perceptron_epoch": ["scikit-learn", "loop"],
    "lightning_epoch": ["engine"],
    "estimator_epoch": ["engine", "scikit-learn"],
}
TIMES = "tests.benchmarks.contestants:times"


def fake(monkeypatch, **makes: Make) -> None:
    """Make the table one of tasks that take a second on our side, and need no images."""
    ours = Make(TIMES, {"seconds": 1.0})
    tasks = {
        name: Task(name, [Comparison("ours", ours, "no samples", [Peer("peer", {"": make}, trains=False)])], 5)
        for name, make in makes.items()
    }
    for name in list(TASKS):
        monkeypatch.delitem(TASKS, name)
    for name, task in tasks.items():
        monkeypatch.setitem(TASKS, name, task)


@pytest.mark.slow
@pytest.mark.usefixtures("here", "mnist", "uncompiled")
def test_every_epoch_against_every_peer(capsys, tmp_path):
    files = {name: tmp_path / f"bench.{name}" for name in ("json", "md", "png")}
    flags = [f"--json={files['json']}", f"--markdown={files['md']}", f"--plot={files['png']}"]
    assert main(["--quick", "--task", *PEERS, *flags]) == 0
    out, _ = capsys.readouterr()
    data = json.loads(files["json"].read_text(encoding="utf-8"))
    assert (data["quick"], data["complete"]) == (True, True)
    assert {"processor", "cores", "threads", "load before"} <= data["machine"].keys()
    assert str(Path.home()) not in " ".join(data["machine"].values())
    for task, peers in PEERS.items():
        rows = [row for row in data["rows"] if row["task"] == task]
        assert [[word for word in peers if word in row["peer"]] for row in rows] == [[word] for word in peers]
        for row, word in zip(rows, peers, strict=True):
            assert row.keys() >= KEYS
            assert row["peer"] in out
            assert row["ratio"] > 0, row["note"]
            if word == "memory":
                assert row["peer_megabytes"] == pytest.approx(2 * 400 * 784 * 4 / 1e6 + 50)
                continue
            assert (row["repeats"], row["device"]) == (3, "cpu")
            assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["ours_seconds"])
            if word != "floor":
                assert row["difference"] <= (0 if task == "perceptron_epoch" else 1e-4)
    page = files["md"].read_text(encoding="utf-8")
    assert page.count("\n| ") == len(data["rows"]) + 1
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert Results.read(str(files["json"])).to_json() == files["json"].read_text(encoding="utf-8")


@pytest.mark.usefixtures("here", "mnist")
def test_growth(monkeypatch, capsys):
    monkeypatch.setattr(sweeps, "SWEEPS", {"width": (8, 16), "samples": (100, 60_000)})
    assert main(["--task", "scaling", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)["rows"]  # the rows for people are on standard error
    assert "scaling: engine, width 8\n  torch eager autograd" in err
    assert [(row["width"], row["samples"], row["threads"]) for row in rows] == [
        (8, 400, 1),
        (16, 400, 1),
        (100, 100, 1),
        (100, 400, 1),
        (100, 400, 1),
    ]
    assert all(row["ours_megabytes"] == 300 for row in rows)
    assert {"ours_exponent", "peer_exponent"} <= rows[0].keys()
    assert "seconds grow as width^" in rows[1]["note"]


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_keeps_the_rows_and_ends_the_processes(name, status, monkeypatch, capsys, tmp_path):
    done = Make(TIMES, {"seconds": 2.0})
    fake(monkeypatch, first=done, second=done, third=done)
    monkeypatch.setattr(measure, "REST", 0)
    monkeypatch.setattr(command, "LOOK", 0)
    started: list[int] = []
    timing = measure.Timed.time

    def time(contestant, repeat):
        if len(started) == 5 * 2 + 3:  # the second task, second repeat, the peer
            os.kill(os.getpid(), getattr(signal, name))
        started.append(repeat)
        timing(contestant, repeat)

    monkeypatch.setattr(measure.Timed, "time", time)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    files = [tmp_path / "bench.json", tmp_path / "bench.md"]
    readme = tmp_path / "README.md"
    readme.write_text("<!-- benchmarks --><!-- /benchmarks -->", encoding="utf-8")
    assert main([f"--json={files[0]}", f"--markdown={files[1]}", f"--readme={readme}"]) == status
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("  peer")] != []
    assert "interrupted; 2 rows are kept" in err
    data = Results.read(str(files[0]))
    assert data.complete is False
    assert [(row.task, row.repeats, row.ratio) for row in data.rows] == [("first", 5, 2.0), ("second", 1, 2.0)]
    assert "This run was interrupted." in files[1].read_text(encoding="utf-8")
    assert readme.read_text(encoding="utf-8") == "<!-- benchmarks --><!-- /benchmarks -->"
    assert multiprocessing.active_children() == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.usefixtures("here")
def test_an_error_of_our_own_keeps_the_rows(monkeypatch, tmp_path):
    fake(monkeypatch, first=Make(TIMES, {"seconds": 2.0}), second=Make(TIMES, {"seconds": 2.0}))
    second = TASKS["second"].comparisons[0]
    monkeypatch.setitem(vars(second), "make", Make("tests.benchmarks.contestants:broken"))
    with pytest.raises(Exception, match="no such thing"):
        main([f"--json={tmp_path / 'bench.json'}"])
    data = Results.read(str(tmp_path / "bench.json"))
    assert [row.task for row in data.rows] == ["first"]
    assert not data.complete


@pytest.mark.usefixtures("here")
def test_a_complete_run_rewrites_the_readme(monkeypatch, tmp_path):
    fake(monkeypatch, first=Make(TIMES, {"seconds": 0.5}))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->old<!-- /benchmarks -->\nafter\n", encoding="utf-8")
    assert main([f"--readme={readme}"]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- benchmarks -->\n")
    assert text.endswith("<!-- /benchmarks -->\nafter\n")
    assert "| `first` | peer | 0.50 (slower) | 0.50 to 0.50 |" in text
    assert "old" not in text


def test_the_readme_and_the_page_show_the_committed_figures():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert report.update_readme(readme, COMMITTED) == readme
    page = (REPOSITORY / "benchmarks" / "cpu.md").read_text(encoding="utf-8")
    assert report.markdown(COMMITTED) == page


def test_a_peer_that_was_not_timed_is_in_the_readme():
    rows = [report.Row("mlp_epoch", "engine", "JAX", "cpu", 1, {}, note="not timed: jax is not installed")]
    text = report.update_readme("<!-- benchmarks --><!-- /benchmarks -->", COMMITTED._replace(rows=rows))
    assert "| `mlp_epoch` | JAX | not timed: jax is not installed |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "mlp"], "--task: invalid choice: 'mlp'"),
        (["--frobnicate"], "unrecognized arguments"),
        (["--json", "no/such/folder.json"], "--json must be a file in a folder that exists"),
        (["--plot", "bench.doc"], "--plot must end in .png,"),
        (["--device", "meta"], "--device must be 'cpu', 'cuda' or 'auto', got 'meta'"),
        (["--readme", "README.md", "--quick"], "--readme needs the rows of all tasks"),
        (["--readme", "pyproject.toml"], "must have <!-- benchmarks --> and <!-- /benchmarks -->, once each"),
        (["--readme", "no.md"], "no.md"),
        (["--from", "no.json"], "--from must come with"),
        (["--from", "pyproject.toml", "--plot", "x.png"], "pyproject.toml must be a file that --json wrote"),
        (["--from", "benchmarks/cpu.json", "--plot", "x.png", "--quick"], "--quick has no effect with --from"),
        (["--from", "benchmarks/cpu.json", "--plot", "x.png", "--before", "."], "--before has no effect with --from"),
        (["--before", "docs"], "--before must be a folder that contains nnlab/, got docs"),
    ],
)
def test_wrong_arguments_are_answered_by_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m benchmarks: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("here")
def test_wrong_data_are_refused_before_anything_is_measured(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte").write_bytes(b"nothing")
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path))
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == report.HEADER + "\n"
    assert "train-images-idx3-ubyte" in err


def test_help_lists_the_tasks(capsys):
    with contextlib.suppress(SystemExit):
        main(["--help"])
    out, _ = capsys.readouterr()
    assert all(name in out for name in TASKS)
    assert max(map(len, out.splitlines())) <= 120


def test_every_contestant_of_the_table_can_be_imported():
    for task in TASKS.values():
        for comparison in task.comparisons:
            for make in [comparison.make, *(make for peer in comparison.peers for make in peer.ways.values())]:
                if "jax" not in make.name:  # an extra
                    assert callable(pkgutil.resolve_name(make.name))
