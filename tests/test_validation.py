"""Checks of arguments, each with its one error, and ``@op``, which reads what to check from annotations."""

import math
import pickle
import threading
from typing import Annotated, Literal

import pytest
import torch
from torch import Tensor

from nnlab.validation import (
    NI,
    NK,
    OI,
    AnyShape,
    ArgumentError,
    Between,
    K,
    Labels,
    N,
    NotNegative,
    Positive,
    SampleWeight,
    Scalar,
    check_at_least,
    check_choice,
    check_labels,
    check_not_negative,
    check_positive,
    check_sample_weight,
    check_tensors,
    check_values,
    op,
    resolve_device,
)


def zeros(*shape: int, **kwargs) -> torch.Tensor:
    return torch.zeros(shape, **kwargs)


def refused(message: str):
    """One ArgumentError with exactly this message, named after its first word."""
    return pytest.raises(ArgumentError, match=f"^{message}$")


def test_an_argument_error_is_the_same_in_another_process():
    error = ArgumentError("lr", "must be greater than 0")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.argument) == (ArgumentError, str(error), "lr")


def test_an_argument_error_knows_its_argument_and_is_a_value_error():
    error = ArgumentError("lr", "must be greater than 0")
    assert isinstance(error, ValueError)
    assert error.argument == "lr"
    assert str(error) == "lr must be greater than 0"


# ---- tensors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"x": (zeros(5, 3), "N I"), "weight": (zeros(2, 3), "O I"), "bias": (zeros(2), "O")},
        {"x": (zeros(3, 3), "N I"), "weight": (zeros(3, 3), "O I")},
        {"x": (zeros(0, 3), "N I"), "weight": (zeros(0, 3), "O I")},
        {"scalar": (zeros(), ""), "x": (zeros(5), "N")},
        {"a": (zeros(2, 3, 4), "..."), "b": (zeros(2, 3, 4), "...")},
        {"a": (zeros(), "..."), "b": (zeros(), "...")},
        {"x": (zeros(2, dtype=torch.bfloat16), "N"), "y": (zeros(2, dtype=torch.bfloat16), "N")},
        {"x": (zeros(2, device="meta"), "N"), "y": (zeros(2, device="meta"), "N")},
        {"x": (zeros(4, 4).T[::2], "N I")},
    ],
)
def test_tensors_that_agree_pass(arguments):
    check_tensors(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": ([1.0], "N")}, r"x must be a torch\.Tensor, got list"),
        ({"x": (None, "N")}, r"x must be a torch\.Tensor, got NoneType"),
        ({"x": (zeros(2), "N"), "y": (1.0, "N")}, r"y must be a torch\.Tensor, got float"),
        ({"x": (zeros(2, dtype=torch.int64), "N")}, "x must be a floating-point tensor, got int64"),
        ({"x": (zeros(2, dtype=torch.bool), "N")}, "x must be a floating-point tensor, got bool"),
        ({"x": (zeros(2, dtype=torch.complex64), "N")}, "x must be a floating-point tensor, got complex64"),
        (
            {"x": (zeros(2), "N"), "y": (zeros(2).double(), "N")},
            "y must have the dtype of x, float32, got float64",
        ),
        ({"x": (zeros(2), "N"), "y": (zeros(2).long(), "N")}, "y must have the dtype of x, float32, got int64"),
        (
            {"x": (zeros(2), "N"), "y": (zeros(2, device="meta"), "N")},
            "y must be on the device of x, cpu, got meta",
        ),
        ({"x": (zeros(2), "N I")}, r"x must have shape \(N, I\), got \(2,\)"),
        ({"x": (zeros(2, 1), "N")}, r"x must have shape \(N,\), got \(2, 1\)"),
        ({"x": (zeros(1), "")}, r"x must have shape \(\), got \(1,\)"),
        ({"x": (zeros(2, 3), "N N")}, r"x must have shape \(N, N\), got \(2, 3\)"),
        (
            {"x": (zeros(5, 3), "N I"), "w": (zeros(2, 4), "O I")},
            r"w must have shape \(O, I\) with I = 3 as in x, got \(2, 4\)",
        ),
        (
            {"x": (zeros(5, 3), "N I"), "w": (zeros(3), "O I")},
            r"w must have shape \(O, I\) with I = 3 as in x, got \(3,\)",
        ),
        (
            {"x": (zeros(5, 3), "N I"), "w": (zeros(2, 3), "O I"), "y": (zeros(5, 3), "N O")},
            r"y must have shape \(N, O\) with N = 5 as in x and O = 2 as in w, got \(5, 3\)",
        ),
        (
            {"a": (zeros(3), "..."), "b": (zeros(1, 3), "...")},
            r"b must have the shape of a, \(3,\), got \(1, 3\)",
        ),
        ({"a": (zeros(3), "..."), "b": (zeros(), "...")}, r"b must have the shape of a, \(3,\), got \(\)"),
    ],
)
def test_tensors_that_disagree_are_named(arguments, message):
    with refused(message) as caught:
        check_tensors(**arguments)
    assert caught.value.argument == message.split()[0]


