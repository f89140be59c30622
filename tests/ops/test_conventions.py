"""The conventions of ``nnlab.ops``, held by introspection: a new operation is checked from the day it is exported."""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnlab import ops
from nnlab.validation import ArgumentError
from tests.ops.oracles import CASES, OPS, Op, calls, pairs
from tests.tolerances import assert_close

FUNCTIONS = {name: f for name in ops.__all__ if inspect.isfunction(f := getattr(ops, name))}
FORWARDS = [name for name in FUNCTIONS if name.endswith("_forward")]
UNCHECKED = {"step", "bipolar_step"}  # one comparison each, inside the learning rule's inner loop
FORM_OF_OUTPUT = {"u": "z"}  # what a backward takes in place of a forward's argument

each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_forward = pytest.mark.parametrize("name", FORWARDS)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(FUNCTIONS[name]).parameters)


def test_the_tables_of_the_tests_cover_the_package():
    assert set(calls(torch.float32, torch.device("cpu"))) == set(FUNCTIONS)
    assert {f"{name}_forward" for name in OPS} == set(FORWARDS)
    assert set(CASES) == set(OPS)


def test_every_public_function_of_the_modules_is_exported():
    for name, function in FUNCTIONS.items():
        module = inspect.getmodule(function)
        for other, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not other.startswith("_"):
                assert other in ops.__all__, f"{other} stands beside {name} and is not in __all__"


@each_forward
def test_a_backward_stands_right_below_its_forward(name):
    source = Path(inspect.getsourcefile(FUNCTIONS[name])).read_text(encoding="utf-8")
    in_order = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert in_order[in_order.index(name) + 1] == name.replace("_forward", "_backward")


@each_forward
def test_a_backward_takes_grad_output_and_then_what_the_forward_knew(name):
    forward, backward = parameters(name), parameters(name.replace("_forward", "_backward"))
    first, *others = backward
    assert first == "grad_output"
    known = [FORM_OF_OUTPUT.get(argument, argument) for argument in forward]
    assert others == [argument for argument in known if argument in others]  # named and ordered as there
    for argument in set(others) & set(forward):
        assert backward[argument].default == forward[argument].default
        assert backward[argument].annotation == forward[argument].annotation


def test_every_backward_has_a_forward():
    assert {n.replace("_backward", "_forward") for n in FUNCTIONS if n.endswith("_backward")} == set(FORWARDS)


@pytest.mark.parametrize(("name", "case"), pairs(*OPS), ids=str)
def test_gradients_come_in_the_order_and_shape_of_the_arguments(name, case, dtype, device):
    op, arguments = OPS[name], case.on(dtype, device)
    output = op.forward(*arguments)
    gradients = op.backward(torch.randn_like(output), *op.saved(arguments, output))
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    assert [g.shape for g in gradients] == [a.shape for a in arguments[: op.n_grad]]


@each_function
def test_every_public_function_has_a_docstring_and_annotations(name):
    assert inspect.getdoc(FUNCTIONS[name])
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters(name).values())
    assert inspect.signature(FUNCTIONS[name]).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.endswith("_")])
def test_a_form_in_place_has_its_pure_twin(name):
    assert inspect.signature(FUNCTIONS[name]) == inspect.signature(FUNCTIONS[name.removesuffix("_")])


def tensors(value: Any) -> list[torch.Tensor]:
    return [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, torch.Tensor)]


@each_function
def test_pure_and_true_to_dtype_and_device(name, dtype, device):
    arguments = calls(dtype, device)[name]
    before = {key: value.clone() for key, value in arguments.items() if isinstance(value, torch.Tensor)}
    results = tensors(FUNCTIONS[name](**arguments))
    changed = {key for key, value in before.items() if not torch.equal(value, arguments[key])}
    assert changed == ({"parameter"} if name.endswith("_") else set())
    for result in results:
        assert result.dtype == (torch.int64 if name == "perceptron_predict" else dtype)
        assert result.device == next(iter(before.values())).device
        assert not result.requires_grad
        shared = [key for key in before if arguments[key].data_ptr() == result.data_ptr()]
        assert not shared or name.startswith("identity_") or name.endswith("_")


@pytest.mark.parametrize(("name", "case"), pairs(*OPS), ids=str)
def test_a_forward_that_autograd_records_has_the_same_gradient(name, case, dtype, device):
    """Nothing in a forward hides from autograd: no detached piece, no change in place of what it saved."""
    op: Op = OPS[name]
    arguments = case.on(dtype, device)
    leaves = [a.detach().requires_grad_() for a in arguments[: op.n_grad]]
    output = op.forward(*leaves, *arguments[op.n_grad :])
    cotangent = torch.randn_like(output)
    ours = op.backward(cotangent, *op.saved(arguments, output.detach()))
    for our, recorded in zip(tensors(ours), torch.autograd.grad(output, leaves, cotangent), strict=True):
        assert_close(our, recorded)


# ---- bad input, for every tensor argument of every function ------------------------------------------------------

CORRUPTIONS: dict[str, Callable[[torch.Tensor], object]] = {
    "list": torch.Tensor.tolist,
    "whole numbers": torch.Tensor.int,
    "another dtype": torch.Tensor.bfloat16,
    "another device": lambda t: t.to("meta"),
    "one dimension more": lambda t: t[None],
}
ALONE = {"another dtype", "another device"}  # no fault where there is no other tensor; nor, for a u, another shape


def corrupted() -> list[tuple[str, str, str]]:
    table = []
    for name, arguments in calls(torch.float32, torch.device("cpu")).items():
        given = [key for key, value in arguments.items() if isinstance(value, torch.Tensor)]
        for key in given if name not in UNCHECKED else ():
            for corruption in CORRUPTIONS:
                if len(given) > 1 or corruption not in (ALONE | {"one dimension more"} if key == "u" else ALONE):
                    table.append((name, key, corruption))
    return table


@pytest.mark.parametrize(("name", "argument", "corruption"), corrupted())
def test_a_bad_tensor_is_one_clear_error_that_names_it(name, argument, corruption, device):
    arguments = calls(torch.float32, device)[name]
    with pytest.raises(ArgumentError) as caught:
        FUNCTIONS[name](**{**arguments, argument: CORRUPTIONS[corruption](arguments[argument])})
    message = str(caught.value)
    # where the first tensor is the odd one out the second is blamed, and the first named beside it; labels, which do
    # not share the dtype, are blamed alone
    labels = name.startswith("softmax") and caught.value.argument == "target"
    assert labels or re.search(rf"\b{argument}\b", message), message
    assert caught.value.argument in arguments
    assert message.startswith(f"{caught.value.argument} must ")
    assert re.search(r", got \S", message)
    assert "\n" not in message
