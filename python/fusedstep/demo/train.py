"""The training loop: mini-batches, a step of the optimizer, and a stop-watch around exactly that step."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fusedstep

from ..minibatch import minibatches
from .choices import Choice
from .data import Dataset
from .network import Network


class ReferenceStep:
    """The same steps by `fusedstep.reference` on copies of the parameters: yardstick for speed and bits.

    Parameters
    ----------
    optimizer : Optimizer
        The native optimizer before its first step: tells rule, hyper-parameters and initial states.
    params : dict of str to array
        What it will step; copied.
    """

    def __init__(self, optimizer: fusedstep.Optimizer, params: dict[str, NDArray[Any]]) -> None:
        self._step: Callable[..., bool] = getattr(fusedstep.reference, optimizer.rule)
        group = optimizer.param_groups[0]
        self._options = {option: group[option] for option in fusedstep.reference.RULES[optimizer.rule].hypers}
        self._params = [array.copy() for array in params.values()]
        names = [name for name in optimizer.state[0] if name != "step"]
        self._states = {name: [np.array(state[name]) for state in optimizer.state] for name in names}
        self._steps = 0

    def step(self, grads: dict[str, NDArray[Any]]) -> None:
        """One step with the given gradients."""
        self._steps += 1
        self._step(self._params, list(grads.values()), **self._states, step=self._steps, **self._options)

    def same_bits(self, params: dict[str, NDArray[Any]]) -> bool:
        """Whether `params` are, byte for byte, what the reference has arrived at."""
        return all(
            mine.tobytes() == theirs.tobytes() for mine, theirs in zip(self._params, params.values(), strict=True)
        )


@dataclass
class Run:
    """One training run and what was measured in it.

    Attributes
    ----------
    costs : list of float
        Mean cost over the training examples of each epoch, gathered while it runs.
    losses, accuracies : list of float
        Mean cost and share of right answers on the test examples after each epoch.
    elapsed : list of float
        `seconds_all` at the end of each epoch.
    step_ns, reference_ns : array of int
        Nanoseconds of each of the optimizer's steps, and of the same steps by the NumPy reference (if it ran).
    seconds_all : float
        Batches, forward, backward and step; neither the reference nor the evaluation after each epoch.
    same_bits : bool or None
        Whether native and reference parameters were equal at the end; None when the reference did not run.
    """

    dataset: Dataset
    choice: Choice
    network: Network
    epochs: int
    seed: int = 0
    costs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    step_ns: array[int] = field(default_factory=lambda: array("q"))
    reference_ns: array[int] = field(default_factory=lambda: array("q"))
    seconds_all: float = 0.0
    same_bits: bool | None = None

    @property
    def complete(self) -> bool:
        """Whether every epoch was run."""
        return len(self.costs) == self.epochs

    @property
    def seconds_step(self) -> float:
        """Seconds in all of the optimizer's steps."""
        return sum(self.step_ns) * 1e-9

    @property
    def share_in_step(self) -> float:
        """The part of the training time that the optimizer took."""
        return self.seconds_step / self.seconds_all

    @property
    def microseconds(self) -> tuple[float, float]:
        """The median step: native, and the reference's."""
        return float(np.median(self.step_ns)) * 1e-3, float(np.median(self.reference_ns)) * 1e-3

    @property
    def speed_up(self) -> float:
        """How many times faster the native step was than the reference's, by their medians."""
        native, reference = self.microseconds
        return reference / native


def by_choice(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of every optimizer, by its label, in the order in which the labels first come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.choice.label, []).append(run)
    return groups


def _one_blas_thread() -> AbstractContextManager[object]:
    """Keep NumPy's matrix products on one thread.

    Those of a mini-batch are too small to gain from more, and where other programs keep the CPUs busy the threads
    of OpenBLAS wait for each other: ten times longer for the digits on two CPUs under load.
    """
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]
    except ImportError:  # comes with scikit-learn, which a comparison on a file does not need
        return nullcontext()
    limited: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limited


def train(
    run: Run, batch_size: int, *, reference: bool = False, on_epoch: Callable[[Run], None] = lambda run: None
) -> None:
    """Train ``run.network`` for ``run.epochs`` epochs and fill in the measurements epoch by epoch.

    After an interruption (`KeyboardInterrupt` passes through) `run` holds the epochs that were finished.

    Parameters
    ----------
    batch_size : int
        Examples per step.
    reference : bool
        Take every step a second time with the NumPy reference on copies, right after the native one, and time
        both.
    on_epoch : callable
        Called with `run` after every epoch.
    """
    network, data, clock = run.network, run.dataset, time.perf_counter_ns
    optimizer = run.choice.build(network.params, network.grads)
    shadow = ReferenceStep(optimizer, network.params) if reference else None
    batches = minibatches(data.x_train, data.y_train, batch_size=batch_size, rng=run.seed, axis=-1)
    with _one_blas_thread():
        for _ in range(run.epochs):
            cost, taken, mirrored, began = 0.0, array("q"), array("q"), clock()
            for x, y in batches:
                cost += network.gradients(x, y) * y.size
                before = clock()
                optimizer.step()
                after = clock()
                taken.append(after - before)
                if shadow is not None:
                    before = clock()
                    shadow.step(network.grads)
                    mirrored.append(clock() - before)
            run.seconds_all += (clock() - began - sum(mirrored)) * 1e-9
            run.step_ns.extend(taken)
            run.reference_ns.extend(mirrored)
            if shadow is not None:
                run.same_bits = shadow.same_bits(network.params)
            run.losses.append(network.cost(data.x_test, data.y_test))
            run.accuracies.append(network.accuracy(data.x_test, data.y_test))
            run.elapsed.append(run.seconds_all)
            run.costs.append(cost / data.y_train.size)
            on_epoch(run)
