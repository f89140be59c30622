"""JAX: ``jit`` of an epoch as one ``lax.scan``."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or it takes most of a GPU that others use too

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from benchmarks.problems import MLPProblem, SpeedrunProblem, splines
from benchmarks.process import Contestant
from nnlab.data import Distortion


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


def speedrun(problem: SpeedrunProblem) -> Contestant:
    """``jit`` of at most 100 mini-batches, their distortion included, as one ``lax.scan``; by the CPU.

    An order is a seed and an epoch.
    """
    images, labels = jnp.asarray(problem.scaled.numpy()), jnp.asarray(problem.labels.numpy())
    settings, size = (problem.distortion, problem.momentum, problem.weight_decay), problem.batch_size
    run = jax.jit(partial(_part, *settings), donate_argnums=0)
    state: Any = None

    def train(order: Tensor) -> None:
        nonlocal state
        seed, epoch = order.tolist()
        if epoch == 0:
            start = [jnp.array(p.detach().numpy().T) for p in problem.network(seed).parameters()]
            layers = list(zip(start[::2], start[1::2], strict=True))
            state = layers, jax.tree.map(jnp.zeros_like, layers)
        key = jax.random.key(1000 * seed + epoch)
        for k, (part, lr) in enumerate(problem.parts(seed, epoch)):
            indices, whole = part.numpy().astype(np.int32), len(part) // size * size
            for batches in (indices[:whole].reshape(-1, size), indices[None, whole:]):  # full ones, and a tail
                if batches.size:
                    state = run(state, images, labels, batches, jax.random.fold_in(key, k), lr)
        jax.block_until_ready(state)  # type: ignore[no-untyped-call]

    return Contestant(train, lambda: [torch.from_numpy(np.array(a)) for w, b in state[0] for a in (w.T, b)])


def _part(
    limits: Distortion | None,
    momentum: float,
    decay: float,
    state: Any,
    images: Any,
    labels: Any,
    order: Any,
    key: Any,
    lr: Any,
) -> Any:
    """Train on mini-batches, the rows of ``order``."""

    def step(state: Any, batch: Any) -> Any:
        x, y = batch
        gradients = jax.grad(_loss)(state[0], x, y)
        velocity = jax.tree.map(lambda v, g, w: momentum * v + g + decay * w, state[1], gradients, state[0])
        return (jax.tree.map(lambda w, v: w - lr * v, state[0], velocity), velocity), None

    x, y = images[order], jax.nn.one_hot(labels[order], state[0][-1][1].shape[0])
    if limits is not None:
        x = distorted(limits, x.reshape(order.size, -1), key).reshape(x.shape)
    return jax.lax.scan(step, state, (x, y))[0]


def distorted(limits: Distortion, x: Any, key: Any) -> Any:
    """What torch's contestant does to images, (n, S²), by ``map_coordinates``."""
    n, side, basis = len(x), math.isqrt(x.shape[1]), splines(math.isqrt(x.shape[1])).numpy()
    of_maps, of_knots = jax.random.split(key)
    u = jax.random.uniform(of_maps, (6, n, 1, 1), minval=-1.0, maxval=1.0)
    moved = limits.elastic * (jax.random.normal(of_knots, (n, 2, len(basis))) @ basis).reshape(n, 2, side, side)
    angle, sheared, t = math.radians(limits.rotation) * u[0], limits.shear * u[3], limits.shift * u[4:]
    c, s, kx, ky = jnp.cos(angle), jnp.sin(angle), 1 / (1 + limits.scale * u[1]), 1 / (1 + limits.scale * u[2])
    centre = (side - 1) / 2
    across = jnp.arange(side) - centre
    down = across[:, None]
    x_at = c * kx * across + (c * sheared - s * ky) * down + centre + t[0] + moved[:, 0]
    y_at = s * kx * across + (s * sheared + c * ky) * down + centre + t[1] + moved[:, 1]
    sample = partial(jax.scipy.ndimage.map_coordinates, order=1)  # 0 around the image
    return jax.vmap(lambda image, *at: sample(image, at))(x.reshape(n, side, side), y_at, x_at).reshape(n, -1)
