"""Own data: the same samples in any form are the same data, and whatever is wrong with them is one line."""

import csv
import gzip
import importlib.util
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nnlab.data import DataError, Own, load_own, own, write_idx
from nnlab.training import MNISTDataModule, read_checkpoint
from nnlab.validation import ArgumentError
from tests.training.runs import files_in, fit, nnlab

N, SIDE = 60, 6
HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
FIT = ("--optimizer=SGD", "--optimizer.lr=0.1", "--trainer.max_epochs=2", "--model.hidden=4")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def samples(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of three classes whose brightness tells them apart, and their classes."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (random.integers(0, 56, (n, SIDE, SIDE)) + 100 * y[:, None, None]).astype(np.uint8), y


def as_idx(path: Path, x: np.ndarray, y: np.ndarray, names: tuple[str, str] = ("pictures", "answers")) -> Path:
    path.mkdir(exist_ok=True)
    write_idx(path / names[0], torch.from_numpy(x))
    write_idx(path / names[1], torch.from_numpy(y.astype(np.uint8)))
    return path


def as_npz(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    np.savez(path, x=x, y=y)
    return path


def as_csv(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    columns = [f"pixel{k}" for k in range(x[0].size)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["label", *columns], *([b, *a.ravel()] for a, b in zip(x, y, strict=True))])
    return path


def as_pictures(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    for k, (pixels, label) in enumerate(zip(x, y, strict=True)):
        (path / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / str(label) / f"{k}.png")
    return path


def as_parquet(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    values = {f"pixel{k}": column for k, column in enumerate(x.reshape(len(x), -1).T)}
    parquet.write_table(pa.table({"label": y, **values}), path)
    return path


FORMS: dict[str, Callable[[Path, np.ndarray, np.ndarray], Path]] = {
    "idx": as_idx,
    "a.npz": as_npz,
    "a.csv": as_csv,
    "png": as_pictures,
    **({"a.parquet": as_parquet} if HAS_PYARROW else {}),
}


def written(form: str) -> Path:
    return FORMS[form](Path(form), *samples())


def assert_equal(one: Own, other: Own) -> None:
    for split in ("train", "test"):
        for a, b in zip(getattr(one, split), getattr(other, split), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a.flatten(1) if a.ndim > 1 else a, b.flatten(1) if b.ndim > 1 else b)
    assert (one.classes, one.max_pixel, one.test_index.tolist()) == (
        other.classes,
        other.max_pixel,
        other.test_index.tolist(),
    )


# the same data


def test_every_form_gives_the_same_model_to_the_last_bit_and_is_read_once(monkeypatch):
    states, parts_of, read = {}, own._parts, []
    monkeypatch.setattr(own, "_parts", lambda path, label: read.append(path.name) or parts_of(path, label))
    for form in FORMS:
        ended = fit("--data.path", written(form), *FIT, f"--trainer.default_root_dir=runs/{form}")
        assert any(f"{form}: 46 samples" in line and "classes 0, 1, 2" in line for line in ended.lines)
        last = read_checkpoint(Path(f"runs/{form}/LitMLP/version_0/checkpoints/last.ckpt"))
        assert last["datamodule_hyper_parameters"]["classes"] == ["0", "1", "2"]
        states[form] = last["state_dict"]
    assert read == list(FORMS)
    assert own._kept == {}
    for form, state in states.items():
        for name, value in state.items():
            assert torch.equal(value, states["idx"][name]), (form, name)


def test_the_split_rule():
    x, y = samples()
    data = load_own(as_npz(Path("a.npz"), x, y))
    order = np.random.RandomState(0).permutation(N)
    index = np.sort(order[-N // 6 :])
    assert data.test_index.tolist() == index.tolist()
    assert np.array_equal(data.test.images, x[index])
    assert np.array_equal(data.train.images, x[order[: -N // 6]])
    assert np.array_equal(data.train.labels, y[order[: -N // 6]])
    assert (data.in_features, data.n_classes, data.max_pixel) == (36, 3, 255)


def parts(form: str, path: Path) -> Path:
    """The samples with a test part of its own, of 12."""
    train, test = samples(), samples(12, seed=1)
    if form == "idx":
        as_idx(path, *train, names=("train-images", "train-labels"))
        return as_idx(path, *test, names=("t10k-images", "t10k-labels"))
    if form == "npz":
        keras = dict(zip(("x_train", "y_train", "x_test", "y_test"), (*train, *test), strict=True))
        np.savez(path.with_suffix(".npz"), **keras)
        return path.with_suffix(".npz")
    path.mkdir()
    names = ("my_train.csv", "my_test.csv") if form == "csv" else ("train", "test")
    for name, part in zip(names, (train, test), strict=True):
        (as_csv if form == "csv" else as_pictures)(path / name, *part)
    return path


def test_a_test_part_by_its_name_keeps_its_order():
    found = [load_own(parts(form, Path(form))) for form in ("idx", "csv", "png", "npz")]
    for other in found:
        assert_equal(other, found[0])
    x, y = samples(12, seed=1)
    assert np.array_equal(found[0].test.images, x)
    assert np.array_equal(found[0].test.labels, y)
    assert found[0].test_index.tolist() == list(range(12))
    assert found[0].n_train == N


def test_gzip_and_a_path_of_one_file_among_several_data_sets():
    x, y = samples()
    for name in ("emnist-mnist-", "emnist-letters-"):
        as_idx(Path("e"), x, y, (f"{name}train-images-idx3-ubyte", f"{name}train-labels-idx1-ubyte"))
        as_idx(Path("e"), x[:12], y[:12], (f"{name}test-images-idx3-ubyte", f"{name}test-labels-idx1-ubyte"))
    path = Path("e/emnist-letters-train-images-idx3-ubyte")
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    data = load_own(path.with_suffix(".gz"))
    assert (data.n_train, data.n_test) == (N, 12)
    assert np.array_equal(data.test.images, x[:12].transpose(0, 2, 1))  # EMNIST's lie on their side
    assert data.note == "the pictures of EMNIST are put upright"
    with pytest.raises(DataError, match=r"found emnist-.* as the train part, expected one file of pictures"):
        load_own("e")


def test_text_labels_and_classes_in_the_predictions():
    x, y = samples()
    as_csv(Path("a.csv"), x, np.array(["cat", "ant", "bee"])[y])
    ended = fit("--data.path=a.csv", *FIT)
    assert "classes ant, bee, cat" in ended.out
    best = "runs/LitMLP/version_0/checkpoints/best.ckpt"
    refused = nnlab("predict", "--ckpt_path", best)
    assert refused.status == 2
    assert "--data.path was set" in refused.err
    assert nnlab("predict", "--ckpt_path", best, "--data.path=a.csv").status == 0
    with Path("runs/LitMLP/version_1/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == N // 6
    for row in rows:
        assert row["target"] == ["cat", "ant", "bee"][int(row["index"]) % 3]
        assert row["prediction"] in ("ant", "bee", "cat")
    other = nnlab("test", "--ckpt_path", best, "--data.path", as_npz(Path("a.npz"), x, y))
    assert (other.status, len(other.err.splitlines())) == (2, 1)
    assert "classes is ['0', '1', '2'], but" in other.err
    assert "was trained with ['ant', 'bee', 'cat'] (--data.path)" in other.err


def test_a_run_goes_on_to_the_same_bits():
    written("a.csv")
    fit("--data.path=a.csv", *FIT)
    fit("--data.path=a.csv", *FIT, "--trainer.max_epochs=1", "--trainer.default_root_dir=one")
    last = "one/LitMLP/version_0/checkpoints/last.ckpt"
    fit("--ckpt_path", last, "--data.path=a.csv", "--trainer.max_epochs=2", "--trainer.default_root_dir=two")
    whole, resumed = (
        read_checkpoint(Path(f"{root}/LitMLP/version_0/checkpoints/last.ckpt"))["state_dict"]
        for root in ("runs", "two")
    )
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


# labels and values


@pytest.mark.parametrize(
    ("text", "label", "classes", "width"),
    [
        ("a,label,b\n1.5,1,2\n2.5,3,4\n", None, ("1", "3"), 2),  # with a gap
        ("a,b,kind\n1.5,2,x\n2.5,4,10\n", None, ("10", "x"), 2),
        ("kind,0,1\n2,1.5,2\n-1,2.5,4\n", "kind", ("-1", "2"), 2),
        ("9,1.5,2\n10,2.5,4\n", "0", ("9", "10"), 2),  # no names
        ('"x, y",label\n1.5,"no, it is"\n2.5,yes\n', None, ("no, it is", "yes"), 1),
        ("\ufeffa,label\r\n1.5,1.0\r\n\r\n2.5,2.0\r\n", None, ("1", "2"), 1),
    ],
)
def test_labels_of_a_csv(text, label, classes, width):
    head, *rows = text.splitlines(keepends=True)
    rows = rows or []
    if label == "0":
        head, rows = "", [head, *rows]
    Path("a.csv").write_text(head + "".join(rows) * 20, encoding="utf-8", newline="")
    data = load_own("a.csv", label)
    assert (data.classes, data.in_features) == (classes, width)
    assert data.train.images.dtype == torch.float32
    assert sorted(set(data.train.images[:, 0].tolist())) == [1.5, 2.5]


def test_values_that_are_no_pixels_are_used_as_they_are():
    x, y = samples()
    path = as_npz(Path("a.npz"), x / 255, y)
    with pytest.raises(
        ArgumentError, match=r"^scaling must be raw for values that are no pixels from 0 to 255, got unit"
    ):
        MNISTDataModule(path=str(path))
    data = MNISTDataModule(path=str(path), scaling="raw")
    data.setup("test")
    ((images, _),) = data.test_dataloader()
    assert np.array_equal(images, (x / 255).astype(np.float32)[data.test_index].reshape(-1, 36))
    as_npz(path, x // 2, y)  # bytes, of which none is above 127
    with pytest.raises(ArgumentError, match=r"^scaling must be raw"):
        MNISTDataModule(path=str(path), scaling="bipolar")


def test_distortion_needs_square_pictures():
    x, y = samples()
    assert MNISTDataModule(path=str(as_csv(Path("a.csv"), x, y)), distort="on").distort
    as_npz(Path("b.npz"), x.reshape(N, 4, 9), y)
    assert MNISTDataModule(path="b.npz").in_features == 36
    with pytest.raises(ArgumentError, match=r"^distort must be off for samples that are no square"):
        MNISTDataModule(path="b.npz", distort="on")


# what is wrong


def table(rows: str, head: str = "a,label", n: int = 20) -> Callable[[], None]:
    return lambda: Path("bad.csv").write_text(f"{head}\n" + rows * n, encoding="utf-8") and None


def npz(**arrays: object) -> Callable[[], None]:
    return lambda: np.savez("bad.npz", **arrays)


def pictures(change: Callable[[Path], object]) -> Callable[[], None]:
    return lambda: change(as_pictures(Path("bad"), *samples())) and None


def idx(change: Callable[[Path], object]) -> Callable[[], None]:
    return lambda: change(as_idx(Path("bad"), *samples())) and None


def picture(pixels: np.ndarray, name: str = "0/0.png") -> Callable[[], None]:
    return pictures(lambda path: Image.fromarray(pixels).save(path / name))


X, Y = samples()
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: None, "bad: found no such file or folder, expected an IDX file"),
    "an empty folder": (lambda: Path("bad").mkdir(), "bad: found an empty folder"),
    "another kind": (lambda: Path("bad").write_text("?"), "bad: found a file of another kind"),
    "a missing label column": (table("1,2\n"), "bad.csv: found no column kind among a, label"),
    "one class": (table("1,2\n"), "bad.csv: found one class, 2, expected 2 to 1,000"),
    "an empty file": (lambda: Path("bad.csv").write_text(""), "bad.csv: found an empty first line"),
    "no rows": (table(""), "bad.csv: found no samples"),
    "one column": (table("1;2\n", "a;label"), "found one column, 'a;label', expected columns apart by commas"),
    "a word for a number": (table("1,2\nx,3\n"), "bad.csv: found 'x' in row 2, a, expected a number"),
    "an empty cell": (table("1,2\n,3\n"), "bad.csv: found '' in row 2, a, expected a number"),
    "NaN": (table("1,2\nnan,3\n"), "bad.csv: found NaN in sample 2, a, expected finite numbers"),
    "infinity": (table("1,2\n1e39,3\n"), "bad.csv: found infinity in sample 2, a"),
    "an empty label": (table("1,2\n1,\n"), "bad.csv: found the label '', expected a whole number, or a word"),
    "a label NaN": (table("1,2\n1,nan\n"), "bad.csv: found the label 'nan'"),
    "a fraction as label": (table("1,2\n1,2.5\n"), "bad.csv: found the label 2.5, expected whole numbers, or words"),
    "a short row": (table("1,2\n3\n"), "bad.csv: found 1 cells in row 2, expected 2"),
    "too many classes": (table("".join(f"1,k{k}\n" for k in range(1001))), "more than 1,000 different labels"),
    "a column twice": (table("1,2,3\n", "a,label,label"), "bad.csv: found 2 columns label, expected one"),
    "no text": (lambda: Path("bad.csv").write_bytes(b"a,label\n\xff,1\n"), "bad.csv: found bytes that are no text"),
    "too few samples": (table("1,2\n1,3\n", n=5), "found 9 samples to train on, expected at least 12"),
    "a class of one sample": (
        lambda: as_npz(Path("bad.npz"), X, np.where(np.arange(N) == np.random.RandomState(0).permutation(N)[-1], 7, Y)),
        "bad.npz: found no sample of class 7 to train on",
    ),
    "no y": (npz(x=X), "bad.npz: found the arrays x, expected x and y"),
    "pickled": (npz(x=X, y=Y.astype(object)), "bad.npz: found that it cannot be read (Object arrays cannot be"),
    "other lengths": (npz(x=X, y=Y[1:]), "bad.npz: found y of int64 and shape (59,), expected 60 numbers or words"),
    "one-hot labels": (npz(x=X, y=np.eye(3)[Y]), "bad.npz: found y of float64 and shape (60, 3)"),
    "complex numbers": (npz(x=X + 1j, y=Y), "bad.npz: found x of complex128"),
    "no zip": (lambda: Path("bad.npz").write_bytes(b"PK\x03\x04 nothing"), "bad.npz: found that it cannot be read"),
    "mixed sizes": (
        picture(np.zeros((5, 7), np.uint8), "0/3.png"),
        "bad/0/3.png: found 7×5 pixels, expected 6×6 as 0/0.png",
    ),
    "16 bits": (picture(np.zeros((6, 6), np.uint16)), "bad/0/0.png: found pixels of the kind I;16"),
    "transparent": (picture(np.zeros((6, 6, 4), np.uint8)), "bad/0/0.png: found pixels that are transparent"),
    "a damaged picture": (
        pictures(lambda path: (path / "0/0.png").write_bytes((path / "0/0.png").read_bytes()[:40])),
        "bad/0/0.png: found that it cannot be read",
    ),
    "an empty class": (pictures(lambda path: (path / "9").mkdir()), "bad/9: found an empty folder"),
    "a text among pictures": (
        pictures(lambda path: (path / "0/a.txt").write_text("")),
        "bad/0/a.txt: found no picture",
    ),
    "a file beside classes": (
        pictures(lambda path: (path / "a.csv").write_text("")),
        "a.csv: found a file beside folders",
    ),
    "pictures without classes": (
        lambda: Path("bad").mkdir() or Image.fromarray(X[0]).save("bad/a.png"),
        "bad/a.png: found a picture in no folder of a class",
    ),
    "no labels": (idx(lambda path: (path / "answers").unlink()), "bad: found pictures as the train part, expected one"),
    "fewer labels": (
        idx(lambda path: write_idx(path / "answers", torch.zeros(59, dtype=torch.uint8))),
        "bad/answers: found 59 labels, expected 60, as in pictures",
    ),
    "cut IDX": (
        idx(lambda path: (path / "pictures").write_bytes((path / "pictures").read_bytes()[:-1])),
        "bad/pictures: found 2175 bytes, expected 2176",
    ),
    "a test part alone": (
        lambda: as_idx(Path("bad"), X, Y, ("test-images", "test-labels")),
        "found a test part alone, expected a training part",
    ),
    "a test part of other sizes": (
        lambda: parts("csv", Path("bad")) and as_csv(Path("bad/my_test.csv"), X[:, :5], Y),
        "bad/my_test.csv: found samples of shape (30,), expected those of my_train.csv",
    ),
    "several tables": (
        lambda: parts("csv", Path("bad")) and as_csv(Path("bad/more.csv"), X, Y),
        "bad: found the files more.csv, my_test.csv, my_train.csv, expected one file",
    ),
    "a label for pictures": (lambda: as_pictures(Path("bad"), X, Y), "bad: found no columns, expected a CSV or"),
}
WITH_LABEL = {"a missing label column": "kind", "a label for pictures": "kind"}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case):
    make, message = WRONG[case]
    make()
    path = next((str(p) for p in Path().iterdir()), "bad")
    with pytest.raises(DataError) as error:
        load_own(path, WITH_LABEL.get(case))
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_command_ends_with_2_and_writes_nothing():
    table("1,2\n")()
    flags = {
        ("--data.path=bad.csv",): "bad.csv: found one class, 2",
        (
            "--data.path=bad.csv",
            "--data.name=digits",
        ): "name must be null where path is given, got digits (--data.name)",
        ("--data.path=bad.csv", "--data.root=here"): "root must be null where path is given, got here (--data.root)",
        ("--data.label=a",): "label needs the path of own data, got a without it (--data.label)",
    }
    before = files_in(Path())
    for given, message in flags.items():
        ended = nnlab("fit", *given)
        assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
        assert message in ended.err
    assert files_in(Path()) == before


def test_an_extra_that_is_missing_is_named(monkeypatch):
    Path("a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"^a.parquet: Parquet needs pyarrow: pip install 'nnlab\[data\]'$"):
        load_own("a.parquet")


# memory


@pytest.mark.parametrize("form", ["idx", "a.npz", "a.csv", "png"])
def test_what_does_not_fit_is_refused_unread(monkeypatch, form):
    path = written(form)
    monkeypatch.setattr(own, "available_memory", lambda: 5000.0)
    with pytest.raises(DataError, match=r"which (need|takes) .* expected at most"):
        load_own(path)


def test_no_line_is_read_that_has_no_end(monkeypatch):
    monkeypatch.setattr(own, "LONGEST_LINE", 1000)
    Path("a.csv").write_text("a,label\n" + "1" * 2000)
    with pytest.raises(DataError, match="found a line of over 1,000 characters after row 0"):
        load_own("a.csv")


@pytest.mark.parametrize("form", ["a.npz", "a.csv"])
def test_reading_takes_about_twice_the_size_of_the_data(form):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (12_000, 100), dtype=np.uint8)
    path = FORMS[form](Path(form), x, np.arange(12_000) % 3)
    tracemalloc.start()
    try:
        load_own(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * x.size + 6 * 2**20  # the pieces in which it is read


def test_available_memory_is_known():
    assert 2**20 < own.available_memory() < 2**50
