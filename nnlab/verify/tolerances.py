"""Every tolerance of the gradient checks, and why it is what it is."""

import torch

RELATIVE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Relative Frobenius error allowed between a gradient and autograd's of the same function, by dtype."""

REASONS = {
    torch.float64: "eps 2.2e-16 × a few thousand roundings",
    torch.float32: "eps 1.2e-7 × a few tens of roundings, TF32 off",
    torch.bfloat16: "eps 7.8e-3 × a few roundings",
    torch.float16: "eps 9.8e-4 × a few roundings",
}
"""Why ``RELATIVE`` is what it is."""

CENTRAL = 1e-6
"""Relative Frobenius error allowed between a gradient and central differences: their rounding is eps × E / step."""

CENTRAL_REASON = "rounding of a difference: eps × E / 3e-5, with room for small slopes"
"""Why ``CENTRAL`` is what it is."""

STEP = 3e-5
"""Step of the central differences, times max(1, abs(x)); two steps are combined, so the error is of fourth order."""

TRAJECTORY = {torch.float64: 1e-11, torch.float32: 5e-5}
"""The relative error allowed after ten training steps, over which rounding is carried along."""

CONDITION = 10.0
"""Times what rounding the inputs alone changes: an ill-conditioned gradient is allowed that much more."""

SATURATED = 20.0
"""Times eps, the gradient's size where nothing saturates, and the largest input: what 1 − z or y − t may lose."""

MATCH = {torch.float64: 1e-7, torch.float32: 1e-4}
"""How closely a known mistake must reproduce a wrong gradient for the diagnosis to name it, by dtype."""
