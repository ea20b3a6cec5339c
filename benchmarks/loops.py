"""Whole training loops, alone and beside busy processes: what the step of each library makes of them.

    python benchmarks/loops.py [--loops course,digits,...] [--busy 0,1,2] [--rounds 9] [--json FILE]

An iteration is all of it: a mini-batch, forward, backward, step, clearing. Every way is a process of its own, so that
the threads of one library cannot disturb another's; the processes take turns. Before they are timed, all ways of a loop
must have the same loss after the same iterations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import environment

OWN, PASSED = "fusedstep", "fusedstep (passed)"
CHECKED = 20
"""Iterations after which the losses of all ways are compared."""
TOLERANCE = 2e-3
"""Of the losses: libraries round differently, and 20 steps of Adam let that grow."""

Iteration = Callable[[], float]
"""Makes one iteration; returns the loss of its mini-batch."""


def course(way: str, threads: int, sizes: Sequence[int] = (2, 5, 2, 1), batch: int = 64) -> Iteration:
    """The course's network of NumPy on two moons; the step is the only thing that differs."""
    import numpy as np
    from sklearn.datasets import make_moons  # type: ignore[import-untyped]

    import fusedstep as fs
    from adapters import RULES, Problem, load
    from fusedstep.demo.network import Network

    inputs, outputs = make_moons(300, noise=0.2, random_state=3)
    if sizes[0] > 2:
        rng = np.random.default_rng(0)
        inputs, outputs = rng.standard_normal((2_000, sizes[0])), rng.integers(0, sizes[-1], 2_000)
    x, y = np.ascontiguousarray(inputs.T, np.float32), outputs.astype(np.int64)
    network = Network(sizes, seed=0)
    problem = Problem(RULES["adam"], "float32", list(network.params.values()), list(network.grads.values()), threads)
    session = load([way])[0][way].build(problem)
    network.params.update(zip(network.params, session.values(), strict=True))
    batches: Iterator[Any] = iter(())
    epoch = 0

    def iteration() -> float:
        nonlocal batches, epoch
        pair = next(batches, None)
        if pair is None:
            batches = iter(fs.minibatches(x, y, batch_size=batch, rng=epoch, axis=-1))
            epoch += 1
            pair = next(batches)
        loss = network.gradients(*pair)
        session.step()
        return float(loss)

    return iteration


def wide(way: str, threads: int) -> Iteration:
    """A network of NumPy with 1.3 million parameters: its matrix products use threads of their own."""
    return course(way, threads, sizes=(784, 1024, 512, 10), batch=64)


