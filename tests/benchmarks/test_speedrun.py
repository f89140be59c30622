"""The speedrun: its rules, the same training by all, what is written, and errors of one line."""

import contextlib
import json
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import ours, speedrun
from benchmarks.measure import difference
from benchmarks.peers import sklearn_models, torch_models
from benchmarks.problems import SpeedrunProblem
from benchmarks.process import Contestant, Make
from benchmarks.speedrun import DISTORTION, Recipe, Results, Row, Run, main
from nnlab.data import Distortion
from tests.benchmarks.conftest import Here
from tests.training.runs import REPOSITORY

FAKE = Make("tests.benchmarks.test_speedrun:fake")
README = "before\n<!-- speedrun -->old<!-- /speedrun -->\nafter\n"


def problem(n=220, **options) -> SpeedrunProblem:
    """Made-up images whose class is which 4 of their rows are lit; of 220, the last mini-batch is a tail of 20."""
    generator, labels = torch.Generator().manual_seed(1), torch.arange(n) % 5
    images = torch.randint(0, 60, (n, 28, 28), generator=generator, dtype=torch.uint8)
    for k, label in enumerate(labels.tolist()):
        images[k, 4 * label + 4 : 4 * label + 8] += 120
    return SpeedrunProblem(images.flatten(1), labels, (784, 16, 5), 50, 0.01, **options)


def fake(problem: SpeedrunProblem) -> Contestant:
    """A network that calls everything 0 from its second epoch on, and 1 before."""
    found = [torch.zeros_like(p) for p in problem.network().parameters()]

    def train(order):
        found[-1] = torch.eye(10)[0 if order[1] > 0 else 1]

    return Contestant(train, lambda: found)