@pytest.mark.parametrize("other", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_the_device_is_named_as_torch_names_it(other):
    x, y = zeros(2, device=other), zeros(2, device="meta")
    with refused(f"y must be on the device of x, {x.device}, got meta"):
        check_tensors(x=(x, "N"), y=(y, "N"))


# ---- labels and sample weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [2, 2, 2, 2], []])
def test_labels_in_range_pass(labels):
    check_labels(torch.tensor(labels, dtype=torch.int64), zeros(len(labels), 3), 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"target must be a torch\.Tensor, got list"),
        (torch.tensor([0.0, 1.0]), "target must hold class labels as int64, got float32"),
        (torch.tensor([0, 1]).int(), "target must hold class labels as int64, got int32"),
        (torch.tensor([True, False]), "target must hold class labels as int64, got bool"),
        (torch.tensor([0, 1]).to("meta"), "target must be on cpu, got meta"),
        (torch.tensor([0, 1, 2]), r"target must have shape \(N,\) with N = 2, got \(3,\)"),
        (torch.tensor([[0], [1]]), r"target must have shape \(N,\) with N = 2, got \(2, 1\)"),
        (torch.tensor(0), r"target must have shape \(N,\) with N = 2, got \(\)"),
        (torch.tensor([0, 3]), "target must hold labels from 0 to 2, got 3"),
        (torch.tensor([-1, 2]), "target must hold labels from 0 to 2, got -1"),
        (torch.tensor([-1, 9]), "target must hold labels from 0 to 2, got -1"),
        (torch.tensor([2**62, 0]), f"target must hold labels from 0 to 2, got {2**62}"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with refused(message):
        check_labels(labels, zeros(2, 3), 3)
    with refused(message.replace("target", "labels", 1)):
        check_labels(labels, zeros(2, 3), 3, "labels")


@pytest.mark.parametrize("weight", [[1.0], [0.0, 1e-30], [5.0, 0.0, 2.0], []])
def test_sample_weights_that_weigh_pass(weight):
    check_sample_weight(torch.tensor(weight))


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        ([1.0, -1e-30], "must be finite and not negative"),
        ([math.nan, 1.0], "must be finite and not negative"),
        ([1.0, math.inf], "must be finite and not negative"),
        ([-math.inf, 1.0], "must be finite and not negative"),
        ([0.0, 0.0], "must not be zero for every sample"),
        ([-0.0], "must not be zero for every sample"),
    ],
)
def test_sample_weights_that_do_not_are_refused(weight, problem):
    with refused(f"sample_weight {problem}"):
        check_sample_weight(torch.tensor(weight))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 1.5], "y must hold values from 0 to 1, got 0 to 1.5"),
        ([-0.25, 1.0], "y must hold values from 0 to 1, got -0.25 to 1"),
        ([0.5, math.nan], "y must hold values from 0 to 1, got nan to nan"),
    ],
)
def test_values_outside_their_bounds_are_refused(values, message):
    for good in ([0.0, 1.0], []):
        Between(0, 1)("y", torch.tensor(good), {})
    with refused(message):
        Between(0, 1)("y", torch.tensor(values), {})


@pytest.mark.parametrize("other", [0.5, 2.0, math.nan])
def test_values_that_are_not_allowed_are_refused(other):
    allowed = torch.tensor([0.0, 1.0])
    check_values("d", torch.tensor([1.0, 0.0, 1.0]), allowed)
    check_values("d", torch.tensor([]), allowed)
    with refused(f"d must hold 0 and 1 alone, got {other:g}"):
        check_values("d", torch.tensor([1.0, other]), allowed)


def test_values_on_a_device_are_not_read_unless_asked_for():
    """Reading them would stop the device's stream; "meta" stands for one, whose values cannot be read at all."""
    far = {"device": "meta"}
    check_labels(zeros(5, dtype=torch.int64, **far), zeros(5, 3, **far), 3)
    check_sample_weight(zeros(5, **far))
    check_values("d", zeros(5, **far), zeros(2, **far))
    Between(1, 2)("y", zeros(5, **far), {})
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        check_labels(zeros(5, dtype=torch.int64, **far), zeros(5, 3, **far), 3, everywhere=True)


