"""`Optimizer.watch`: what steps sum up is the reference's, to the last bit, and changes no step."""

from __future__ import annotations

import copy
import math
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CLASSES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    MATRIX_RULES,
    ROWS,
    TEAMS,
    Array,
    Options,
    assert_same,
    copied,
    numbers,
    running,
    snapshot,
)
from isolated import linux, prints

import fusedstep as fs
from fusedstep._converting import stored_values
from fusedstep.reference import RULES
from fusedstep.reference.watching import counted_state, effective_rates, exponent_counts, watched
from fusedstep.watching import WatchedStep, names

ISAS = fs.available_isas()
SIZES = [(), (7,), (0,), (300,), (3, 1001), (2, 2500), (70001,)]
PLACES: list[tuple[Any, ...]] = [(isa, 1) for isa in ISAS] + [(ISAS[-1], n, team) for n in (2, 7) for team in TEAMS]
STORAGE: list[tuple[Any, Any, Options]] = [
    (FLOAT32, FLOAT32, {}),
    (FLOAT64, FLOAT64, {"ema_decay": 0.5}),
    (FLOAT64, FLOAT32, {"state_format": "8bit"}),
    (FLOAT32, BFLOAT16, {"state_format": "bfloat16", "clip_value": 0.5}),
    (FLOAT32, FLOAT32, {"state_format": "8bit", "zero_grads": True}),
    (FLOAT16, FLOAT16, {"master": "float32", "state_format": "8bit", "max_grad_norm": 1.0}),
    (BFLOAT16, BFLOAT16, {"rounding": "stochastic", "seed": 3}),
    (BFLOAT16, BFLOAT16, {}),
    (BFLOAT16, BFLOAT16, {"master": "split", "state_format": "bfloat16"}),
]


def model(dtype: Any, sizes: Any = SIZES) -> list[Array]:
    return [numbers(shape, dtype, i) for i, shape in enumerate(sizes)]


def rates_of(watch: fs.Watch, name: str) -> fs.Rates:
    """The last step's rates of a parameter that has some."""
    found = watch.last.rates(name)
    assert found is not None
    return found


class Expected:
    """What the reference sums up of the steps of an optimizer."""

    def __init__(self, optimizer: fs.Optimizer) -> None:
        self.optimizer = optimizer

    @contextmanager
    def step(self, grads: list[Array | None], scale: float = 1.0) -> Iterator[None]:
        slots = self.optimizer._slots
        before, given = [slot.values().copy() for slot in slots], copied(grads)
        yield
        rows = []
        self.counts: dict[int, Array] = {}
        for i, (slot, grad) in enumerate(zip(slots, given, strict=True)):
            if grad is None:
                continue
            compute = grad.astype(slot.compute)
            rule = [i, slot.group, self.optimizer.state[i]["step"], grad.size]
            rows.append([*rule, *watched(compute, before[i], slot.values())])
            group = self.optimizer.param_groups[slot.group]
            name = counted_state(self.optimizer.rule, group)
            if name is not None:
                kind = next(state.kind for state in RULES[self.optimizer.rule].states if state.name == name)
                self.counts[i] = exponent_counts(stored_values(slot.states[name], kind, slot.compute))
        self.rows = np.array(rows)
        self.rows = np.array(rows)

    def check(self, watch: fs.Watch, what: str) -> None:
        last = watch.last
        assert_same(last._rows.copy(), self.rows, what)
        found = np.frombuffer(last._counts, np.uint32).reshape(-1, 3)
        for i in range(len(self.optimizer._slots)):
            counts = np.zeros(256, np.int64)
            counts[found[found[:, 0] == i, 1]] = found[found[:, 0] == i, 2]
            assert_same(counts, self.counts.get(i, np.zeros(256, np.int64)), f"{what} counts of {i}")


def check_against_reference(make: Any, grads: list[list[Array | None]], places: Any, scale: float = 1.0) -> None:
    """Watch the same steps everywhere, and take them without a watch as well."""
    plain = make()
    unwatched = []
    for grad in grads:
        plain.step(copied(grad), grad_scale=scale)
        unwatched.append(snapshot(plain))
    for place in places:
        optimizer = make()
        watch, expected = optimizer.watch(every=1), Expected(optimizer)
        with running(*place):
            for t, grad in enumerate(grads):
                mine = copied(grad)
                with expected.step(mine):
                    assert optimizer.step(mine, grad_scale=scale)
                expected.check(watch, f"{place}, step {t + 1}:")
                assert_same(snapshot(optimizer), unwatched[t], f"{place}, step {t + 1}:")
                assert watch.last.step == t + 1
                if optimizer.max_grad_norm is not None:
                    assert watch.last.model.grad_norm == optimizer.grad_norm
        assert len(watch.history) == len(grads)


