"""JAX: ``jit`` of an epoch as one ``lax.scan``."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from nnlab.bench.problem import MLPProblem


class JAX:
    """The mean softmax cross-entropy by ``jax.grad``, the parameters' buffers donated from epoch to epoch.

    Weights lie inputs × outputs, as JAX's own networks have them. It computes in float32, on the problem's device.

    Args:
        problem: what is learnt.
        gather: put the samples in order "before" the scan, all at once, or "in" it, a mini-batch at a time.

    Raises:
        RuntimeError: JAX does not know the device.
    """

    def __init__(self, problem: MLPProblem, gather: Literal["before", "in"] = "in") -> None:
        self._device = jax.devices("cpu" if problem.x.device.type == "cpu" else "gpu")[0]
        self._batch_size = problem.batch_size
        self._x = self._put(problem.x)
        self._y = self._put(torch.nn.functional.one_hot(problem.labels, problem.sizes[-1]).float())
        start = [p.detach() for p in problem.network().parameters()]
        self._layers = [
            (self._put(w.T.contiguous()), self._put(b)) for w, b in zip(start[::2], start[1::2], strict=True)
        ]
        self._epoch = jax.jit(partial(_epoch, gather == "in", problem.lr), donate_argnums=0)

    def _put(self, value: Tensor) -> Any:
        return jax.device_put(value.detach().cpu().numpy().copy(), self._device)

    def train(self, order: Tensor) -> None:
        """Learn these samples: one scan over the full mini-batches, and one step for a tail."""
        indices = order.cpu().numpy().astype(np.int32)
        whole = len(indices) // self._batch_size * self._batch_size
        parts = (indices[:whole].reshape(-1, self._batch_size), indices[None, whole:])
        for part in (part for part in parts if part.size):
            self._layers = self._epoch(self._layers, jax.device_put(part, self._device), self._x, self._y)
        jax.block_until_ready(self._layers)  # type: ignore[no-untyped-call]

    def parameters(self) -> list[Tensor]:
        """W⁽¹⁾, b⁽¹⁾, …."""
        return [torch.from_numpy(np.array(a)) for w, b in self._layers for a in (w.T, b)]


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
