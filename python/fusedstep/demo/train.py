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

from .._step_options import GROUP_VALUES, MODEL_OPTIONS
from ..minibatch import minibatches
from .choices import Choice
from .convnet import ConvNet
from .data import Dataset
from .network import Network


class ReferenceStep:
    """The same steps by `fusedstep.reference` on copies of everything: yardstick for speed and bits.

    Parameters
    ----------
    optimizer : Optimizer
        The native optimizer before its first step: tells rules, options and initial states.
    params : dict of str to array
        What it will step; copied.
    """

    def __init__(self, optimizer: fusedstep.Optimizer, params: dict[str, NDArray[Any]]) -> None:
        self._params = [array.copy() for array in params.values()]
        self._calls: list[tuple[slice, Callable[..., bool], dict[str, Any]]] = []
        self._steps = 0
        groups, states = optimizer.param_groups, list(optimizer.state)
        if len(groups) == 1:
            self._add(slice(0, len(states)), groups[0], optimizer, states)
            return
        for place, param in enumerate(params.values()):  # one by one: the noise is numbered over the whole model
            group = next(group for group in groups if any(param is own for own in group["params"]))
            self._add(slice(place, place + 1), group, optimizer, states[place : place + 1])

    @staticmethod
    def follows(optimizer: fusedstep.Optimizer) -> bool:
        """Whether a call for each tensor does what the optimizer does: norms and skips are of the whole model."""
        return len(optimizer.param_groups) == 1 or (optimizer.max_grad_norm is None and not optimizer.skip_nonfinite)

    def _add(self, place: slice, group: Any, optimizer: fusedstep.Optimizer, states: list[Any]) -> None:
        """Add the call of a group's function for the tensors of `place`."""
        rule = fusedstep.reference.RULES[group.get("rule", optimizer.rule)]
        options = {name: group[name] for name in (*rule.hypers, *GROUP_VALUES, "rounding")}
        options |= {name: getattr(optimizer, name) for name in MODEL_OPTIONS} | {"first": place.start}

        def copies(name: str) -> list[Any]:
            scales = f"{name}_scales"
            pairs = [(np.array(state[name]), np.array(state[scales])) if scales in state else None for state in states]
            return [
                pair or (np.array(state[name]) if name in state else None)  # which only others' shapes have
                for pair, state in zip(pairs, states, strict=True)
            ]

        used = [state.name for state in rule.used(group)]
        options |= {name: copies(name) for name in (*used, *rule.scalars)}
        if group["ema_decay"] is not None:
            options["ema"] = copies("ema")
        self._calls.append((place, getattr(fusedstep.reference, rule.name), options))

    def step(self, grads: list[NDArray[Any]]) -> None:
        """One step with the given gradients."""
        taken = [
            function(self._params[place], grads[place], step=self._steps + 1, **options)
            for place, function, options in self._calls
        ]
        self._steps += all(taken)

    def same_bits(self, params: dict[str, NDArray[Any]]) -> bool:
        """Whether `params` are, byte for byte, what the reference has arrived at; any two NaNs count as equal."""

        def content(array: NDArray[Any]) -> bytes:
            return np.where(array != array, array.dtype.type(np.nan), array).tobytes()

        return all(content(mine) == content(theirs) for mine, theirs in zip(self._params, params.values(), strict=True))


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
    ratios : list of dict of str to float
        Of each epoch's last watched step, the size of the update to that of the weights, by the name of the weights;
        only of a training that is watched.
    same_bits : bool or None
        Whether native and reference parameters were equal at the end; None when the reference did not run (see
        `ReferenceStep.follows`).
    """

    dataset: Dataset
    choice: Choice
    network: Network | ConvNet
    epochs: int
    seed: int = 0
    costs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    step_ns: array[int] = field(default_factory=lambda: array("q"))
    reference_ns: array[int] = field(default_factory=lambda: array("q"))
    ratios: list[dict[str, float]] = field(default_factory=list)
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
        """The median step: native, and the reference's, NaN where it did not run."""
        reference = np.median(self.reference_ns) if self.reference_ns else np.nan
        return float(np.median(self.step_ns)) * 1e-3, float(reference) * 1e-3

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
    run: Run,
    batch_size: int,
    *,
    reference: bool = False,
    watch: bool = False,
    on_epoch: Callable[[Run], None] = lambda run: None,
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
    watch : bool
        Watch every tenth step.
    on_epoch : callable
        Called with `run` after every epoch.
    """
    network, data, clock = run.network, run.dataset, time.perf_counter_ns
    optimizer = run.choice.build(network.params, network.grads)
    mirror = reference and ReferenceStep.follows(optimizer)
    shadow = ReferenceStep(optimizer, network.params) if mirror else None
    watched = optimizer.watch(every=10, keep=1) if watch else None
    batches = minibatches(data.x_train, data.y_train, batch_size=batch_size, rng=run.seed, axis=-1)
    # Divergence is a result of a training, not an error of NumPy.
    with _one_blas_thread(), np.errstate(all="ignore"):
        for _ in range(run.epochs):
            cost, taken, mirrored, began = 0.0, array("q"), array("q"), clock()
            for x, y in batches:
                cost += network.gradients(x, y) * y.size
                # the native step may zero them
                copies = [grad.copy() for grad in network.grads.values()] if shadow is not None else []
                before = clock()
                optimizer.step()
                after = clock()
                taken.append(after - before)
                if shadow is not None:
                    before = clock()
                    shadow.step(copies)
                    mirrored.append(clock() - before)
            run.seconds_all += (clock() - began - sum(mirrored)) * 1e-9
            run.step_ns.extend(taken)
            run.reference_ns.extend(mirrored)
            if shadow is not None:
                run.same_bits = shadow.same_bits(network.params)
            if watched is not None:
                weights = [name for name in network.params if not name.startswith("b")]
                run.ratios.append({name: watched.last[name].ratio for name in weights})
            run.losses.append(network.cost(data.x_test, data.y_test))
            run.accuracies.append(network.accuracy(data.x_test, data.y_test))
            run.elapsed.append(run.seconds_all)
            run.costs.append(cost / data.y_train.size)
            on_epoch(run)