# ---- numbers and names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["Sum", "", "su", None, 0])
def test_a_choice_outside_the_list_names_them_all(value):
    check_choice("reduction", "sum", ["sum", "mean"])
    with refused(f"reduction must be one of 'sum', 'mean', got {value!r}"):
        check_choice("reduction", value, ["sum", "mean"])


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None, math.nan])
def test_a_whole_number_below_its_minimum_or_none_is_refused(value):
    check_at_least("block", 1, 1)
    check_at_least("block", 10**12, 1)
    with refused(f"block must be a whole number of at least 1, got {value!r}"):
        check_at_least("block", value, 1)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1e-300, math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_positive_is_refused(value):
    check_positive("lr", 5e-324)
    check_positive("lr", 1)
    with refused(f"lr must be a number greater than 0, got {value!r}"):
        check_positive("lr", value)


@pytest.mark.parametrize("value", [-1, -5e-324, math.nan, math.inf, -math.inf])
def test_a_number_that_is_negative_is_refused(value):
    check_not_negative("l2", 0)
    check_not_negative("l2", -0.0)
    check_not_negative("l2", 1e300)
    with refused(f"l2 must be a number of at least 0, got {value!r}"):
        check_not_negative("l2", value)


# ---- devices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("there_is_one", "automatic"), [(True, "cuda"), (False, "cpu")])
def test_a_device_is_found_by_its_name(there_is_one, automatic, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is_one)
    assert resolve_device("auto") == torch.device(automatic)
    assert resolve_device("cpu") == torch.device("cpu")
    if there_is_one:
        assert resolve_device("cuda:0") == torch.device("cuda", 0)
    else:
        with refused("device must be 'cpu' or 'auto' where torch finds no CUDA device, got 'cuda'"):
            resolve_device("cuda")


@pytest.mark.parametrize("name", ["abacus", "cpu:x", 3.5])
def test_a_device_that_torch_does_not_know_is_refused(name):
    with refused(f"device must be 'auto' or a device as torch names it, got {name!r}"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["mps", "meta"])
def test_a_device_that_nnlab_does_not_run_on_is_refused(name):
    with refused(f"device must be 'cpu', 'cuda' or 'auto', got '{name}': nnlab runs on no other device"):
        resolve_device(name)


# ---- @op --------------------------------------------------------------------------------------------------------


@op
def scaled(
    x: NI, weight: OI, factor: Positive = 1.0, offset: K | None = None, side: Literal["left", "right"] = "left"
) -> Tensor:
    """An operation with everything that an annotation can say."""
    return factor * (x @ weight.T) + (0 if offset is None else offset.sum())


X, W = zeros(5, 3), zeros(2, 3)


