"""The conventions of ``nnlab.ops``, by introspection: a new operation is checked from the day it is exported."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from nnlab import ops
from nnlab.validation import ArgumentError
from nnlab.verify.optable import operations
from tests.ops.oracles import SIZES, good_arguments

FUNCTIONS = {name: f for name in ops.__all__ if inspect.isfunction(f := getattr(ops, name))}
FORWARDS = [name for name in FUNCTIONS if name.endswith("_forward")]
FIRST = {"delta", "grad_z", "grad_E", "grad_output"}  # ∂E/∂ of what the forward returned
SAVED = {"u": "z"}  # what a backward takes in place of a forward's argument, as the row of an activation says

each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_forward = pytest.mark.parametrize("name", FORWARDS)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(FUNCTIONS[name]).parameters)


def test_the_table_of_operations_covers_the_package():
    checked = {operation.forward.__name__ for operation in operations() if not operation.network}
    assert checked == set(FORWARDS)


def test_every_public_function_of_the_modules_is_exported():
    for function in FUNCTIONS.values():
        module = inspect.getmodule(function)
        own = {name for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
        helpers = {"he", "glorot", "weights", "check_desired"}  # not operations
        assert {name for name in own if not name.startswith("_")} <= set(ops.__all__) | helpers


def test_every_backward_has_a_forward():
    backwards = {name.replace("_backward", "_forward") for name in FUNCTIONS if name.endswith("_backward")}
    assert backwards == set(FORWARDS)


@each_forward
def test_a_backward_stands_right_below_its_forward(name):
    source = Path(inspect.getmodule(FUNCTIONS[name]).__file__).read_text(encoding="utf-8")
    in_order = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert in_order[in_order.index(name) + 1] == name.replace("_forward", "_backward")


@each_forward
def test_a_backward_takes_the_gradient_and_then_what_the_forward_knew(name):
    forward, backward = parameters(name), parameters(name.replace("_forward", "_backward"))
    first, *others = backward
    assert first in FIRST
    known = [argument for given in forward for argument in (given, SAVED.get(given)) if argument]
    assert others == [argument for argument in known if argument in others]  # named and ordered as there
    for argument in set(others) & set(forward):
        assert backward[argument].default == forward[argument].default
        assert backward[argument].annotation == forward[argument].annotation


def test_a_row_saves_what_its_backward_takes():
    for row in ops.ACTIVATIONS.values():
        assert list(inspect.signature(row.backward).parameters) == ["grad_z", row.saves]


@each_function
def test_every_public_function_has_a_docstring_and_annotations(name):
    assert inspect.getdoc(FUNCTIONS[name])
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters(name).values())
    assert inspect.signature(FUNCTIONS[name]).return_annotation is not inspect.Signature.empty


def tensors(value: Any) -> list[torch.Tensor]:
    return [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, torch.Tensor)]


@each_function
def test_pure_and_true_to_dtype_and_device(name, dtype, device):
    arguments = good_arguments(FUNCTIONS[name], dtype, device)
    before = {key: value.clone() for key, value in arguments.items() if isinstance(value, torch.Tensor)}
    results = tensors(FUNCTIONS[name](**arguments))
    assert results
    assert all(torch.equal(value, arguments[key]) for key, value in before.items())
    for result in results:
        assert result.dtype == (torch.int64 if name == "perceptron_predict" else dtype)
        assert result.device == next(iter(before.values())).device
        assert not result.requires_grad
        shared = [key for key in before if arguments[key].data_ptr() == result.data_ptr()]
        assert not shared or name.startswith("identity_")


@each_function
def test_a_bad_tensor_is_one_clear_error_that_names_it(name, device):
    """For every tensor argument: no tensor, another dtype, one dimension more, and one entry more along each."""
    arguments = good_arguments(FUNCTIONS[name], torch.float32, device)
    shapes = {key: value.shape for key, value in arguments.items() if isinstance(value, torch.Tensor)}
    assert len(set(SIZES.values())) == len(SIZES)  # so that equal sizes are the same letter
    for key, shape in shapes.items():
        tensor, others = arguments[key], [size for k, s in shapes.items() if k != key for size in s]
        bad = {"a list": tensor.tolist()}
        if len(shapes) > 1:
            bad |= {"bfloat16": tensor.bfloat16(), "elsewhere": tensor.to("meta"), "(1, …)": tensor[None]}
        for axis, size in enumerate(shape):
            if size in others:
                bad[f"axis {axis}"] = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
        for what, value in bad.items():
            with pytest.raises(ArgumentError) as caught:
                FUNCTIONS[name](**{**arguments, key: value})
            # where the first tensor is the odd one out the second is blamed, and the first named beside it; labels,
            # which have a dtype of their own, are blamed alone
            message, blamed = str(caught.value), caught.value.argument
            assert blamed in arguments, what
            assert re.search(rf"\b{key}\b", message) or blamed == "target", f"{what}: {message}"
            assert message.startswith(f"{blamed} must "), what
            assert re.search(r", got \S", message), what
            assert "\n" not in message, what
