"""The native step leaves the bytes of the NumPy reference, whatever the machine, the memory and the cut.

NaN is compared as NaN. The reference runs once per case; every instruction set and thread count is held against it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CLASSES,
    EVERY,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ROWS,
    TEAMS,
    Array,
    Options,
    Twin,
    assert_same,
    copied,
    functional_arrays,
    label,
    numbers,
    packed,
    running,
)

import fusedstep as fs
from fusedstep import _core
from fusedstep.reference import RULES

ISAS = fs.available_isas()
BEST = ISAS[-1]
# every remainder of every vector width, and the borders of the pieces (1024) and blocks (2048) that loops are cut into
LENGTHS = [*range(131), *(n + d for n in (256, 1024, 2048, 4096) for d in (-1, 0, 1)), 6000]
# a second thread is worth 16384 elements, so these make one, two, three and seven
TEAM_SIZES: list[tuple[Any, ...]] = [(BEST, 1), *((BEST, threads, team) for threads in (2, 3, 7) for team in TEAMS)]
LARGE = [16383, 2049, 32768 + 2049, 70001]


def steps(
    rule: str, params: list[Array], grads: list[list[Array]], given: Options, options: Options, where: Any
) -> Any:
    """Several steps of a function, on copies; what it leaves."""
    params, given = copied(params), copied(given)
    function = getattr(where, rule)
    for number, grad in enumerate(grads):
        assert function(params, grad, step=number + 1, **given, **options)
    return [params, given]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=label)
@pytest.mark.parametrize(("rule", "options"), EVERY, ids=label)
def test_functions_at_every_length(rule: str, options: Options, dtype: Any) -> None:
    """Lengths 0 to 130 and around every threshold, odd starts, special values, three steps, every instruction set."""
    plain, odd = (packed(LENGTHS, dtype, 1, special=special) for special in (0.0, 0.2))
    params = plain + odd
    grads = [packed(LENGTHS, dtype, step) + packed(LENGTHS, dtype, step, special=0.2) for step in (2, 3, 4)]
    given = functional_arrays(rule, options, params, 5)
    wild = functional_arrays(rule, options, params, 5, special=0.2)
    for name in given:
        given[name][len(plain) :] = wild[name][len(plain) :]
    expected = steps(rule, params, grads, given, options, fs.reference)
    for isa in ISAS:
        with running(isa):
            assert_same(steps(rule, params, grads, given, options, fs.functional), expected, f"{rule} {isa}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=label)
@pytest.mark.parametrize(("rule", "options"), [(rule, row.options[-1]) for rule, row in ROWS.items()], ids=label)
def test_functions_on_any_number_of_threads(rule: str, options: Options, dtype: Any) -> None:
    params = [p.reshape(1, -1) for p in packed(LARGE, dtype, 1)]
    grads = [[g.reshape(1, -1) for g in packed(LARGE, dtype, step, special=0.001)] for step in (2, 3)]
    given = functional_arrays(rule, options, params, 5)
    for state in RULES[rule].states:
        if state.name in given:
            given[state.name] = [s.reshape(1, -1) for s in given[state.name]]
    step_options: Options = {"clip_value": 0.5, "max_grad_norm": 1e9}
    for extra in ({}, step_options):
        expected = steps(rule, params, grads, given, options | extra, fs.reference)
        for place in (*TEAM_SIZES, (ISAS[0], 2), (ISAS[len(ISAS) // 2], 3)):
            with running(*place):
                actual = steps(rule, params, grads, given, options | extra, fs.functional)
            assert_same(actual, expected, f"{rule} {place} {sorted(extra)}")


@pytest.mark.parametrize(("rule", "options"), EVERY, ids=label)
def test_functions_at_late_steps(rule: str, options: Options) -> None:
    """The constants of a step are derived from its number, however large, and may differ from tensor to tensor."""
    counts = [1, 5, 6, 17, 999, 1_000_003, 2**40 + 1, 2**62]
    for dtype in (np.float32, np.float64):
        params = packed([33] * len(counts), dtype, 1)
        grads = packed([33] * len(counts), dtype, 2)
        given = functional_arrays(rule, options, params, 5)
        expected, actual = copied([params, given]), copied([params, given])
        getattr(fs.reference, rule)(expected[0], grads, step=counts, **expected[1], **options)
        getattr(fs.functional, rule)(actual[0], grads, step=counts, **actual[1], **options)
        assert_same(actual, expected, rule)


@pytest.mark.parametrize("rule", sorted(rule for rule in ROWS if not RULES[rule].norms))
def test_any_cut_of_a_buffer(rule: str) -> None:
    """A buffer stepped in pieces holds the bytes of one stepped whole."""
    size = 5000
    options = ROWS[rule].options[-1]
    for dtype in (np.float32, np.float64):
        param = [numbers(size, dtype, 1, special=0.05)]
        grads = [[numbers(size, dtype, step, special=0.05)] for step in (2, 3)]
        given = functional_arrays(rule, options, param, 5)
        whole = steps(rule, param, grads, given, options, fs.functional)
        rng = np.random.default_rng(6)
        for pieces in (2, 3, 40):
            cuts = sorted({0, size, *rng.integers(0, size, pieces).tolist()})

            def cut(array: Array, cuts: list[int] = cuts) -> list[Array]:
                return [array[a:b] for a, b in itertools.pairwise(cuts)]

            held = copied([param, given])
            views = {
                name: cut(values[0]) if values[0].ndim else [values[0].copy() for _ in cuts[1:]]
                for name, values in held[1].items()
            }
            for number, grad in enumerate(grads):
                getattr(fs.functional, rule)(cut(held[0][0]), cut(grad[0]), step=number + 1, **views, **options)
            held[1].update({name: [views[name][0]] for name in RULES[rule].scalars})
            assert_same(held, whole, f"{rule} cut at {cuts}")


# -------------------------------------------------------------------------------- classes: step options and formats

SIZES = [(), (7,), (0,), (300,), (3, 1001), (4160,), (2, 2500)]


def model(dtype: Any, seed: int = 0, sizes: Any = SIZES) -> list[Array]:
    return [numbers(shape, dtype, seed + i) for i, shape in enumerate(sizes)]


def some_grads(
    dtype: Any, step: int, sizes: Any = SIZES, special: float = 0.0, missing: bool = False
) -> list[Array | None]:
    grads: list[Array | None] = [
        numbers(shape, dtype, 100 * step + i, special=special) for i, shape in enumerate(sizes)
    ]
    if missing and step % 2:
        grads[1] = grads[4] = None
    return grads


def compare(make: Any, grads_of: Any, count: int, where: Any = ((None, None),), scales: Any = (1.0,)) -> None:
    """Hold an optimizer's steps against its twin's, on several instruction sets and thread counts.

    ``make()`` gives the same optimizer every time, ``grads_of(t)`` the gradients of step t.
    """
    twin = Twin(make())
    made = [make() for _ in where]
    for t in range(count):
        scale = scales[t % len(scales)]
        grads = grads_of(t)
        twin.optimizer = made[0]
        reference = copied(grads)
        expected = twin.step(reference, scale)
        for optimizer, place in zip(made, where, strict=True):
            mine = copied(grads)
            with running(*place):
                assert optimizer.step(mine, grad_scale=scale) is expected
            assert_same(mine, reference, "gradients")
            twin.optimizer = optimizer
            twin.check(f"{place}, step {t + 1}:")
    for optimizer in made:
        assert optimizer.steps_taken + optimizer.skipped_steps == count


EVERYWHERE = [(isa, 1) for isa in ISAS] + [(BEST, 3)]

# (parameters, gradients, options of storage)
STORAGE: list[tuple[np.dtype[Any], np.dtype[Any], Options]] = [
    (FLOAT64, FLOAT64, {"state_format": "bfloat16"}),
    (FLOAT64, FLOAT32, {"state_format": "8bit"}),
    (FLOAT64, BFLOAT16, {}),
    (FLOAT32, FLOAT32, {"state_format": "8bit"}),
    (FLOAT32, BFLOAT16, {"state_format": "bfloat16"}),
    (FLOAT32, FLOAT16, {"state_format": "8bit", "min_quantized_size": 0}),
    (FLOAT16, FLOAT32, {}),
    (FLOAT16, FLOAT16, {"rounding": "stochastic", "state_format": "bfloat16", "seed": 5}),
    (FLOAT16, FLOAT16, {"master": "float32", "state_format": "8bit"}),
    (BFLOAT16, BFLOAT16, {"state_format": "bfloat16", "min_quantized_size": 0}),
    (BFLOAT16, FLOAT32, {"rounding": "stochastic", "state_format": "8bit", "seed": 2**64 - 1}),
    (BFLOAT16, BFLOAT16, {"master": "float32", "rounding": "stochastic"}),
    (BFLOAT16, BFLOAT16, {"master": "split", "state_format": "8bit"}),
    (BFLOAT16, FLOAT16, {"master": "split", "state_format": "bfloat16", "min_quantized_size": 256}),
]


def storable(rule: str, storage: Options) -> bool:
    exact = all(state.kind == "exact" for state in RULES[rule].states) and bool(RULES[rule].states)
    return not exact or storage.get("state_format", "float32") == "float32"


@pytest.mark.parametrize("storage", STORAGE, ids=lambda s: label((s[0].name, s[1].name, s[2])))
@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_storage_formats(rule: str, storage: tuple[Any, Any, Options]) -> None:
    dtype, grad_dtype, options = storage
    if not storable(rule, options):
        options = {k: v for k, v in options.items() if k != "state_format"}
    number = STORAGE.index(storage)
    chosen = ROWS[rule].options[number % len(ROWS[rule].options)] | ({"ema_decay": 0.5} if number % 3 == 0 else {})
    # With sums over the model the reference is called for all tensors at once, with the noise of consecutive ones.
    missing = number % 2 == 1 and not (RULES[rule].whole and options.get("rounding") == "stochastic")
    compare(
        lambda: CLASSES[rule](model(dtype), **chosen, **options),
        lambda t: some_grads(grad_dtype, t + 1, missing=missing),
        3,
        EVERYWHERE,
    )


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_storage_formats_on_threads(rule: str) -> None:
    sizes = [(40000,), (5,), (90001,)]
    for dtype, options in ((FLOAT32, {"state_format": "8bit"}), (BFLOAT16, {"rounding": "stochastic"})):
        if not storable(rule, options):
            continue
        compare(
            lambda dtype=dtype, options=options: CLASSES[rule](model(dtype, sizes=sizes), **options),
            lambda t, dtype=dtype: some_grads(dtype, t + 1, sizes),
            2,
            [*TEAM_SIZES, (ISAS[0], 7)],
        )


OPTION_VALUES: dict[str, tuple[Any, ...]] = {
    "max_grad_norm": (None, 3.0, 1e9),
    "clip_value": (None, 0.01),
    "skip_nonfinite": (False, True),
    "ema_decay": (None, 0.5, 0.0),
    "zero_grads": (False, True),
    "maximize": (False, True),
}


def pairwise(choices: dict[str, tuple[Any, ...]]) -> list[Options]:
    """Few option sets that hold every pair of values of every two options, found greedily."""
    names = list(choices)
    every = [dict(zip(names, values, strict=True)) for values in itertools.product(*choices.values())]

    def pairs(options: Options) -> set[Any]:
        return {(a, options[a], b, options[b]) for a, b in itertools.combinations(names, 2)}

    wanted = set().union(*(pairs(options) for options in every))
    found = []
    while wanted:
        best = max(every, key=lambda options: len(wanted & pairs(options)))
        wanted -= pairs(best)
        found.append(best)
    return found


COMBINED = pairwise(OPTION_VALUES)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, BFLOAT16], ids=str)
@pytest.mark.parametrize("step_options", COMBINED, ids=label)
def test_step_options(step_options: Options, dtype: Any) -> None:
    """What training does around a step, alone and together, with skipped steps and gradients that are not finite."""
    for number, rule in enumerate(sorted(CLASSES)):
        options = ROWS[rule].options[number % len(ROWS[rule].options)]
        stochastic = dtype == BFLOAT16 and number % 2 == 0
        together = step_options["max_grad_norm"] is not None or RULES[rule].whole  # one call of the reference
        compare(
            lambda rule=rule, options=options, stochastic=stochastic: CLASSES[rule](
                model(dtype), **options, **step_options, rounding="stochastic" if stochastic else "nearest"
            ),
            lambda t, missing=not (stochastic and together): some_grads(
                dtype, t + 1, special=0.01 * (t == 1), missing=missing
            ),
            3,
            [(BEST, 1), (ISAS[number % len(ISAS)], 2)],
            scales=(1.0, 1024.0, 3.0),
        )


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_one_step_option_at_a_time(rule: str) -> None:
    for name, values in OPTION_VALUES.items():
        compare(
            lambda name=name, values=values: CLASSES[rule](model(FLOAT32), **{name: values[-1]}),
            lambda t: some_grads(FLOAT32, t + 1, special=0.02 * (t == 1)),
            2,
            scales=(0.5, 7.0),
        )


@pytest.mark.parametrize("rule", sorted(rule for rule in CLASSES if RULES[rule].whole))
def test_sums_over_all_groups(rule: str) -> None:
    """Groups of the same options step as one; the estimate is one, also of who has no gradient."""
    shapes = [(3, 1001), (5,), (4160,)]
    options = ROWS[rule].options[-1]
    one = CLASSES[rule](model(np.float32, sizes=shapes), **options)
    many = CLASSES[rule]([{"params": param} for param in model(np.float32, sizes=shapes)], **options)
    alone = CLASSES[rule](model(np.float32, sizes=shapes[:1]), **options)
    for t in range(6):
        grads: list[Any] = some_grads(np.float32, t + 1, shapes)
        alone.step(grads[:1])
        grads[1] = None if t in (1, 2) else grads[1]
        one.step(grads)
        many.step(grads)
        assert_same([slot.param for slot in many._slots], [slot.param for slot in one._slots])
        for mine, other in zip(many.state, one.state, strict=True):
            assert_same(dict(mine), dict(other))
        first, *others = ([view[name] for name in RULES[rule].scalars] for view in one.state)
        assert others == [first, first]
    assert [alone.state[0][name] for name in RULES[rule].scalars] != first


@pytest.mark.parametrize("rule", sorted(rule for rule in CLASSES if not RULES[rule].whole))
def test_groups(rule: str) -> None:
    """Groups of other formats and options; gradients missing from a tensor and from a whole group."""
    storage = {"state_format": "8bit", "min_quantized_size": 0} if storable(rule, {"state_format": "8bit"}) else {}
    schedule = {"lr": lambda t: 1 / (t + 1)} if "lr" in RULES[rule].hypers else {}

    def make() -> fs.Optimizer:
        groups = [
            {"params": {"a": numbers((5, 3), np.float32, 1), "b": [numbers(700, np.float32, 2)]}},
            {"params": numbers(2100, np.float64, 3), "maximize": True, "clip_value": 0.1},
            {"params": (numbers(3000, BFLOAT16, 4), numbers(9, BFLOAT16, 5)), "lr": 0.5, "master": "split", **storage},
            {"params": [numbers(600, FLOAT16, 6)], "rounding": "stochastic", **schedule},
        ]
        return CLASSES[rule](groups, **ROWS[rule].options[-1], seed=9)

    twin, optimizer = Twin(make()), make()
    twin.optimizer = optimizer
    dtypes = [np.float32, np.float32, np.float32, BFLOAT16, BFLOAT16, FLOAT16]
    shapes: list[Any] = [(5, 3), 700, 2100, 3000, 9, 600]
    for t in range(4):
        flat: list[Any] = [numbers(s, d, 50 * t + i) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))]
        if t == 1:
            flat[0] = flat[3] = None
        if t == 2:
            flat[3] = flat[4] = None
        a, b, c, d, e, f = flat
        twin.step(flat)
        optimizer.step([{"b": [b], "a": a}, c, None if d is e is None else [d, e], (f,)])
        twin.check(f"step {t + 1}")


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_hyper_parameters_change_between_steps(rule: str) -> None:
    """Every number of a group may change and holds from the next step on; also as a callable and as NumPy numbers."""

    def changes(optimizer: fs.Optimizer, t: int) -> None:
        group = optimizer.param_groups[0]
        if t == 1:
            group["lr"] = np.float32(0.25)
        if t == 2:
            group["lr"] = lambda done: 0.125 * (done + 1)
            group["weight_decay" if "weight_decay" in group else "lr"] = 0.5
        if t == 3 and "betas" in group:
            group["betas"] = [0.25, np.float64(0.5), 0.75][: len(group["betas"])]
        if t == 4:
            group["maximize"] = True
            group["clip_value"] = 0.25

    optimizer = CLASSES[rule](model(FLOAT32), **ROWS[rule].options[-1])
    twin = Twin(optimizer)
    for t in range(6):
        changes(optimizer, t)
        grads = some_grads(FLOAT32, t + 1)
        twin.step(grads)
        optimizer.step(grads)
        twin.check(f"step {t + 1}")


def test_states_are_never_subnormal() -> None:
    for rule, kind in sorted(CLASSES.items()):
        for dtype in (FLOAT32, FLOAT64):
            tiny = float(np.finfo(dtype).tiny)
            param = np.ones(97, dtype)
            optimizer = kind(param, **ROWS[rule].options[-1])
            for factor in (1.0, 0.5, 1e-3, 0.0, 0.0, 0.0):
                optimizer.step(np.full(97, factor * tiny, dtype))
                for name, value in optimizer.state[0].items():
                    if isinstance(value, np.ndarray):
                        assert not np.any((value != 0) & (abs(value) < tiny)), f"{rule} {name}"
                        assert not np.any(np.signbit(value[value == 0]) & (factor == 0.0) & (name == "ema"))


# ------------------------------------------------------------------------------------------------ deterministic sums


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32, FLOAT16, BFLOAT16], ids=str)
def test_norm_depends_on_nothing_but_the_numbers(dtype: Any) -> None:
    sizes = [(1,), (0,), (2047,), (2048,), (2049,), (131072,), (16,)]
    grads = [numbers(shape, dtype, i) for i, shape in enumerate(sizes)]
    from fusedstep.reference._arithmetic import sum_of_squares

    total = 0.0
    for grad in grads:
        total += sum_of_squares(grad)
    for isa in ISAS:
        for threads in (1, 2, 3, 7):
            with running(isa, threads):
                optimizer = fs.SGD([np.zeros(shape, dtype) for shape in sizes], max_grad_norm=1.0)
                optimizer.step(grads, grad_scale=3.0)
                assert optimizer.grad_norm == np.sqrt(total) * (1 / 3.0), (isa, threads)
    exact = np.sqrt(np.sum([np.sum(g.astype(np.longdouble) ** 2) for g in grads]))
    assert abs(np.sqrt(total) - float(exact)) <= 1e-12 * float(exact)


def test_norm_spans_all_groups() -> None:
    """Clipping sees the model as one: groups of the same options leave the bytes of one group."""
    arrays = [numbers(size, np.float32, size) for size in (10, 3000, 70000)]
    grads = [numbers(size, np.float32, size + 1) for size in (10, 3000, 70000)]
    together, apart = copied(arrays), copied(arrays)
    one = fs.Adam(together, lr=0.1, max_grad_norm=0.5)
    many = fs.Adam([{"params": p} for p in apart], lr=0.1, max_grad_norm=0.5)
    for _ in range(3):
        one.step(grads)
        many.step(grads)
    assert_same(apart, together)
    assert one.grad_norm == many.grad_norm
    assert one.grad_norm is not None and one.grad_norm > 0.5


def test_norm_that_overflows_or_is_nan() -> None:
    for bad in (np.inf, np.nan, 1e200):
        for rule in sorted(CLASSES):
            compare(
                lambda rule=rule: CLASSES[rule](model(FLOAT64), max_grad_norm=1.0),
                lambda t, bad=bad: [np.full(shape, bad if i == 3 else 1.0) for i, shape in enumerate(SIZES)],
                1,
            )


FROM_MEMORY: tuple[tuple[str, Options], ...] = (
    ("SGD", {}),
    ("Momentum", {}),
    ("Adam", {"amsgrad": True}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adan", {}),
)


@pytest.mark.parametrize(("name", "options"), FROM_MEMORY, ids=[name for name, _ in FROM_MEMORY])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_a_model_larger_than_caches_is_stepped_as_its_parts(name: str, options: Options, dtype: Any) -> None:
    size = 35_000_001 // (2 * np.dtype(dtype).itemsize)  # above 32 MiB with its gradient
    rng = np.random.default_rng(5)
    kept = rng.standard_normal(size + 1).astype(dtype)
    grad = rng.standard_normal(size + 1).astype(dtype)[1:]
    whole, parts = kept.copy()[1:], kept.copy()[1:]
    cuts = [0, 1, 777, size // 3, size // 2 + 5, size]
    large = getattr(fs, name)(whole, lr=0.01, **options)
    small = [getattr(fs, name)(parts[a:b], lr=0.01, **options) for a, b in itertools.pairwise(cuts)]
    for isa in ISAS:
        with running(isa, 2):
            large.step(grad)
            for optimizer, (a, b) in zip(small, itertools.pairwise(cuts), strict=True):
                optimizer.step(grad[a:b])
        assert np.array_equal(whole, parts)


def test_noise_key_is_the_definitions() -> None:
    from fusedstep import formats

    for words in ((0, 0, 0), (1, 2, 3), (2**64 - 1, 2**32, 2**63)):
        assert _core.noise_key(*words) == formats.noise_key(*words)
