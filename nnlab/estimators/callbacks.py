"""scikit-learn's callbacks: an epoch is a task of ``fit``."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sklearn.callback import CallbackSupportMixin
from sklearn.callback import with_callbacks as _with_callbacks

__all__ = ["CallbackSupportMixin", "epochs_of_fit", "with_callbacks"]

Method = TypeVar("Method", bound=Callable[..., Any])


def with_callbacks(method: Method) -> Method:
    """Decorate a ``fit`` so that its callbacks are torn down however it ends."""
    decorated: Method = _with_callbacks(method)
    return decorated


def epochs_of_fit(
    estimator: Any,
    max_epochs: int,
    stopped: Callable[[], bool],
    fitted: Callable[[], dict[str, Any]],
    **data: Any,
) -> Iterator[int]:
    """Number the epochs from 0 until a callback or ``stopped`` ends them, telling the callbacks of each.

    Args:
        estimator: being fitted; its method is decorated by ``with_callbacks``.
        max_epochs: where the epochs end at the latest.
        stopped: asked before each epoch; one that is True at the start leaves no epoch.
        fitted: the attributes that make a copy of the estimator ready to predict as of now.
        **data: X and y, handed to the callbacks.

    Yields:
        0, 1, …; the epoch is over when the next number is asked for, so leave the loop by ``stopped`` alone.
    """
    fit = estimator._init_callback_context(max_subtasks=max_epochs)
    fit.call_on_fit_task_begin(estimator=estimator, **data)
    for epoch in range(max_epochs):
        if stopped():
            break
        task = fit.subcontext(task_name="epoch").call_on_fit_task_begin(estimator=estimator, **data)
        yield epoch
        if task.call_on_fit_task_end(estimator=estimator, **data, reconstruction_attributes=fitted):
            break
    fit.call_on_fit_task_end(estimator=estimator, **data, reconstruction_attributes=fitted)
