"""JAX: ``jit`` of an epoch as one ``lax.scan``."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or it takes most of a GPU that others use too

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from benchmarks.problems import MLPProblem
from benchmarks.process import Contestant


def jax_mlp(problem: MLPProblem, *, gather: str = "in") -> Contestant:
    """The mean softmax cross-entropy by ``jax.grad``, in float32, the parameters' buffers donated from epoch to epoch.

    Weights are stored (inputs, outputs), as in JAX's own networks. Samples are gathered "before" the scan, all at
    once, or "in" it, a mini-batch at a time.
    """
    device, size = jax.devices("cpu" if problem.x.device.type == "cpu" else "gpu")[0], problem.batch_size
    if device.platform != "cpu":
        jax.config.update("jax_default_matmul_precision", "highest")  # type: ignore[no-untyped-call] # not TF32

    def put(value: Tensor) -> Any:
        return jax.device_put(value.detach().cpu().numpy().copy(), device)

    x, y = put(problem.x), put(torch.nn.functional.one_hot(problem.labels, problem.sizes[-1]).float())
    start = list(problem.network().parameters())
    layers = [(put(w.T), put(b)) for w, b in zip(start[::2], start[1::2], strict=True)]
    epoch = jax.jit(partial(_epoch, gather == "in", problem.lr), donate_argnums=0)

    def train(order: Tensor) -> None:
        nonlocal layers
        indices = order.cpu().numpy().astype(np.int32)
        whole = len(indices) // size * size
        for part in (indices[:whole].reshape(-1, size), indices[None, whole:]):  # full mini-batches, and a tail
            if part.size:
                layers = epoch(layers, jax.device_put(part, device), x, y)
        jax.block_until_ready(layers)  # type: ignore[no-untyped-call]

    return Contestant(train, lambda: [torch.from_numpy(np.array(a)) for w, b in layers for a in (w.T, b)])


def _loss(layers: Any, x: Any, y: Any) -> Any:
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x @ weight + bias) * y, 1))


def _epoch(gather_in: bool, lr: float, layers: Any, order: Any, x: Any, y: Any) -> Any:
    def step(layers: Any, batch: Any) -> Any:
        at = (x[batch], y[batch]) if gather_in else batch
        gradients = jax.grad(_loss)(layers, *at)
        return jax.tree.map(lambda w, g: w - lr * g, layers, gradients), None

    return jax.lax.scan(step, layers, order if gather_in else (x[order], y[order]))[0]
