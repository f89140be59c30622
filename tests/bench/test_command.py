"""The command: rows, JSON, files, and errors of one line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnlab.bench import memory
from nnlab.bench.command import LONG, TASKS, main
from nnlab.bench.tasks import MEASURE, accuracy, growth, imports
from tests.training.runs import nnlab

pytestmark = pytest.mark.usefixtures("here")

KEYS = {"task", "ours", "peer", "ours_seconds", "peer_seconds", "ratio", "device", "threads", "versions", "repeats"}
MLP_PEERS = (
    *("eager", "compile", "scikit-learn", "JAX", "Lightning + DataLoader, as", "Lightning + DataLoader of"),
    *("floor", "NumPy float64", "NumPy float32"),
)


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of its own for what is measured there."""
    took = {"megabytes": 300.0, "seconds": [1.0, 2.0, 3.0]}
    for module in (memory, growth):
        monkeypatch.setattr(module, "in_child", lambda session, **what: took)


def measured(*arguments: str, capsys: pytest.CaptureFixture[str]) -> list[dict]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["rows"]


def by_peer(rows: list[dict], word: str) -> dict:
    (row,) = [row for row in rows if word in row["peer"]]
    return row


def test_every_task_has_its_words_and_its_function():
    assert list(TASKS) == list(MEASURE)
    assert set(LONG) < set(TASKS)


