"""Who watches a fit of an estimator: callbacks of fastmlp, functions of the estimator, callbacks of scikit-learn."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from fastmlp import callbacks
from fastmlp.history import History
from fastmlp.interrupts import Caller

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing: this scikit-learn has no callbacks."""


__all__ = ["CallbackSupportMixin", "Watch"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Watch:
    """The callbacks of a fit with minibatches.

    A `fastmlp.callbacks.Callback` is called with the epoch and a history, any other callable with the estimator, and
    those of scikit-learn, which ``set_callbacks`` sets, by their hooks, but not in ``partial_fit``.

    Parameters
    ----------
    model : estimator
        The estimator.
    X : array or sparse matrix, shape (m, n)
        Its samples.
    y : callable
        Returns their targets as scores take them.
    loss : str
        The name of its loss.
    incremental : bool
        Whether it fits by ``partial_fit``.
    """

    def __init__(self, model: Any, X: Any, y: Callable[[], Array], loss: str, incremental: bool) -> None:
        self._model = model
        given = callbacks.listed("callback", model.callback)
        self._functions = [one for one in given if not isinstance(one, callbacks.Callback)]
        self._ready = callbacks.Together([one for one in given if isinstance(one, callbacks.Callback)])
        self.history = History(loss_name=loss)
        self._hooks = None
        if hasattr(model, "_init_callback_context") and not incremental:
            self._hooks = model._init_callback_context(max_subtasks=model.max_iter)
        self._data = {"X": X, "y": y}
        self._subtask: Any = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody watches."""
        return not (self._functions or self._ready or hasattr(self._model, "_skl_callbacks") or self._is_propagated)

    @property
    def _is_propagated(self) -> bool:
        return hasattr(self._model, "_parent_callback_ctx")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Call what each callback has for the begin and the end of a fit."""
        with self._ready.running(self._model.max_iter, lambda: self.history):
            if self._hooks is not None:
                self._hooks.call_on_fit_task_begin(estimator=self._model, **self._data)
            yield
            if self._hooks is not None:
                self._hooks.call_on_fit_task_end(
                    estimator=self._model, reconstruction_attributes=self._fitted, **self._data
                )

    def begin(self, caller: Caller) -> None:
        """Begin an iteration."""
        self._began = time.perf_counter()
        if self._hooks is not None:
            self._subtask = self._hooks.subcontext(task_name="iteration")
            self._in_thread(caller, self._subtask.call_on_fit_task_begin, estimator=self._model, **self._data)

    def _in_thread(self, caller: Caller, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call a function where the user's functions run, unless there are none: a question takes 0.1 ms."""
        return function(**arguments) if self.is_idle else caller.ask(function, **arguments)

    def record(self) -> None:
        """Record an iteration that is complete and validated."""
        model, history = self._model, self.history
        history.seconds.append(time.perf_counter() - self._began)
        history.loss.append(model.loss_)
        # A test of scikit-learn calls `partial_fit` on what `_initialize` has not seen.
        if getattr(model, "validation_loss_curve_", None):
            history.validation_loss.append(model.validation_loss_curve_[-1])
        if model.early_stopping:
            history.validation_scores.append(float(model.validation_scores_[-1]))
        history.epoch.append(model.n_iter_)

    def ask(self, caller: Caller) -> bool:
        """Call all callbacks after an iteration; return whether any asks for the end."""
        return bool(self._in_thread(caller, self._answer))

    def _answer(self) -> bool:
        answers = [bool(one(self._model)) for one in self._functions]
        answers.append(self._ready(self.history.epoch[-1], self.history))
        if self._subtask is not None:
            answers.append(
                self._subtask.call_on_fit_task_end(
                    estimator=self._model, reconstruction_attributes=self._fitted, **self._data
                )
            )
        return any(answers)

    def _fitted(self) -> dict[str, Any]:
        """Return copies of what training changes, for an estimator that predicts."""
        model = self._model
        return {
            "coefs_": [one.copy() for one in model.coefs_],
            "intercepts_": [one.copy() for one in model.intercepts_],
        }