class _InScikitLearn:
    """A step of fusedstep where scikit-learn's perceptron keeps its own."""

    def __init__(self, params: Sequence[Any]) -> None:
        import fusedstep as fs

        self.optimizer = fs.Adam(list(params), lr=1e-3)

    def update_params(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        self.optimizer.step(list(grads))

    def iteration_ends(self, time_step: int) -> None:
        """Nothing: scikit-learn's Adam changes nothing here either."""


def digits(way: str, threads: int) -> Iteration:
    """scikit-learn's perceptron on its digits, a mini-batch a call."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    network = MLPClassifier((100,), solver="adam", learning_rate_init=1e-3, alpha=0.0, random_state=0, shuffle=False)
    network.partial_fit(x[:200], y[:200], classes=np.arange(10))
    params = network.coefs_ + network.intercepts_
    network._optimizer = _InScikitLearn(params) if way == OWN else type(network._optimizer)(params, 1e-3)
    place = 0

    def iteration() -> float:
        nonlocal place
        network.partial_fit(x[place : place + 200], y[place : place + 200])
        place = (place + 200) % 1_600
        return float(network.loss_)

    return iteration


def _torch(way: str, threads: int, model: Any, loss_of: Callable[[], Any]) -> Iteration:
    """An iteration of torch by one of the ways to step its parameters by AdamW."""
    import torch

    import fusedstep as fs
    import fusedstep.torch as ft

    torch.set_num_threads(threads)
    params = list(model.parameters())
    optimizer: Any
    if way == "deepspeed":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer = DeepSpeedCPUAdam(params, lr=1e-3, weight_decay=1e-2, adamw_mode=True)
    elif way == PASSED:
        optimizer = fs.AdamW([param.detach().numpy() for param in params], lr=1e-3, weight_decay=1e-2)
    elif way == OWN:
        optimizer = ft.AdamW(params, lr=1e-3, weight_decay=1e-2)
    else:
        optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-2, **{way.removeprefix("torch "): True})

    def iteration() -> float:
        loss = loss_of()
        loss.backward()
        if way == PASSED:
            optimizer.step([param.grad.numpy() for param in params])
        else:
            optimizer.step()
        for param in params:
            param.grad = None
        return float(loss.detach())

    return iteration


def torch_perceptron(way: str, threads: int) -> Iteration:
    """784-1024-512-10, batches of 64."""
    import torch

    torch.manual_seed(0)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    model = torch.nn.Sequential(linear(784, 1024), relu(), linear(1024, 512), relu(), linear(512, 10))
    x, y = torch.randn(64, 784), torch.randint(10, (64,))
    return _torch(way, threads, model, lambda: torch.nn.functional.cross_entropy(model(x), y))


def torch_convolutions(way: str, threads: int) -> Iteration:
    """Three convolutions of 32 to 128 channels and a layer of 10 outputs, batches of 16 pictures of 3 x 32 x 32."""
    import torch

    torch.manual_seed(0)
    parts: list[Any] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        parts += [torch.nn.Conv2d(inputs, outputs, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    model = torch.nn.Sequential(*parts, torch.nn.Flatten(), torch.nn.Linear(128 * 16, 10))
    x, y = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    return _torch(way, threads, model, lambda: torch.nn.functional.cross_entropy(model(x), y))


def torch_transformer(way: str, threads: int) -> Iteration:
    """Four layers of width 128 over 8 sequences of 32: 48 tensors."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    x, y = torch.randn(8, 32, 128), torch.randn(8, 32, 128)
    return _torch(way, threads, model, lambda: torch.nn.functional.mse_loss(model(x), y))


def keras_dense(way: str, threads: int) -> Iteration:
    """Keras on torch: 400-25-15-10, ``train_on_batch`` of 32."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras  # type: ignore[import-untyped]
    import numpy as np
    import torch

    import fusedstep.keras

    torch.set_num_threads(threads)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(25, "sigmoid"), keras.layers.Dense(15, "sigmoid"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((400,)), *layers])
    module = fusedstep.keras if way == OWN else keras.optimizers
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=module.Adam(learning_rate=1e-3), loss=loss)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 400)).astype(np.float32), rng.integers(0, 10, 32)
    return lambda: float(model.train_on_batch(x, y))


NUMPY = (OWN, PASSED, "fusedstep reference", "numpy")
TORCH = (OWN, PASSED, "torch fused", "torch foreach", "deepspeed")
LOOPS: dict[str, tuple[Callable[[str, int], Iteration], tuple[str, ...], str]] = {
    "course": (course, NUMPY, "NumPy, 2-5-2-1, Adam"),
    "wide": (wide, NUMPY, "NumPy, 784-1024-512-10, Adam"),
    "digits": (digits, (OWN, "scikit-learn"), "scikit-learn, 64-100-10, Adam"),
    "perceptron": (torch_perceptron, TORCH, "torch, 784-1024-512-10, AdamW"),
    "convolutions": (torch_convolutions, TORCH, "torch, three convolutions, AdamW"),
    "transformer": (torch_transformer, TORCH, "torch, transformer, AdamW"),
    "keras": (keras_dense, (OWN, "keras"), "Keras, 400-25-15-10, Adam"),
}


def serve(loop: str, way: str, threads: int) -> None:
    """Make the iterations that each line of the input asks for; answer with their seconds and the last loss."""
    import time

    import fusedstep as fs

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    fs.set_num_threads(threads)
    try:
        iteration = LOOPS[loop][0](way, threads)
    except ImportError as error:
        answers.write(json.dumps(str(error)) + "\n")
        return
    answers.write(json.dumps("") + "\n")
    answers.flush()
    for line in sys.stdin:
        start, loss = time.perf_counter(), 0.0
        for _ in range(int(line)):
            loss = iteration()
        answers.write(json.dumps((time.perf_counter() - start, loss)) + "\n")
        answers.flush()


class Way:
    """One way through a loop, in a process of its own."""

    def __init__(self, loop: str, way: str, threads: int) -> None:
        command = [sys.executable, __file__, "--serve", loop, way, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.missing = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)}: the process ended")  # type: ignore[arg-type]
        return json.loads(line)

    def run(self, number: int) -> tuple[float, float]:
        """Make ``number`` iterations; return their seconds and the last loss."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        seconds, loss = self._answer()
        return seconds, loss

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


@contextmanager
def beside(number: int) -> Iterator[None]:
    """Keep ``number`` other processes busy."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure(loop: str, threads: int, busy: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Return a row for every way and number of busy processes."""
    from fusedstep.bench import report
    from fusedstep.bench.timing import Timing, ratio

    _, names, _ = LOOPS[loop]
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        ways: dict[str, Way] = {}
        for name in names:
            way = Way(loop, name, threads)
            stack.callback(way.close)
            if way.missing:
                report.note(f"{loop}: {name} is not here: {way.missing}")
            else:
                ways[name] = way
        losses = {name: way.run(CHECKED)[1] for name, way in ways.items()}
        wrong = {name: loss for name, loss in losses.items() if not abs(loss - losses[OWN]) <= TOLERANCE * losses[OWN]}
        if wrong:
            raise SystemExit(f"{loop}: losses after {CHECKED} iterations differ from {losses[OWN]}: {wrong}")
        number = max(3, int(0.2 * CHECKED / ways[OWN].run(CHECKED)[0]))
        order = list(ways)
        for others in busy:
            turns: dict[str, list[float]] = {name: [] for name in order}
            with beside(others):
                for turn in range(rounds):
                    for name in order[turn % len(order) :] + order[: turn % len(order)]:
                        turns[name].append(ways[name].run(number)[0] / number)
            for name, seconds in turns.items():
                row = {"loop": loop, "way": name, "busy": others, "ratio": ratio(seconds, turns[OWN])}
                rows.append(row | Timing(tuple(seconds), number).as_dict())
            shown = ", ".join(f"{row['way']} {row['ratio']:.2f}" for row in rows[-len(order) :])
            report.note(f"{loop}, {others} busy processes: {shown}")
    return rows


def show(document: dict[str, Any]) -> None:
    """Print the table."""
    from fusedstep.bench import machine, report

    rows = document["results"]
    busy = list(dict.fromkeys(row["busy"] for row in rows))
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        low, high = row["quartiles"]
        text = f"{row['microseconds']:,.0f} ±{50 * (high - low) / row['microseconds']:.0f}%"
        own = row["way"] == OWN
        cells.setdefault((row["loop"], row["way"]), []).append(text if own else f"{text} ({row['ratio']:.2f})")
    print(f"{document['machine']['date']}  {machine.summary(document['machine'])}")
    report.show(
        f"microseconds an iteration (median ± half the quartile range, times {OWN}'s), threads: {document['threads']}",
        ["loop", "step", *(f"beside {number} busy" if number else "alone" for number in busy)],
        [[LOOPS[loop][2], way, *texts] for (loop, way), texts in cells.items()],
        left=2,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the loops and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default=",".join(LOOPS), help="of " + ", ".join(LOOPS))
    parser.add_argument("--busy", default="0,1,2", help="numbers of busy processes beside")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", help="write the figures after every loop")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        serve(*chosen.serve, chosen.threads)
        return 0
    threads = environment.prepare(chosen.threads)
    from fusedstep.bench import machine, report

    document: dict[str, Any] = {"machine": machine.describe(), "threads": threads, "results": []}
    for loop in chosen.loops.split(","):
        document["results"] += measure(loop, threads, [int(n) for n in chosen.busy.split(",")], chosen.rounds)
        if chosen.json:
            report.write_json(chosen.json, document)
    show(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