@pytest.mark.usefixtures("mnist", "uncompiled", "no_child")
@pytest.mark.slow
def test_an_epoch_against_all(capsys, tmp_path):
    files = [tmp_path / name for name in ("bench.json", "bench.md", "bench.png")]
    flags = [f"--{flag}={file}" for flag, file in zip(("json", "markdown", "plot"), files, strict=True)]
    assert main(["--quick", "--only", "mlp_epoch", *flags]) == 0
    out, _ = capsys.readouterr()
    assert "torch eager autograd" in out
    assert all(f"written: {file}" in out.replace("\n", "") for file in files)
    data = json.loads(files[0].read_text(encoding="utf-8"))
    assert (data["quick"], data["complete"]) == (True, True)
    assert {"processor", "cores", "threads", "system"} <= data["machine"].keys()
    for row in data["rows"]:
        assert row.keys() >= KEYS
        assert row["task"] == "mlp_epoch"
        assert {"python", "torch", "numpy"} <= row["versions"].keys()
    for word in MLP_PEERS:
        row = by_peer(data["rows"], word)
        assert (row["repeats"], row["device"]) == (3, "cpu"), row["note"]
        assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["ours_seconds"])
        assert row["ours_seconds_p20"] <= row["ours_seconds"] <= row["ours_seconds_p80"]
        if word != "floor":
            assert row["difference"] < 1e-4
    of_memory = by_peer(data["rows"], "memory")
    assert of_memory["ours_megabytes"] == 300
    assert of_memory["peer_megabytes"] == pytest.approx(2 * 400 * 784 * 4 / 1e6 + 50)
    assert "ours in float64 takes" in by_peer(data["rows"], "NumPy float64")["note"]
    page = files[1].read_text(encoding="utf-8")
    assert page.startswith("`nnlab bench --quick --only mlp_epoch`\n")
    assert len([line for line in page.splitlines() if line.startswith("| mlp_epoch |")]) == len(data["rows"])
    assert files[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("mnist", "uncompiled", "no_child")
@pytest.mark.slow
def test_without_jax_its_row_says_so(capsys, monkeypatch):
    for name in ("jax", "nnlab.bench.peers.jax_mlp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "jax", None)
    rows = measured("--quick", "--only", "mlp_epoch", capsys=capsys)
    jax = by_peer(rows, "JAX")
    assert jax["note"].startswith("not installed: jax")
    assert "pip install 'nnlab[bench]'" in jax["note"]
    assert jax["ratio"] is None
    assert by_peer(rows, "eager")["ratio"] > 0


@pytest.mark.usefixtures("mnist", "uncompiled", "no_child")
@pytest.mark.parametrize(
    ("task", "peers"),
    [
        ("mlp_wide", ["eager"]),
        ("perceptron_epoch", ["scikit-learn", "loop"]),
        ("lightning_epoch", ["engine"]),
        ("estimator_epoch", ["engine", "scikit-learn"]),
    ],
)
def test_the_other_epochs(task, peers, capsys):
    rows = measured("--quick", "--only", task, capsys=capsys)
    assert len(rows) == len(peers)
    for word in peers:
        row = by_peer(rows, word)
        assert row["ratio"] > 0, row["note"]
        assert row["difference"] <= (0 if task == "perceptron_epoch" else 1e-4)


@pytest.mark.usefixtures("mnist")
def test_time_to_98_counts_the_seeds_that_reach_it(capsys, monkeypatch):
    monkeypatch.setattr(accuracy, "SEEDS", 2)
    monkeypatch.setattr(accuracy, "MOST", 1)
    (row,) = measured("--only", "time_to_98", capsys=capsys)  # of noise, nobody learns as much
    assert (row["ratio"], row["note"]) == (None, "0 of 2 seeds reached it on both sides")
    monkeypatch.setattr(accuracy, "GOAL", 0.0)
    (row,) = measured("--only", "time_to_98", capsys=capsys)
    assert (row["repeats"], row["note"]) == (2, "2 of 2 seeds reached it on both sides")
    assert row["ratio"] > 0


@pytest.mark.usefixtures("mnist")
def test_import(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(imports, "seconds", lambda statement: asked.append(statement) or float(len(asked)))
    (row,) = measured("--quick", "--only", "import", capsys=capsys)
    assert asked == [imports.OURS, imports.THEIRS] * 3
    assert (row["ours_seconds"], row["peer_seconds"]) == (3, 4)


def test_a_statement_is_timed_in_a_fresh_process():
    assert 0.05 <= imports.seconds("import time; time.sleep(0.05)") < 5


@pytest.mark.usefixtures("mnist", "no_child")
def test_scaling_fits_an_exponent(capsys, monkeypatch):
    def took(session, *, side, hidden, **what):
        return {"seconds": [hidden[0] ** (1.5 if side == "ours" else 2.0)] * 3, "megabytes": 1.0}

    monkeypatch.setattr(growth, "in_child", took)
    rows = measured("--only", "scaling", capsys=capsys)
    widths = [row for row in rows if "width" in row["peer"]]
    assert [row["width"] for row in widths] == [64, 256, 1024, 4096]
    for row in widths:
        assert row["ours_exponent"] == pytest.approx(1.5)
        assert row["peer_exponent"] == pytest.approx(2)
    assert {row["threads"] for row in rows} == {1}  # the tests' own
    assert "seconds grow as width^1.50, the peer's ^2.00" in widths[-1]["note"]


@pytest.mark.slow
@pytest.mark.usefixtures("mnist")
def test_a_child_trains_and_tells_its_memory(capsys):
    from nnlab.bench.session import Session

    session = Session(torch.device("cpu"), quick=True)
    told = [
        memory.in_child(session, side=side, hidden=[6], batch_size=50, samples=300, epochs=3, threads=1)
        for side in ("ours", "eager")
    ]
    for took in told:
        assert len(took["seconds"]) == 2
        assert 0 < took["megabytes"] < 500
    with pytest.raises(RuntimeError, match="KeyError: 'samples'"):
        memory.in_child(session, side="ours")


@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_was_measured_is_printed_whatever_ends_it(stop, capsys, monkeypatch):
    monkeypatch.setattr(imports, "seconds", lambda statement: 1.0)

    def ended(session):
        session.rows.append(session.row("scaling", "ours", "a peer that was not timed"))
        raise stop

    monkeypatch.setitem(MEASURE, "scaling", ended)
    if stop is KeyboardInterrupt:
        assert main(["--only", "import,scaling", "--json"]) == 130
    else:
        with pytest.raises(RuntimeError, match="a mistake of nnlab's own") as found:
            main(["--only", "import,scaling", "--json"])
        assert isinstance(found.value.__cause__, stop)
    data = json.loads(capsys.readouterr().out)
    assert data["complete"] is False
    assert [row["task"] for row in data["rows"]] == ["import"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mlp"], f"--only must name one of {', '.join(TASKS)}, got 'mlp'"),
        (["--only", "import,"], "got ''"),
        (["--frobnicate"], "unrecognized arguments"),
        (["--json", "no/such/folder.json"], "--json must be a file in a folder that is there"),
        (["--markdown", "."], "--markdown must be a file"),
        (["--plot", "bench.doc"], "--plot must end in one of .eps,"),
        (["--device", "gpu"], "device must be 'auto'"),
        (["--device", "meta"], "--device must be cpu, cuda or auto, got meta"),
    ],
)
def test_wrong_arguments_are_answered_by_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nnlab bench: error: ")
    assert message in err
    assert err.count("\n") == 1
    with pytest.raises(Exception, match=re.escape(message)):
        main([*arguments, "--debug"])


def test_wrong_data_are_refused_before_anything_is_measured(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte").write_bytes(b"nothing")
    monkeypatch.setenv("NNLAB_DATA", str(tmp_path))
    assert main(["--only", "import"]) == 2
    err = capsys.readouterr().err
    assert "train-images-idx3-ubyte" in err
    assert err.count("\n") == 1


def test_help_comes_without_torch():
    code = "import sys, nnlab.bench as b; s = b.main(['--help']); sys.exit(s or ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in TASKS)
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_the_command_knows_it():
    ended = nnlab("bench", "--help")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("usage: nnlab bench")


def test_no_folder_of_this_machine_is_told():
    from nnlab.bench.machine import describe

    told = " ".join(describe(torch.device("cpu")).values())
    assert str(Path.home()) not in told
    assert Path.cwd().name not in told