@pytest.fixture
def fakes(monkeypatch, here) -> None:
    """Two contestants of this process, and data whose validation images are all 0, and test images by half."""
    ones = torch.ones(4, 784, dtype=torch.uint8)
    data = speedrun.Data((ones, torch.zeros(4).long()), (ones, torch.zeros(4).long()), (ones, torch.arange(4) // 2))
    monkeypatch.setattr(speedrun, "RunnerProcess", Here)
    monkeypatch.setattr(speedrun, "REST", 0)
    monkeypatch.setattr(speedrun, "Images", lambda: None)
    monkeypatch.setattr(speedrun, "data_of", lambda images: data)
    monkeypatch.setattr(speedrun, "CONTESTANTS", {"nnlab": FAKE, "JAX": FAKE})
    monkeypatch.setattr(speedrun, "RECIPES", {50.0: Recipe((8,), 4), 99.0: Recipe((8,), 4)})


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(README, encoding="utf-8")
    return path


def trained(make, problem: SpeedrunProblem):
    contestant = make(problem)
    for order in ([7, 0], [7, 1], [3, 0], [3, 1]):  # a run begins anew
        contestant.train(torch.tensor(order))
    return [p.detach() for p in contestant.parameters()]


def jax_speedrun(problem: SpeedrunProblem) -> Contestant:
    return pytest.importorskip("benchmarks.peers.jax_mlp", exc_type=ImportError).speedrun(problem)


MAKES = [torch_models.speedrun, sklearn_models.speedrun, jax_speedrun]


@pytest.mark.parametrize("make", MAKES, ids=["torch", "scikit-learn", "JAX"])
def test_all_compute_the_same(make):
    given = problem(epochs=2)
    if make is sklearn_models.speedrun:  # whose momentum begins anew with each epoch, and which decays no biases
        given = replace(given, momentum=0.0, weight_decay=0.0)
    start = [p.detach() for p in given.network(3).parameters()]
    assert difference(trained(make, given), trained(ours.speedrun, given), start) < 1e-4


@pytest.mark.parametrize("make", [ours.speedrun, torch_models.speedrun, jax_speedrun], ids=["ours", "torch", "JAX"])
def test_all_learn_from_distorted_images(make):
    given = problem(200, epochs=2, distortion=Distortion(5, 0.05, 0.05, 0.5, 0.5))
    weights = trained(make, given)
    assert speedrun.accuracy(weights, given.x, given.labels) > 90
    start = [p.detach() for p in given.network(3).parameters()]
    apart = difference(weights, trained(ours.speedrun, replace(given, distortion=None)), start)
    assert 0.01 < apart < 2


def test_torchs_and_jaxs_distortions_move_the_centre_as_far_as_ours():
    """The spread of a spot's place in the distorted images is that of the limits, in each direction."""
    jax_mlp = pytest.importorskip("benchmarks.peers.jax_mlp", exc_type=ImportError)
    image = torch.zeros(28, 28)
    image[18:20, 8:10] = 200
    images = image.flatten().repeat(600, 1)

    def spread(found):
        found = found.float().view(-1, 28, 28)
        at, total = torch.arange(28.0), found.sum((1, 2))
        return torch.stack([(found.sum(2) @ at / total).std(), (found.sum(1) @ at / total).std()])

    expected = spread(DISTORTION(images.to(torch.uint8), seed=0, epoch=0))
    u, knots = torch.rand(6, 600) * 2 - 1, torch.randn(600, 2, 49)
    distorted = jax_mlp.jax.jit(partial(jax_mlp.distorted, DISTORTION))
    theirs = distorted(images.numpy(), jax_mlp.jax.random.key(0))
    found = {"torch": torch_models.distorted(images, DISTORTION, u, knots), "JAX": torch.tensor(theirs.tolist())}
    for name, of_images in found.items():
        torch.testing.assert_close(spread(of_images), expected, rtol=0.12, atol=0, msg=name)


@pytest.mark.usefixtures("fakes")
def test_a_run_ends_by_validation_and_counts_by_the_test(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert main(["--seeds", "0", "1", "--json", str(path)]) == 0
    rows = {(row.contestant, row.mark): row for row in Results.read([str(path)]).rows}
    low, high = rows["nnlab", 50.0], rows["nnlab", 99.0]
    assert [run.epochs for run in (*low.runs, *high.runs)] == [
        2,
        2,
        2,
        2,
    ]  # the validation images are 0, the fake's 2nd
    assert [(row.reached, row.test, row.counts) for row in (low, high)] == [(True, 50.0, True), (True, 50.0, False)]
    assert [validation for _, validation in low.runs[0].curve] == [0, 100]
    assert low.seconds >= 0
    assert "1 of" in low.hardware
    out, _ = capsys.readouterr()
    assert "50 %  nnlab" in out
    assert out.count("counts yes") == out.count("counts no") == 2


@pytest.mark.usefixtures("fakes")
def test_what_does_not_reach_a_mark_ends_with_its_epochs_or_the_limit_and_is_not_tested(monkeypatch):
    monkeypatch.setattr(speedrun, "accuracy", lambda weights, images, labels: 12.0)
    session = speedrun.Session(1, 100.0)
    session.measure(["nnlab"], 50.0, [0, 1])
    (row,) = session.rows
    assert (len(row.runs), row.runs[0].epochs, row.runs[0].test, row.counts) == (1, 4, None, False)
    assert row.note == "not reached: at best 12.00 % of the validation images in 4 epochs"
    monkeypatch.setattr(Here, "seconds", lambda runner, order: 30.0)
    assert speedrun.train_to_mark(Here(FAKE, problem(), torch.device("cpu"), 1), session.data, 0, 50, 9, 50).epochs == 2


@pytest.mark.usefixtures("fakes")
def test_who_fails_or_computes_something_else_has_a_row_that_says_so(monkeypatch, capsys):
    makes = {"nnlab": FAKE, "JAX": Make("tests.benchmarks.contestants:missing")}
    makes["torch eager"] = Make("tests.benchmarks.test_speedrun:other")
    monkeypatch.setattr(speedrun, "CONTESTANTS", makes)
    assert main(["--marks", "50", "--seeds", "0"]) == 0
    out, _ = capsys.readouterr()
    assert "note not timed: ModuleNotFoundError: No module named 'jax'" in out
    assert "note not timed: it computes something else: its weights differ" in out


def other(problem: SpeedrunProblem) -> Contestant:
    return fake(problem)._replace(parameters=lambda: [torch.ones_like(p) for p in problem.network().parameters()])


@pytest.mark.usefixtures("fakes")
def test_tuning_tries_the_same_for_all_and_never_tests(monkeypatch, capsys):
    tried = []
    monkeypatch.setattr(Here, "seconds", lambda runner, order: 1.0)

    def seen(given: SpeedrunProblem) -> Contestant:
        tried.append((given.lr, given.batch_size))
        return fake(given)

    monkeypatch.setattr(ours, "seen", seen, raising=False)
    monkeypatch.setattr(speedrun, "CONTESTANTS", {name: Make("benchmarks.ours:seen") for name in ("nnlab", "JAX")})
    monkeypatch.setattr(speedrun, "accuracy", lambda weights, x, labels: 60.0 if not labels.any() else 1 / 0)
    assert main(["--tune", "--marks", "50"]) == 0
    assert tried == speedrun.TRIES * 2
    assert capsys.readouterr().out.splitlines() == [
        f"    ({n!r}, 50.0): {speedrun.TRIES[0]}," for n in ("nnlab", "JAX")
    ]


@pytest.mark.usefixtures("fakes")
def test_ctrl_c_keeps_the_rows(monkeypatch, tmp_path, readme):
    train = speedrun.train_to_mark

    def stopped(runner, data, seed, mark, *rest, **options):
        if mark == 99:
            os.kill(os.getpid(), signal.SIGINT)
        return train(runner, data, seed, mark, *rest, **options)

    monkeypatch.setattr(speedrun, "train_to_mark", stopped)
    assert main(["--seeds", "0", "--json", str(tmp_path / "a.json"), "--readme", str(readme)]) == 130
    results = Results.read([str(tmp_path / "a.json")])
    assert not results.complete
    assert {row.mark for row in results.rows} == {50}
    assert readme.read_text(encoding="utf-8") == README


def results(marks=tuple(speedrun.RECIPES)) -> Results:
    runs = [Run(s, 1.0 + s, 2, True, 99.5, 99.45, [(0.5, 90.0), (1.0 + s, 99.5)]) for s in (0, 1, 2)]
    rows = [
        Row(name, mark, "784-8-10, 2 epochs", 0.1, 100, "a CPU, 1 of 2 cores", 3, 0.25, 1e-6, 0.1, "", runs)
        for mark in marks
        for name in ("nnlab", "JAX")
    ]
    rows[-1].runs = [replace(run, test=90.0) for run in runs]
    return Results({"processor": "a CPU"}, {"nnlab": "1"}, True, rows)


def test_rows_are_written_and_read_again(tmp_path, readme):
    marks, files = list(speedrun.RECIPES), [tmp_path / "a.json", tmp_path / "b.json"]
    files[0].write_text(results(marks[3:]).to_json(), encoding="utf-8")
    files[1].write_text(results(marks[:3]).to_json(), encoding="utf-8")
    written = {name: tmp_path / f"all.{name}" for name in ("json", "md", "png")}
    flags = [f"--json={written['json']}", f"--markdown={written['md']}", f"--plot={written['png']}"]
    assert main(["--from", *map(str, files), *flags, f"--readme={readme}"]) == 0
    rows = json.loads(written["json"].read_text(encoding="utf-8"))["rows"]
    assert [row["mark"] for row in rows] == sorted(marks * 2)
    page = written["md"].read_text(encoding="utf-8")
    assert "| 97 % | nnlab | 2.00 (1.00 to 3.00) | 0.2 | 2 | 99.50 | 99.45 ± 0.00 | yes |" in page
    assert "| 99.4 % | JAX | 2.00 (1.00 to 3.00) | 0.2 | 2 | 99.50 | 90.00 ± 0.00 | no |" in page
    assert "1. The first 55,000" in page
    assert written["png"].read_bytes().startswith(b"\x89PNG")
    text = readme.read_text(encoding="utf-8")
    assert "| JAX | 2.00 | 2.00 | – | 2.00 | 2.00 | – | 0.2 | 0.10 | a CPU, 1 of 2 cores |" in text
    assert text.startswith("before\n<!-- speedrun -->\n")
    assert "old" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--marks", "96"], "--marks: invalid choice: 96.0"),
        (["--contestants", "caffe"], "--contestants: invalid choice: 'caffe'"),
        (["--seeds", "-1"], "--seeds must be at least 0, got -1"),
        (["--limit", "0"], "--limit must be above 0, got 0"),
        (["--threads", "0"], "--threads must be above 0, got 0"),
        (["--plot", "a.doc"], "--plot must end in .png"),
        (["--json", "no/such/folder.json"], "--json must be a file in a folder that exists"),
        (["--readme", "pyproject.toml"], "must have <!-- speedrun --> and <!-- /speedrun -->, once each"),
        (["--readme", "README.md", "--marks", "97"], "--readme needs the rows of all marks"),
        (["--tune", "--json", "a.json"], "--json has no effect with --tune"),
        (["--from", "no.json"], "--from must come with"),
        (["--from", "pyproject.toml", "--plot", "x.png"], "pyproject.toml must be a file that python -m benchmarks"),
        (["--from", "no.json", "--plot", "x.png", "--seeds", "1"], "--seeds has no effect with --from"),
    ],
)
def test_wrong_arguments_are_answered_by_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert benchmarks.main(["speedrun", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m benchmarks speedrun: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_help_says_the_rules(capsys):
    with contextlib.suppress(SystemExit):
        benchmarks.main(["speedrun", "--help"])
    assert "The rules:" in capsys.readouterr().out
    with contextlib.suppress(SystemExit):
        benchmarks.main(["--help"])
    out, _ = capsys.readouterr()
    assert "python -m benchmarks speedrun --help" in out