@pytest.mark.parametrize("storage", STORAGE, ids=str)
@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_sums_are_the_references(rule: str, storage: tuple[Any, Any, Options]) -> None:
    dtype, grad_dtype, options = storage
    number = STORAGE.index(storage)
    if all(state.kind == "exact" for state in RULES[rule].states) and RULES[rule].states:
        options = {k: v for k, v in options.items() if k != "state_format"}
    chosen = ROWS[rule].options[number % len(ROWS[rule].options)] | options
    special = 0.001 if "8bit" not in options.values() and dtype != FLOAT16 else 0.0
    grads: list[list[Array | None]] = [
        [numbers(shape, grad_dtype, 100 * t + i, special=special) for i, shape in enumerate(SIZES)] for t in (1, 2)
    ]
    grads[0][3][:10] = 0  # type: ignore[index]
    grads[1][4] = None
    places = PLACES if number == 0 else [PLACES[0], PLACES[-1]]
    with np.errstate(all="ignore"):
        check_against_reference(lambda: CLASSES[rule](model(dtype), **chosen), grads, places, 1.0 + number % 2)


@pytest.mark.parametrize("rule", MATRIX_RULES)
def test_rules_of_matrices(rule: str) -> None:
    kind = next(c for c in vars(fs.optimizers).values() if getattr(c, "rule", "") == rule)
    shapes = [(40, 70), (3, 5)]
    grads: list[list[Array | None]] = [[numbers(s, np.float32, t) for s in shapes] for t in (5, 6)]
    params = [numbers(s, np.float32, 1) for s in shapes]
    options: Options = {} if RULES[rule].factored else {"state_format": "bfloat16"}
    check_against_reference(lambda: kind(copied(params), **options), grads, PLACES)


def test_figures_are_the_norms() -> None:
    """An independent calculation, in NumPy and in double."""
    params: Any = {"layers": [{"W": numbers((300, 100), np.float32, 1)}], "b": np.zeros(50, np.float32)}
    grads: Any = {"layers": [{"W": numbers((300, 100), np.float32, 2)}], "b": np.ones(50, np.float32)}
    grads["layers"][0]["W"][:30] = 0
    before = copied(params)
    opt = fs.AdamW(params, lr=0.1, weight_decay=0.1)
    watch = opt.watch()
    opt.step(grads, grad_scale=2.0)
    last = watch.last
    assert list(last) == ["layers.0.W", "b"]
    squares = np.zeros(3)
    for name, p, q, g in (
        ("layers.0.W", params["layers"][0]["W"], before["layers"][0]["W"], grads["layers"][0]["W"]),
        ("b", params["b"], before["b"], grads["b"]),
    ):
        norms = [float(np.linalg.norm(x.astype(np.float64))) for x in (g / 2, p, p - q)]
        squares += np.square(norms)
        figures = last[name]
        assert figures[:3] == pytest.approx(norms, rel=1e-12)
        assert figures.ratio == pytest.approx(norms[2] / norms[1], rel=1e-12)
        assert figures.zeros == pytest.approx(np.mean(g == 0), rel=1e-12)
        assert figures.nonfinite == 0
        assert figures.elements == p.size
    assert last.model[:3] == pytest.approx(np.sqrt(squares), rel=1e-12)
    assert last.model.elements == 30050