def test_a_call_passes_by_position_by_name_and_by_default():
    for call in (
        lambda: scaled(X, W),
        lambda: scaled(weight=W, x=X),
        lambda: scaled(X, W, 2.0, zeros(4), "right"),
        lambda: scaled(X, W, side="right", offset=None),
    ):
        assert call().shape == (5, 2)
    assert scaled.__name__ == "scaled"
    assert scaled.__doc__ == "An operation with everything that an annotation can say."


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scaled(X, zeros(2, 4)), r"weight must have shape \(O, I\) with I = 3 as in x, got \(2, 4\)"),
        (lambda: scaled(X, weight=zeros(2, 4)), r"weight must have shape \(O, I\) with I = 3 as in x, got \(2, 4\)"),
        (lambda: scaled(weight=zeros(2, 4), x=X), r"weight must have shape \(O, I\) with I = 3 as in x, got \(2, 4\)"),
        (lambda: scaled(None, W), r"x must be a torch\.Tensor, got NoneType"),
        (lambda: scaled(X, W, offset=zeros(2, 2)), r"offset must have shape \(K,\), got \(2, 2\)"),
        (lambda: scaled(X, W, offset=zeros(2).double()), "offset must have the dtype of x, float32, got float64"),
        (lambda: scaled(X, W, 1.0, 3), r"offset must be a torch\.Tensor, got int"),
        (lambda: scaled(X, W, 0.0), r"factor must be a number greater than 0, got 0\.0"),
        (lambda: scaled(X, W, factor=-1), "factor must be a number greater than 0, got -1"),
        (lambda: scaled(X, W, side="up"), "side must be one of 'left', 'right', got 'up'"),
        (lambda: scaled(X, W, side=None), "side must be one of 'left', 'right', got None"),
        (lambda: scaled(X, W, None), "factor must be a number greater than 0, got None"),
        (lambda: scaled(X, W, 1.0, None, "up"), "side must be one of 'left', 'right', got 'up'"),
        (lambda: scaled(zeros(5), W, 0.0, side="up"), r"x must have shape \(N, I\), got \(5,\)"),  # tensors first
    ],
)
def test_a_call_is_checked_against_the_annotations(call, message):
    with refused(message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scaled(X), r"scaled\(\) missing 1 required positional argument: 'weight'"),
        (lambda: scaled(weight=W), r"scaled\(\) missing 1 required positional argument: 'x'"),
        (
            lambda: scaled(X, W, 1.0, None, "left", 6),
            r"scaled\(\) takes from 2 to 5 positional arguments but 6 were given",
        ),
        (lambda: scaled(X, W, 1.0, factor=2.0), r"scaled\(\) got multiple values for argument 'factor'"),
        (lambda: scaled(X, W, depth=2), r"scaled\(\) got an unexpected keyword argument 'depth'"),
    ],
)
def test_too_many_or_too_few_arguments_are_pythons_own_error(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_every_kind_of_annotation_is_checked():
    @op
    def everything(
        logits: NK,
        target: Labels,
        weight: SampleWeight | None = None,
        scale: Scalar | None = None,
        l2: NotNegative = 0.0,
    ) -> None: ...

    @op
    def values(a: AnyShape, b: AnyShape, c: Annotated[Tensor, "N", Between(0, 1)], d: N | None = None) -> None: ...

    logits, labels = zeros(5, 3), torch.zeros(5, dtype=torch.int64)
    everything(logits, labels, torch.ones(5), zeros(), 0.0)
    values(zeros(2, 3), zeros(2, 3), zeros(4), zeros(4))
    with refused("target must hold labels from 0 to 2, got 3"):
        everything(logits, labels + 3)
    with refused("weight must not be zero for every sample"):
        everything(logits, labels, zeros(5))
    with refused(r"scale must have shape \(\), got \(1,\)"):
        everything(logits, labels, scale=zeros(1))
    with refused(r"l2 must be a number of at least 0, got -0\.5"):
        everything(logits, labels, l2=-0.5)
    with refused(r"b must have the shape of a, \(2, 3\), got \(3,\)"):
        values(zeros(2, 3), zeros(3), zeros(4))
    with refused("c must hold values from 0 to 1, got 2 to 2"):
        values(zeros(2), zeros(2), zeros(4) + 2)
    with refused(r"d must have shape \(N,\) with N = 4 as in c, got \(5,\)"):
        values(zeros(2), zeros(2), zeros(4), zeros(5))


@pytest.fixture
def counted():
    """An operation within another, and the number of checks that calls of them took."""
    calls: list[str] = []

    def count(name: str, value: float, arguments: dict[str, object]) -> None:
        calls.append(name)

    @op
    def inner(x: AnyShape, a: Annotated[float, count] = 0.0, fail: bool = False) -> Tensor:
        if fail:
            raise ZeroDivisionError
        return x

    @op
    def outer(x: AnyShape, b: Annotated[float, count] = 0.0, fail: bool = False) -> Tensor:
        return inner(inner(x), 1.0, fail)

    return inner, outer, calls


def test_the_outermost_call_alone_is_checked(counted):
    inner, outer, calls = counted
    outer(X)
    assert calls == ["b"]
    inner(X)
    outer(X)
    assert calls == ["b", "a", "b"]


def test_after_an_error_the_next_call_is_checked_again(counted):
    _, outer, calls = counted
    with pytest.raises(ZeroDivisionError):
        outer(X, fail=True)
    outer(X)
    with refused(r"x must be a torch\.Tensor, got list"):
        outer([1.0])
    outer(X)
    assert calls == ["b"] * 3


def test_a_call_within_a_call_of_another_thread_is_checked(counted):
    """While one thread is inside an operation, another one's first call is an outermost call."""
    inner, _, calls = counted
    entered, go_on = threading.Event(), threading.Event()

    @op
    def waiting(x: AnyShape) -> Tensor:
        entered.set()
        assert go_on.wait(10)
        return inner(x)

    thread = threading.Thread(target=waiting, args=(X,))
    thread.start()
    assert entered.wait(10)
    inner(X)
    assert calls == ["a"]
    go_on.set()
    thread.join()
    assert calls == ["a"]  # and the call inside the first thread's is not


@pytest.mark.slow
def test_a_compiled_function_leaves_the_checks_out(counted):
    inner, _, calls = counted
    compiled = torch.compile(lambda x: 2 * inner(x), fullgraph=True, backend="eager")
    assert torch.equal(compiled(X), 2 * X)
    assert calls == []
