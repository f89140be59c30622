"""Every mistake of the catalogue is made in operations and networks drawn by lot: all refused, nine in ten named."""

from collections import Counter
from typing import Any, NamedTuple

import pytest
import torch

from nnlab.verify import CATALOGUE, check_gradients
from nnlab.verify.backprop import Backward, Steps, backward_of
from nnlab.verify.mutants import MUTANTS
from nnlab.verify.subjects import KINDS, Subject, subject

pytestmark = pytest.mark.slow

DRAWS = 3
BASE = 20_000  # of the seeds
NOT_IN_ONE_CALL = {"at-zero", "stale-cache", "not-zeroed", "in-place", "random"}


class Outcome(NamedTuple):
    fault: str
    seed: int
    ok: bool
    first: str
    diagnosis: str


def is_wrong(case: Subject, backward: Backward) -> bool:
    """Whether a mistake changes anything here: a mean over one sample, for instance, is a sum."""
    right, output = backward_of(case, Steps()), case.forward(*case.inputs)
    cotangent = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    try:
        found = backward(cotangent.clone(), *case.inputs)
    except Exception:
        return True
    pairs = zip(found, right(cotangent, *case.inputs), strict=False)
    return len(found) != len(case.inputs) or any(_differ(f, r) for f, r in pairs if r is not None)


def _differ(found: Any, right: torch.Tensor) -> bool:
    return found is None or found.shape != right.shape or not (found - right).norm() <= 1e-9 * right.norm()


def draws(fault: str, n: int) -> list[tuple[int, Subject, Backward]]:
    found = []
    for seed in range(BASE, BASE + 400):
        case = subject(KINDS[seed % len(KINDS)], seed)
        make, draw = MUTANTS[fault], torch.Generator()
        backward = make(case, draw.manual_seed(seed))
        if backward is not None and (fault in NOT_IN_ONE_CALL or is_wrong(case, backward)):
            fresh = make(case, draw.manual_seed(seed))  # with no memory of the call above
            assert fresh is not None
            found.append((seed, case, fresh))
        if len(found) == n:
            break
    return found


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    found = []
    for fault in MUTANTS:
        for seed, case, backward in draws(fault, DRAWS):
            report = check_gradients(case.forward, backward, case.inputs, seed=seed)
            first = report.findings[0].fault if report.findings else ""
            found.append(Outcome(fault, seed, report.ok, first, report.diagnosis))
    return found


def test_the_catalogue_is_large_and_every_mistake_in_it_that_can_be_made_is(outcomes):
    assert len(MUTANTS) >= 60
    assert set(MUTANTS) <= set(CATALOGUE)
    made = Counter(outcome.fault for outcome in outcomes)
    assert {fault for fault in MUTANTS if made[fault] < 3} == set()


def test_every_mistake_is_refused(outcomes):
    assert [outcome for outcome in outcomes if outcome.ok] == []


def test_nine_in_ten_are_named_at_the_first_guess(outcomes):
    named = Counter(outcome.fault for outcome in outcomes if outcome.first == outcome.fault)
    made = Counter(outcome.fault for outcome in outcomes)
    table = "\n".join(f"{fault:26} {named[fault]} of {made[fault]}" for fault in MUTANTS)
    print(table)
    assert named.total() >= 0.9 * made.total(), table
    assert {fault for fault in MUTANTS if 2 * named[fault] < made[fault]} == set(), table


def test_what_the_student_reads_names_a_gradient_and_the_mistake(outcomes):
    for outcome in outcomes:
        words = CATALOGUE[outcome.first]
        if outcome.first not in {"raises", "count", "nothing"}:
            assert words in outcome.diagnosis
            assert "grad_" in outcome.diagnosis or "δ" in outcome.diagnosis, outcome


@pytest.mark.parametrize("fault", ["derivative-missing", "transposed", "sign", "onehot-missing", "stale-cache"])
def test_in_float32_too(fault):
    named = 0
    for seed in range(BASE, BASE + 60):
        case = subject(KINDS[seed % len(KINDS)], seed, torch.float32)
        backward = MUTANTS[fault](case, torch.Generator().manual_seed(seed))
        if backward is None or (fault not in NOT_IN_ONE_CALL and not is_wrong(case, backward)):
            continue
        report = check_gradients(case.forward, backward, case.inputs, dtype=torch.float32, seed=seed)
        assert not report.ok
        named += report.findings[0].fault == fault
        if named == 3:
            return
    pytest.fail(f"{fault} was named {named} times of 3")