@pytest.mark.parametrize("rule", [rule for rule in CLASSES if counted_state(rule, RULES[rule].hypers)])
def test_rates_are_those_of_the_step(rule: str) -> None:
    """The rule itself, asked what one element more of the first moment or gradient would change."""
    params = {"a": numbers(30_000, np.float64, 1), "b": numbers(50_000, np.float64, 2)}
    opt = CLASSES[rule](params)
    watch = opt.watch(every=1)
    for t in range(7):
        opt.step({"a": numbers(30_000, np.float64, 10 + t), "b": numbers(50_000, np.float64, 20 + t)})
    hypers = {name: opt.param_groups[0][name] for name in RULES[rule].hypers}
    last = watch.last
    for slot, name, counted in zip(opt._slots, "ab", (30_000, 50_000 // 16), strict=True):
        rates = last.rates(name)
        assert rates is not None
        state = counted_state(rule, hypers)
        assert state is not None
        each = effective_rates(rule, slot.states[state], 7, hypers)
        assert each is not None
        assert (np.diff(rates.edges) > 0).all()
        assert len(rates.edges) == len(rates.counts) + 1
        assert rates.counts.sum() == pytest.approx(counted, rel=0.02)
        # the borders belong to the bin below
        expected = np.array(
            [((each > a) & (each <= b)).sum() for a, b in zip(rates.edges, rates.edges[1:], strict=False)]
        )
        if name == "a":
            assert_same(rates.counts, expected)
        else:
            np.testing.assert_allclose(rates.counts / counted, expected / 50_000, atol=0.03)


def test_effective_rates_are_what_steps_multiply_by() -> None:
    """Of Adam's relatives: the change that a rule makes per unit of its first moment."""
    second, first, t = np.array([1e-6, 0.04, 9.0]), np.array([0.5, -0.25, 1.0]), 9
    for rule, extra in (("adam", {"eps_root": 1e-4}), ("yogi", {}), ("adabelief", {}), ("sparse_adam", {})):
        values = RULES[rule].hypers | extra | {"betas": (0.9, 0.99)}
        hypers = {name: values[name] for name in RULES[rule].hypers}
        param, moment, state = np.zeros(3), first.copy(), second.copy()
        getattr(fs.reference, rule)(param, np.zeros(3), moment, state, step=t, **hypers)
        rates: Any = effective_rates(rule, state, t, hypers)
        np.testing.assert_allclose(-param, rates * moment / (1 - 0.9**t), rtol=1e-12, err_msg=rule)
    for rule in ("rmsprop", "adagrad"):
        hypers = RULES[rule].hypers
        param, grad, state = np.zeros(3), first.copy(), second.copy()
        getattr(fs.reference, rule)(param, grad, state, step=t, **hypers)
        rates = effective_rates(rule, state, t, hypers)
        np.testing.assert_allclose(-param, rates * grad, rtol=1e-12, err_msg=rule)


@pytest.mark.parametrize("state_format", ["float32", "bfloat16", "8bit"])
def test_rates_of_every_element(state_format: Any) -> None:
    params = {"W": np.ones((40, 200), np.float32), "b": [np.ones(3)]}
    opt = fs.AdamW(params, lr=lambda t: 0.1 / (t + 1), state_format=state_format)
    with pytest.raises(ValueError, match=r'effective_rates: got params\["W"\] before its first step'):
        opt.effective_rates()
    for t in range(3):
        opt.step({"W": numbers((40, 200), np.float32, t), "b": [numbers(3, np.float64, t)]})
    rates: Any = opt.effective_rates()
    for rate, slot in ((rates["W"], opt._slots[0]), (rates["b"][0], opt._slots[1])):
        second = stored_values(slot.states["exp_avg_sq"], "unsigned", slot.compute).astype(np.float64)
        np.testing.assert_allclose(rate, 0.1 / 4 / (np.sqrt(second / (1 - 0.999**3)) + 1e-8), rtol=1e-12)
        assert rate.shape == slot.param.shape
    other = fs.RAdam(np.ones((2, 3)), lr=0.5)
    other.step(np.ones((2, 3)))
    np.testing.assert_array_equal(other.effective_rates(), np.full((2, 3), 0.5))
    with pytest.raises(ValueError, match="effective_rates: got sgd, needs a rule"):
        fs.SGD(np.ones(3)).effective_rates()


def test_one_rate_for_all_elements() -> None:
    opt = fs.RAdam(np.ones(5), betas=(0.9, 0.999))
    watch = opt.watch(every=1)
    seen = []
    for _ in range(8):
        opt.step(np.ones(5))
        seen.append(watch.last.rates("params"))
    assert seen[:5] == [None] * 5  # until the second moment counts
    assert seen[5] is not None
    others: list[Any] = [fs.SGD(np.ones(5)), fs.RMSprop(np.ones(5), centered=True)]
    for other in others:
        with other.watch() as watch:
            other.step(np.ones(5))
        assert watch.last.rates("params") is None


def test_zero_infinite_and_nan_moments() -> None:
    opt = fs.Adam(np.ones(6), eps=0.0)
    watch = opt.watch(every=1)
    grad = np.array([0.0, 1.0, 1e-200, np.inf, np.nan, 1e200])
    with np.errstate(all="ignore"):
        opt.step(grad)
    rates = rates_of(watch, "params")
    assert rates.counts.sum() == 3  # the square of the last gradient is infinite
    assert rates.edges[-1] == np.inf
    assert watch.last["params"].nonfinite == 2 / 6
    assert math.isnan(watch.last["params"].grad_norm)
    with np.errstate(all="ignore"):
        opt = fs.Adam(np.ones(1))
        watch = opt.watch()
        opt.step(np.array([np.nan]))
    assert watch.last.rates("params") is None


# ------------------------------------------------------------------------------------------------- which steps


class Plain(fs.NumPyOptimizer):
    @staticmethod
    def update(param: Any, grad: Any, *, step: Any, lr: float = 0.1) -> None:
        param[...] = param - param.dtype.type(lr) * grad


@pytest.mark.parametrize("kind", [fs.SGD, Plain])
def test_steps_that_nobody_looks_at_are_dropped(kind: Any) -> None:
    """Memory is held for `keep` steps, however many parameters there are."""
    params = [np.ones(3) for _ in range(4)]
    opt = kind(params, lr=0.1)
    watch = opt.watch(every=1, keep=2)
    for _ in range(7):
        opt.step([np.ones(3) for _ in params])
    assert len(watch._records) == 2
    assert [seen.step for seen in watch.history] == [6, 7]


def test_every_and_keep() -> None:
    opt = fs.SGD(np.ones(3), lr=0.1)
    opt.step(np.ones(3))
    watch = opt.watch(every=3, keep=2)
    assert (dict(watch.last), watch.last.step) == ({}, 0)
    assert watch.history == []
    for t in range(2, 12):
        opt.step(np.ones(3))
        assert watch.last.step == 2 + (t - 2) // 3 * 3
    assert [seen.step for seen in watch.history] == [8, 11]
    watch.close()
    watch.close()
    opt.step(np.ones(3))
    assert watch.last.step == 11
    again = opt.watch(every=1)
    opt.step(np.ones(3))
    assert again.last.step == 13
    assert "2 seen" in repr(watch)
    assert "step 13" in repr(again.last)


def test_a_skipped_step_shows_its_gradients() -> None:
    params = {"good": np.ones(3000, np.float32), "bad": np.full(5000, 2.0, np.float32)}
    opt = fs.Adam(params, skip_nonfinite=True)
    watch = opt.watch(every=10)
    grads = {"good": np.ones(3000, np.float32), "bad": np.ones(5000, np.float32)}
    grads["bad"][:50] = np.nan
    assert not opt.step(grads)
    last = watch.last
    assert (last.taken, last.step) == (False, 1)
    assert last["bad"].nonfinite == 0.01
    assert last["good"] == (math.sqrt(3000), math.sqrt(3000), 0.0, 0.0, 0.0, 0.0, 3000)
    assert last["bad"].param_norm == math.sqrt(20000)
    assert last.rates("good") is None
    grads["bad"][:] = 1
    assert opt.step(grads)  # which is watched in its place
    assert (watch.last.taken, watch.last.step, len(watch.history)) == (True, 1, 2)
    assert opt.step(grads)
    assert len(watch.history) == 2


def test_a_step_that_is_not_taken_leaves_no_record() -> None:
    opt = fs.SGD(np.full(3, 60000.0, np.float16), lr=1.0)
    watch = opt.watch()
    with pytest.raises(OverflowError):
        opt.step(np.full(3, -60000.0, np.float16))
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.zeros(4, np.float16))
    assert not watch.last
    opt.step(np.zeros(3, np.float16))
    assert watch.last.step == 1


# ------------------------------------------------------------------------------------------------- options


def test_rows() -> None:
    table = numbers((5000, 40), np.float32, 1)
    kinds: list[Any] = [fs.SparseAdam, fs.SGD, fs.Adagrad]
    for kind in kinds:
        opt = kind({"table": table.copy(), "b": np.ones(3, np.float32)})
        watch = opt.watch(every=1)
        indices = np.random.default_rng(3).integers(0, 5000, 1000)
        values = numbers((1000, 40), np.float32, 4)
        grad = fs.SparseRows(indices, values)
        unique, summed = grad.summed(FLOAT32)
        for place in PLACES:
            before = opt._slots[0].param[unique].copy()
            with running(*place):
                opt.step({"table": fs.SparseRows(indices, values), "b": None})
            after = opt._slots[0].param[unique]
            found = watch.last._rows
            assert_same(found[0, 4:].copy(), np.array(watched(summed.reshape(-1), before, after), np.float64))
            assert found[:, [0, 3]].tolist() == [[0, summed.size]]
            state = counted_state(opt.rule, opt.param_groups[0])
            if state is not None:
                stored = stored_values(opt._slots[0].states[state], "unsigned", FLOAT32)
                counts = exponent_counts(stored[unique])
                seen = np.frombuffer(watch.last._counts, np.uint32).reshape(-1, 3)
                assert_same(seen[:, 2].astype(np.int64), counts[counts > 0])
        assert list(watch.last) == ["table"]


def test_accumulated_and_cast_gradients() -> None:
    opt = fs.Adam({"W": np.ones(3000, np.float32)}, accumulate_steps=4, cast_grads=True, max_grad_norm=1e-3)
    watch = opt.watch(every=2)
    grads = [numbers(3000, np.float64, t) for t in range(16)]
    for t, grad in enumerate(grads):
        opt.step({"W": grad})
        assert len(watch.history) == ((t + 1) // 4 + 1) // 2
    assert [seen.step for seen in watch.history] == [1, 3]
    mean = np.mean(grads[8:12], axis=0)
    assert watch.last["W"].grad_norm == pytest.approx(np.linalg.norm(mean), rel=1e-6)


def test_bound_gradients_and_further_groups() -> None:
    params, grads = {"W": np.ones(4)}, {"W": np.full(4, 0.5)}
    opt = fs.Adam(params, grads=grads)
    watch = opt.watch(every=2)
    opt.step()
    assert watch.last["W"].grad_norm == 1.0
    opt = fs.Adam(params)
    watch = opt.watch(every=2)
    opt.step(grads)
    first = watch.last
    opt.add_param_group({"params": {"V": np.ones(2)}, "lr": 0.5})
    opt.step([grads, {"V": np.ones(2)}])
    assert len(watch.history) == 1
    opt.step([grads, {"V": np.ones(2)}])
    assert list(watch.last) == ["0.W", "1.V"]
    assert list(first) == ["W"]
    assert [seen.step for seen in watch.history] == [1, 3]
    assert rates_of(watch, "1.V").edges[-1] > 0.4


def test_lost_updates_show() -> None:
    """bfloat16 without a master: what rounding swallows is no update."""
    cases: list[tuple[Any, bool]] = [({}, True), ({"master": "split"}, False), ({"master": "float32"}, False)]
    for options, lost in cases:
        opt = fs.SGD(np.ones(3000, BFLOAT16), lr=1e-4, **options)
        watch = opt.watch()
        opt.step(np.ones(3000, BFLOAT16))
        assert (watch.last["params"].update_norm == 0) is lost
        assert watch.last["params"].ratio == (0.0 if lost else pytest.approx(1e-4, rel=1e-3))


def test_a_rule_in_python() -> None:
    one, other = (
        Plain([np.ones(3000), np.ones(5, np.float32)], lr=0.25),
        fs.SGD([np.ones(3000), np.ones(5, np.float32)], lr=0.25),
    )
    watches = []
    for opt in (one, other):
        opt.skip_nonfinite = True
        watches.append(opt.watch(every=2, keep=3))
    for t in range(9):
        grads: list[Any] = [numbers(3000, np.float64, t), numbers(5, np.float32, t) if t % 3 else None]
        if t == 4:
            grads[0][0] = np.nan
        for opt in (one, other):
            opt.step(copied(grads), grad_scale=2.0)
        mine, native = (watch.last for watch in watches)
        assert (mine.taken, mine.step, list(mine)) == (native.taken, native.step, list(native))
        assert_same(mine._rows.copy(), native._rows.copy())
    assert [len(watch.history) for watch in watches] == [3, 3]
    assert watches[0].last.rates("0") is None


# ------------------------------------------------------------------------------------------------- around


def test_metrics() -> None:
    opt = fs.SGD({"W": np.array([3.0, 4.0]), "b": np.zeros(1)}, lr=0.5)
    assert not any(name.startswith("watch/") for name in opt.metrics())
    watch = opt.watch()
    opt.step({"W": np.array([0.0, 2.0]), "b": np.zeros(1)})
    found = opt.metrics()
    assert found["watch/step"] == 1
    assert found["watch/grad_norm"] == 2.0
    assert found["watch/update_norm"] == 1.0
    assert found["watch/zeros"] == 2 / 3
    flat = watch.last.metrics()
    assert flat["grad_norm/W"] == 2.0
    assert flat["ratio/b"] == 0.0
    assert all(isinstance(value, float) for value in (*found.values(), *flat.values()))
    parts = ("grad_norm", "param_norm", "update_norm", "ratio", "zeros", "nonfinite")
    assert flat.keys() == {"step", *parts, *(f"{p}/{n}" for p in parts for n in ("W", "b"))}


def test_copies_are_not_watched() -> None:
    opt = fs.Adam(np.ones(4))
    watch = opt.watch(every=1)
    opt.step(np.ones(4))
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other._watch is None
        other.step(np.ones(4))
        other.watch()
    assert len(watch.history) == 1
    saved = opt.state_dict()
    opt.load_state_dict(saved)
    opt.step(np.ones(4))
    assert len(watch.history) == 2


def test_mistakes() -> None:
    opt = fs.Adam(np.ones(4))
    for every, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("10", TypeError)):
        with pytest.raises(error, match="every: got"):
            opt.watch(every)  # type: ignore[arg-type]
        with pytest.raises(error, match="keep: got"):
            opt.watch(keep=every)  # type: ignore[arg-type]
    watch = opt.watch()
    with pytest.raises(ValueError, match=r"watch: got an optimizer that is watched.*close"):
        opt.watch()
    opt.step(np.ones(4))
    with pytest.raises(KeyError):
        watch.last["W"]
    with pytest.raises(KeyError):
        watch.last.rates("W")


def test_threads_that_look_while_steps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is seen once, in order, whoever looks at it first."""
    made = WatchedStep.__init__

    def slowly(*args: Any) -> None:
        time.sleep(1e-3)  # so that the threads are in each other's way
        made(*args)

    monkeypatch.setattr(WatchedStep, "__init__", slowly)
    opt = fs.SGD({"W": np.ones(4)}, lr=0.1)
    watch = opt.watch(every=1)
    raised: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                opt.metrics()
                seen = [step.step for step in watch.history]
                assert seen == list(range(1, len(seen) + 1))
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        opt.step({"W": np.ones(4)})
        time.sleep(1e-3)
    done.set()
    for thread in threads:
        thread.join()
    assert not raised
    assert [step.step for step in watch.history] == list(range(1, 101))


def test_names() -> None:
    assert names(['["a.b"]', '["a"]["b"]', "[0].c", '["x\'y"]']) == ['["a.b"]', '["a"]["b"]', "0.c", "x'y"]


def test_division_by_nothing() -> None:
    opt = fs.SGD([np.zeros(3), np.zeros(0), np.ones(2)], lr=1.0)
    watch = opt.watch()
    opt.step([np.zeros(3), np.zeros(0), np.ones(2)])
    assert watch.last["0"] == (0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 3)
    assert watch.last["1"] == (0.0,) * 7
    assert watch.last["2"].ratio == math.inf


@linux
def test_a_forked_process_looks_at_steps_that_a_thread_was_looking_at() -> None:
    code = """
import os, signal, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
opt = fs.Adam([np.ones(3, np.float32)])
watch = opt.watch()
opt.step([np.ones(3, np.float32)])
held, done = threading.Event(), threading.Event()
def look():
    with watch._collecting:
        held.set()
        done.wait()
thread = threading.Thread(target=look)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(10)
    os._exit(0 if watch.last.step == 1 and opt.metrics()["steps_taken"] == 1 else 1)
done.set()
thread.join()
print(os.waitpid(child, 0)[1], watch.last.step)
"""
    assert prints(code) == "0 1"
