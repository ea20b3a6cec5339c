"""A callback that watches the optimizer's steps."""

from __future__ import annotations

from typing import Any

import keras

from .. import watching
from ._optimizer import FusedStep

__all__ = ["Watch"]


class Watch(keras.callbacks.Callback):
    """See what the optimizer's steps do while ``fit`` runs: norms of gradients, weights and updates.

    At the end of an epoch the whole model's figures of the last watched step go into ``logs``, as ``"watch/ratio"`` and
    so on, where ``History`` and callbacks after this one find them (``CSVLogger``, ``TensorBoard``).

    Parameters
    ----------
    every
        The first step is watched, and of those after it every so many.
    keep
        How many watched steps `history` keeps.

    Attributes
    ----------
    history : list of WatchedStep
        The last watched steps, the oldest first.
    last : WatchedStep
        The last of them.

    Raises
    ------
    TypeError, ValueError
        From ``fit``: the optimizer is none of this module's, or is watched already.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import fusedstep.keras as fk
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="out")], name="net")
    >>> model.compile(optimizer=fk.SGD(0.1), loss="mse")
    >>> watch = fk.Watch(every=2)
    >>> done = model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=2, verbose=0, callbacks=[watch])
    >>> [seen.step for seen in watch.history], sorted(watch.last)
    ([1, 3], ['net/out/bias', 'net/out/kernel'])
    """

    def __init__(self, every: int = 10, *, keep: int = 1000) -> None:
        super().__init__()
        self._every, self._keep = every, keep
        self._watch: watching.Watch | None = None

    @property
    def history(self) -> list[watching.WatchedStep]:
        return [] if self._watch is None else self._watch.history

    @property
    def last(self) -> watching.WatchedStep:
        return watching.WatchedStep.empty() if self._watch is None else self._watch.last

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin to watch the model's optimizer."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not isinstance(optimizer, FusedStep):
            raise TypeError(f"optimizer: got {type(optimizer).__name__}, needs one of fusedstep.keras to be watched")
        self._watch = optimizer.watch(self._every, keep=self._keep)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the last figures into the logs."""
        if logs is not None:
            logs.update(watching.watched(self._watch))

    def on_train_end(self, logs: Any = None) -> None:
        """Watch no longer; what was seen stays."""
        if self._watch is not None:
            self._watch.close()
