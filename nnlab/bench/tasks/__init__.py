"""What ``nnlab bench`` measures, one function for each name in ``nnlab.bench.command.TASKS``."""

from collections.abc import Callable

from nnlab.bench.session import Session
from nnlab.bench.tasks.accuracy import time_to_98
from nnlab.bench.tasks.estimator import estimator_epoch
from nnlab.bench.tasks.growth import scaling
from nnlab.bench.tasks.imports import import_time
from nnlab.bench.tasks.lightning import lightning_epoch
from nnlab.bench.tasks.mlp import mlp_epoch, mlp_wide
from nnlab.bench.tasks.perceptron import perceptron_epoch

MEASURE: dict[str, Callable[[Session], None]] = {
    "mlp_epoch": mlp_epoch,
    "mlp_wide": mlp_wide,
    "perceptron_epoch": perceptron_epoch,
    "lightning_epoch": lightning_epoch,
    "estimator_epoch": estimator_epoch,
    "time_to_98": time_to_98,
    "import": import_time,
    "scaling": scaling,
}
