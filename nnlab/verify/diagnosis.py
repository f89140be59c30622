"""From the evidence to findings: every guess is tested, and the best of those that reproduce what came is named."""

from collections.abc import Iterable

import torch

from nnlab.verify.catalogue import CATALOGUE, PRIORITY
from nnlab.verify.evidence import Evidence, Guess, Match
from nnlab.verify.hypotheses import families
from nnlab.verify.judge import Verdict, distance
from nnlab.verify.points import ZEROS
from nnlab.verify.report import Finding


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """Findings that together explain every wrong gradient, the first guess first."""
    found = (
        [_finding("in-place", (), f"backward changes {' and '.join(evidence.changed)}", 1.0)]
        if evidence.changed
        else []
    )
    left = set(evidence.wrong)
    not_finite = [
        i for i in sorted(left) if not all(bool(torch.isfinite(v.claimed[i]).all()) for v in evidence.generic)
    ]
    if not_finite:
        found.append(
            _finding("not-finite", [evidence.names[i] for i in not_finite], _entries(evidence, not_finite[0]), 1.0)
        )
        left -= set(not_finite)
    if left and _random(evidence):
        names = [evidence.names[i] for i in sorted(left)]
        return (*found, _finding("random", names, f"three calls gave three values of {names[0]}", 1.0))
    candidates = _tested(evidence) if left else []
    while left:
        best = max(candidates, key=lambda c: _merit(c, left), default=None)
        if best is None or not best[1].explained & left:
            found += [_unexplained(evidence, i) for i in sorted(left)]
            break
        fault, match, words = best
        rivals = [
            c for c in candidates if c[0] != fault and c[1].explained >= match.explained & left and not c[1].spoilt
        ]
        share = len(match.explained & left) / len(evidence.wrong)
        names = [evidence.names[i] for i in sorted(match.explained & left)]
        found.append(_finding(fault, names, words, round(share * (1.0 if not rivals else 0.7), 2)))
        left -= match.explained
    if not evidence.wrong:
        found += _planted(evidence)
    return tuple(found)


Candidate = tuple[str, Match, str]


def _tested(evidence: Evidence) -> list[Candidate]:
    """The faults that reproduce some wrong gradient, the guesses of one fault and key put together."""
    merged: dict[tuple[str, str], list[tuple[Guess, Match]]] = {}
    candidates: list[Candidate] = []
    for family in families(evidence):
        complete = [PRIORITY[f] for f, m, _ in candidates if m.explained == evidence.wrong and not m.spoilt]
        last = min(complete, default=len(PRIORITY))  # a guess behind a complete explanation cannot come first
        for guess in family:
            match = evidence.test(guess) if PRIORITY[guess.fault] <= last else None
            if match is not None and match.explained:
                merged.setdefault((guess.fault, guess.key), []).append((guess, match))
        candidates = _merged(merged)
    return candidates


def _merged(merged: dict[tuple[str, str], list[tuple[Guess, Match]]]) -> list[Candidate]:
    candidates = []
    for (fault, _), group in merged.items():
        explained = frozenset[int]().union(*(m.explained for _, m in group))
        spoilt = frozenset[int]().union(*(m.spoilt for _, m in group))
        words = "; ".join(dict.fromkeys(g.evidence for g, _ in group))
        candidates.append((fault, Match(explained, spoilt), words))
    return candidates


def _merit(candidate: Candidate, left: Iterable[int]) -> tuple[int, int, int]:
    fault, match, _ = candidate
    return len(match.explained & frozenset(left)), -len(match.spoilt), -PRIORITY[fault]


def _finding(fault: str, names: Iterable[str], evidence: str, confidence: float) -> Finding:
    """A finding; "{grads}" in the evidence becomes "grad_x equals" or "grad_x and grad_w equal"."""
    names = tuple(names)
    listed = f"{', '.join(names[:-1])} and {names[-1]} equal" if len(names) > 1 else f"{''.join(names)} equals"
    return Finding(fault, names, CATALOGUE[fault], evidence.replace("{grads}", listed), confidence)


def _random(evidence: Evidence) -> bool:
    """Three calls in a row with the same arguments: all different, and not by the same amount each time."""
    answers = evidence.again(3)
    if len(answers) < 3:
        return False
    for one, two, three in zip(*answers, strict=True):
        if one.shape == two.shape == three.shape and not torch.equal(two, three):
            steady = torch.allclose(two - one, three - two, rtol=1e-6, atol=1e-12)
            if not steady:
                return True
    return False


def _planted(evidence: Evidence) -> list[Finding]:
    """Right at every generic point: what is wrong at the planted ones."""
    faults = {**dict.fromkeys(ZEROS, "at-zero"), "ties": "at-ties", "large values": "overflow"}
    for verdict in evidence.planted:
        if verdict.wrong:
            worst = sorted(verdict.wrong)
            return [
                _finding(
                    faults[verdict.point.kind],
                    [evidence.names[i] for i in worst],
                    _difference(evidence, verdict, worst[0]),
                    0.9,
                )
            ]
    return []


def _unexplained(evidence: Evidence, i: int) -> Finding:
    """No known mistake: a wrong shape, rounding, or where it differs."""
    verdict = next(v for v in evidence.generic if i in v.wrong)
    claimed, right = verdict.claimed[i], verdict.right[i]
    if claimed.shape != right.shape:
        words = f"{evidence.names[i]} has the shape {tuple(claimed.shape)}, its input {tuple(right.shape)}"
        return _finding("shape", [evidence.names[i]], words, 1.0)
    error = max(v.errors[i] for v in evidence.generic)
    if error < 3e-3 and evidence.judge.reference.by_autograd:
        words = f"{evidence.names[i]} is right to {error:.0e}"
        return _finding("rounded", [evidence.names[i]], words, 0.5)
    return _finding("unknown", [evidence.names[i]], _difference(evidence, verdict, i), 0.0)


def _difference(evidence: Evidence, verdict: Verdict, i: int) -> str:
    claimed, right = verdict.claimed[i].double(), verdict.right[i].double()
    if distance(claimed, right) == float("inf"):
        return _entries(evidence, i)
    gap = (claimed - right).nan_to_num().abs()
    differing = int((gap > 1e-6 * (1e-300 + gap.max())).sum())
    worst = int(gap.argmax())
    index = [int(n) for n in torch.unravel_index(torch.tensor(worst), gap.shape)]
    values = f"{float(claimed.reshape(-1)[worst]):.4g} for {float(right.reshape(-1)[worst]):.4g}"
    where = f" at {verdict.point.where}" if verdict.point.planted else ""
    return f"{evidence.names[i]} differs in {differing} of {gap.numel()} entries{where}, most at {index}: {values}"


def _entries(evidence: Evidence, i: int) -> str:
    for verdict in evidence.verdicts:
        bad = int((~torch.isfinite(verdict.claimed[i])).sum())
        if bad:
            return f"{evidence.names[i]} holds {bad} entries that are not finite at {verdict.point.where}"
    return f"{evidence.names[i]} is not finite"
