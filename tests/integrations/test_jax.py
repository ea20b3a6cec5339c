"""`fusedstep.jax` beside the NumPy reference, byte for byte, and beside optax."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import CLASSES, EVERY, Options, Twin, assert_same, label, numbers, running
from compilers import STANDARD

import fusedstep as fs
from fusedstep.reference import RULES

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy
fj = pytest.importorskip("fusedstep.jax")

# The package's structures of XLA's interface, XLA's names for them, and the members that are the same.
STRUCTURES = [
    ("Extension", "Extension_Base", "struct_size=struct_size type=type next=next"),
    ("ApiVersion", "Api_Version", "struct_size=struct_size major=major_version minor=minor_version"),
    ("Buffer", "Buffer", "struct_size=struct_size dtype=dtype data=data rank=rank dims=dims"),
    ("Buffers", "Args", "struct_size=struct_size size=size kinds=types items=args"),
    ("Buffers", "Rets", "struct_size=struct_size size=size kinds=types items=rets"),
    ("ByteSpan", "ByteSpan", "data=ptr size=len"),
    ("ScalarAttribute", "Scalar", "dtype=dtype value=value"),
    ("ArrayAttribute", "Array", "dtype=dtype size=size data=data"),
    ("Attributes", "Attrs", "struct_size=struct_size size=size kinds=types names=names items=attrs"),
    ("ErrorArguments", "Error_Create_Args", "struct_size=struct_size message=message code=errc"),
    ("Api", "Api", "struct_size=struct_size version=api_version create_error=XLA_FFI_Error_Create"),
    (
        "CallFrame",
        "CallFrame",
        "struct_size=struct_size extensions=extension_start api=api context=ctx stage=stage arguments=args "
        "results=rets attributes=attrs future=future",
    ),
    ("Metadata", "Metadata", "struct_size=struct_size api_version=api_version traits=traits"),
    ("MetadataExtension", "Metadata_Extension", "base=extension_base metadata=metadata"),
]
WHOLE = {name for name, _, _ in STRUCTURES} - {"Api", "Metadata"}  # of these, the first members alone
CONSTANTS = {
    "kApiMajor": "API_MAJOR",
    "kMetadataExtension": "Extension_Metadata",
    "kU8": "DataType_U8",
    "kS16": "DataType_S16",
    "kS32": "DataType_S32",
    "kS64": "DataType_S64",
    "kU32": "DataType_U32",
    "kF16": "DataType_F16",
    "kF32": "DataType_F32",
    "kF64": "DataType_F64",
    "kBF16": "DataType_BF16",
    "kBufferKind": "ArgType_BUFFER",
    "kArrayKind": "AttrType_ARRAY",
    "kScalarKind": "AttrType_SCALAR",
    "kStringKind": "AttrType_STRING",
    "kInvalidArgument": "Error_Code_INVALID_ARGUMENT",
    "kResourceExhausted": "Error_Code_RESOURCE_EXHAUSTED",
    "kInternal": "Error_Code_INTERNAL",
}

SHAPES = {"W": (40, 150), "b": (1,), "deep": (3, 7, 100)}
JAX_EVERY = [(rule, options) for rule, options in EVERY if rule != "sparse_adam"]


@contextmanager
def wide() -> Iterator[None]:
    """float64 in JAX."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def arrays(dtype: Any = np.float32, seed: int = 0, special: float = 0.0) -> dict[str, Any]:
    return {name: numbers(shape, dtype, seed + i, special=special) for i, (name, shape) in enumerate(SHAPES.items())}


def given(tree: Any) -> Any:
    """Arrays of JAX with these values, in memory of their own, so that they can be donated."""
    return jax.tree.map(lambda array: jnp.array(array, copy=True), tree)


def read(tree: Any) -> Any:
    """The values of arrays of JAX, in new memory."""
    return jax.tree.map(lambda array: np.array(array), tree)


def addresses(tree: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


class Pair:
    """An optimizer of JAX's arrays, and the reference on copies of them."""

    def __init__(self, rule: str, dtype: Any = np.float32, grad_dtype: Any = None, **options: Any) -> None:
        params = arrays(dtype)
        self.grad_dtype = dtype if grad_dtype is None else grad_dtype
        self.optimizer = getattr(fj, rule)(**options)
        self.params = given(params)
        self.state = self.optimizer.init(self.params)
        self.twin = Twin(CLASSES[rule](params, **options))

    def step(self, seed: int, special: float = 0.0, **values: Any) -> None:
        grads = arrays(self.grad_dtype, seed + 100, special)
        self.params, self.state = self.optimizer.step(self.params, given(grads), self.state, **values)
        with np.errstate(all="ignore"):
            self.twin.step(list(grads.values()), values.get("grad_scale", 1.0))

    def check(self) -> None:
        kept = self.optimizer.unpack(self.params, self.state) | {"param": self.params}
        for name, mine in zip(SHAPES, self.twin.slots, strict=True):
            assert int(self.state.step) == mine["step"]
            for key, expected in mine["arrays"].items():
                if key in RULES[self.optimizer.rule].scalars:
                    found = self.optimizer.scalars(self.state)[key]
                    own = found[sorted(SHAPES).index(name)] if isinstance(found, list) else found
                    assert_same(own, float(expected), key)
                elif expected is not None:
                    assert_same(jax.tree.map(np.asarray, kept[key][name]), expected, f"{key} of {name}")


# ---------------------------------------------------------------------------------------------------- the same bytes


@pytest.mark.parametrize(("rule", "options"), JAX_EVERY, ids=label)
def test_every_rule_leaves_the_bytes_of_the_reference(rule: str, options: Options) -> None:
    pair = Pair(rule, **options)
    for seed, special in enumerate((0.0, 0.0, 0.01, 0.01)):
        pair.step(seed, special)
        pair.check()


@pytest.mark.parametrize(("rule", "options"), dict(JAX_EVERY).items(), ids=label)
def test_float64(rule: str, options: Options) -> None:
    with wide():
        pair = Pair(rule, np.float64, **options)
        for seed in range(2):
            pair.step(seed)
        pair.check()


STORED: list[tuple[Any, Options]] = [
    (np.float32, {"state_format": "8bit", "min_quantized_size": 300}),
    (np.float32, {"state_format": "bfloat16", "min_quantized_size": 0}),
    (np.float32, {"state_format": "8bit", "min_quantized_size": 0, "ema_decay": 0.5, "clip_value": 0.1}),
    (np.float16, {}),
    (np.float16, {"master": "float32", "state_format": "8bit"}),
    (np.float16, {"rounding": "stochastic", "seed": 2**64 - 1}),
    (ml_dtypes.bfloat16, {}),
    (ml_dtypes.bfloat16, {"master": "split", "state_format": "bfloat16"}),
    (ml_dtypes.bfloat16, {"master": "split", "state_format": "8bit", "ema_decay": 0.9}),
    (ml_dtypes.bfloat16, {"master": "float32"}),
    (ml_dtypes.bfloat16, {"rounding": "stochastic", "seed": 7, "state_format": "8bit", "min_quantized_size": 0}),
]


@pytest.mark.parametrize("rule", ["adamw", "sgd", "lion", "lamb", "schedule_free_adamw", "rprop", "adagrad"])
@pytest.mark.parametrize(("dtype", "options"), STORED, ids=label)
def test_every_format(rule: str, dtype: Any, options: Options) -> None:
    more: Options = {"sgd": {"momentum": 0.9}, "adagrad": {"initial_accumulator_value": 0.1}}.get(rule, {})
    if all(state.kind == "exact" for state in RULES[rule].states):
        options = options | {"state_format": "float32"}
    pair = Pair(rule, dtype, lr=1e-3, **options, **more)
    for seed in range(3):
        pair.step(seed)
    pair.check()


@pytest.mark.parametrize("grad_dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_gradients_of_another_dtype(grad_dtype: Any) -> None:
    pair = Pair("adam", np.float32, grad_dtype)
    pair.step(0)
    pair.check()


STEP_OPTIONS: list[Options] = [
    {"maximize": True},
    {"max_grad_norm": 0.5},
    {"max_grad_norm": np.inf},
    {"clip_value": 0.01, "max_grad_norm": 0.5, "ema_decay": 0.9},
    {"skip_nonfinite": True, "max_grad_norm": 1.0},
]
CAUTIOUS: Options = {"cautious": True, "max_grad_norm": 0.5, "ema_decay": 0.9, "state_format": "8bit"}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=label)
@pytest.mark.parametrize("rule", ["adamw", "lion", "adan"])
def test_cautious_steps(rule: str, dtype: Any) -> None:
    pair = Pair(rule, dtype, min_quantized_size=0, **CAUTIOUS)
    for seed in range(3):
        pair.step(seed)
    pair.check()


@pytest.mark.parametrize("options", STEP_OPTIONS, ids=label)
@pytest.mark.parametrize("rule", ["adam", "nadam", "lars"])
def test_step_options(rule: str, options: Options) -> None:
    pair = Pair(rule, **options)
    pair.step(0, grad_scale=4.0)
    pair.step(1, special=0.1 if "skip_nonfinite" in options else 0.0)
    pair.step(2)
    pair.check()
    state = pair.state
    assert (state.grad_norm is not None) == ("max_grad_norm" in options)
    assert (state.skipped is None) or int(state.skipped) == 1
    if state.grad_norm is not None:
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in arrays(seed=102).values()))
        np.testing.assert_allclose(float(state.grad_norm), norm, rtol=1e-6)


def test_the_count_of_skipped_steps_ends_at_the_largest_number() -> None:
    opt, largest = fj.sgd(0.1, skip_nonfinite=True), 2**31 - 1
    params = {"w": jnp.ones(3, jnp.float32)}
    state = opt.init(params)._replace(skipped=jnp.asarray(largest - 1, jnp.int32))
    for _ in range(2):
        params, state = opt.step(params, {"w": jnp.full(3, jnp.nan, jnp.float32)}, state)
        assert int(state.skipped) == largest
    assert np.array_equal(params["w"], np.ones(3, np.float32))


def test_rules_that_cannot_be_cautious() -> None:
    with pytest.raises(ValueError, match=r"^cautious: got True, needs False with lamb; rules that can be cautious: "):
        fj.lamb(cautious=True)
    with pytest.raises(ValueError, match=r"^cautious: got True with momentum=0\.0, needs a momentum above 0"):
        fj.sgd(cautious=True)
    with pytest.raises(TypeError, match=r"^cautious: got 1 \(int\), needs True or False"):
        fj.adamw(cautious=1)


def test_blocks_that_are_not_finite_are_counted() -> None:
    pair = Pair("adam", state_format="8bit", min_quantized_size=0)
    assert int(pair.state.nonfinite_blocks) == 0
    grads = given(arrays(seed=5))
    grads["W"] = grads["W"].at[0, 0].set(jnp.nan)
    _, state = pair.optimizer.step(pair.params, grads, pair.state)
    assert int(state.nonfinite_blocks) == 2  # of both moments


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int) -> None:
    params = {"W": numbers((300, 500)), "b": numbers(3)}
    optimizer = fj.adam(max_grad_norm=1.0)
    results = []
    for count in (1, threads):
        with running(threads=count):
            mine = given(params)
            results.append(jax.tree.map(np.array, optimizer.step(mine, given(params), optimizer.init(mine))))
    assert_same(jax.tree.leaves(results[1]), jax.tree.leaves(results[0]))


# ------------------------------------------------------------------------------------------------ in place, and not


def test_donated_memory_holds_the_results() -> None:
    """Parameters, states and counts lie where they lay, in a step by itself and in a function that is compiled."""
    optimizer = fj.nadam(max_grad_norm=1.0, skip_nonfinite=True, state_format="8bit", ema_decay=0.9)
    params, grads = given(arrays()), given(arrays(seed=1))
    state = optimizer.init(params)
    train = jax.jit(lambda p, s: optimizer.step(p, jax.tree.map(jnp.cos, p), s), donate_argnums=(0, 1))
    for take in (lambda p, s: optimizer.step(p, grads, s), train):
        before, old = addresses((params, state)), params
        params, state = take(params, state)
        assert addresses((params, state)) == before
        assert old["W"].is_deleted()


def used_again(case: str) -> Any:
    """Call something with an array that was deleted, or with one for two purposes."""
    optimizer = fj.schedule_free_adamw(ema_decay=0.9)
    params, grads = given(arrays()), given(arrays(seed=1))
    state = optimizer.init(params)
    if case in ("params", "state", "unpack", "average"):
        new, after = optimizer.step(params, grads, state)
        params, state = (new, state) if case == "state" else (params, after) if case == "params" else (params, state)
    if case == "gradient":
        grads["b"].delete()
    if case == "gradient that is a parameter":
        grads["b"] = params["b"]
    if case == "twice":
        params["again"], grads["again"] = params["W"], grads["W"]
        state = optimizer.init(params)
    if case == "init":
        params["b"].delete()
        return optimizer.init(params)
    if case == "scalars":
        state.scalars.delete()
        return optimizer.scalars(state)
    if case == "as_optax":
        params["b"].delete()
        return optimizer.as_optax().update(grads, state, params)
    if case in ("unpack", "average"):
        return getattr(optimizer, case)(params, state)
    before = [array.is_deleted() for array in jax.tree.leaves((params, state, grads))]
    try:
        return optimizer.step(params, grads, state)
    finally:
        assert [array.is_deleted() for array in jax.tree.leaves((params, state, grads))] == before


USED_AGAIN = {
    "params": r'params\["W"\]: got an array that was deleted',
    "state": "state.step: got an array that was deleted",
    "gradient": r'grads\["b"\]: got an array that was deleted',
    "gradient that is a parameter": r'grads\["b"\]: got the memory of params\["b"\], needs memory of its own',
    "twice": r'params\["again"\]: got the memory of params\["W"\], needs memory of its own',
    "init": r'params\["b"\]: got an array that was deleted',
    "unpack": "state.step: got an array that was deleted",
    "average": r'params\["W"\]: got an array that was deleted',
    "scalars": "state.scalars: got an array that was deleted",
    "as_optax": r'params\["b"\]: got an array that was deleted',
}


@pytest.mark.parametrize("case", USED_AGAIN)
def test_arrays_that_were_given_up_are_named(case: str) -> None:
    """JAX counts them: argument 4. Nothing else is given up by such a step."""
    with pytest.raises(ValueError, match=USED_AGAIN[case]):
        used_again(case)


def test_hyper_parameters_that_were_given_up_are_named() -> None:
    def gone() -> Any:
        array = jnp.asarray(0.5)
        array.delete()
        return array

    rates, params, grads = jnp.asarray([0.5, 0.25]), given(arrays()), given(arrays(seed=1))
    rates.delete()
    rate = jnp.asarray(0.5)
    optimizer = fj.adamw(lr=rate, max_grad_norm=1.0)
    state = optimizer.init(params)
    rate.delete()
    uses: list[tuple[str, Callable[[], object]]] = [
        ("lr: got an array that was deleted", lambda: fj.adam(lr=gone())),
        ("lr: got an array that was deleted", lambda: fj.adam(lr=rates)),
        (r"betas\[1\]: got an array that was deleted", lambda: fj.adam(betas=(0.9, gone()))),
        ("lr: got an array that was deleted", lambda: optimizer.step(params, grads, state)),
        ("grad_scale: got an array that", lambda: optimizer.step(params, grads, state, lr=0.1, grad_scale=gone())),
        ("eps: got an array that", lambda: optimizer.as_optax().update(grads, state, params, lr=0.1, eps=gone())),
        ("lr: got the memory of state.step, needs", lambda: optimizer.step(params, grads, state, lr=state.step)),
    ]
    for message, use in uses:
        with pytest.raises(ValueError, match=message):
            use()
    optimizer.step(params, grads, state, lr=0.1)  # nothing was given up


def test_what_is_not_donated_is_not_changed() -> None:
    optimizer = fj.adam()
    params, grads = given(arrays()), given(arrays(seed=1))
    state = optimizer.init(params)
    before = jax.tree.map(np.array, (params, state, grads))
    new, after = jax.jit(optimizer.step)(params, grads, state)
    assert_same(jax.tree.leaves(jax.tree.map(np.array, (params, state, grads))), jax.tree.leaves(before))
    assert_same(np.asarray(new["W"]), np.asarray(optimizer.step(params, grads, state)[0]["W"]))
    assert int(after.step) == 1


def test_memory_that_numpy_owns_is_not_changed() -> None:
    params = arrays()
    copies = {name: array.copy() for name, array in params.items()}
    optimizer = fj.sgd(lr=0.1)
    optimizer.step(params, arrays(seed=1), optimizer.init(params))
    assert_same(params, copies)
    shared = {name: jnp.asarray(array) for name, array in params.items()}  # may be the same memory
    optimizer.step(shared, arrays(seed=1), optimizer.init(shared))
    assert_same(params, copies)


def test_gradients_that_are_the_parameters() -> None:
    """XLA passes one buffer for equal arguments, and has to copy what is written."""
    optimizer = fj.sgd(lr=0.5, momentum=0.5)
    params = given(arrays())
    expected = {name: array * np.float32(0.5) for name, array in arrays().items()}
    new, _ = jax.jit(lambda p, s: optimizer.step(p, p, s), donate_argnums=(0, 1))(params, optimizer.init(params))
    assert_same(jax.tree.map(np.asarray, new), expected)


def test_inside_a_scan() -> None:
    optimizer = fj.adamw(lr=0.1, max_grad_norm=1.0)
    params, grads = given(arrays()), given(arrays(seed=1))
    state = optimizer.init(params)
    body = lambda carry, _: (optimizer.step(carry[0], grads, carry[1]), None)  # noqa: E731
    scanned, _ = jax.jit(lambda p, s: jax.lax.scan(body, (p, s), length=5))(params, state)
    for _ in range(5):
        params, state = optimizer.step(params, grads, state)
    assert_same(
        jax.tree.map(np.asarray, jax.tree.leaves(scanned)), jax.tree.map(np.asarray, jax.tree.leaves((params, state)))
    )


def test_without_jit() -> None:
    optimizer = fj.lamb(lr=0.1, max_grad_norm=1.0)
    grads = given(arrays(seed=1))
    results = []
    for without in (False, True):
        params = given(arrays())
        with jax.disable_jit(without):
            stepped = params, optimizer.init(params)
            for _ in range(3):
                stepped = optimizer.step(stepped[0], grads, stepped[1])
        results.append(jax.tree.map(np.asarray, jax.tree.leaves(stepped)))
    assert_same(*results)


def test_a_nan_that_jax_looks_for() -> None:
    params = given(arrays())
    optimizer = fj.sgd(lr=0.1)
    grads = jax.tree.map(lambda p: jnp.full_like(p, np.nan), params)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        optimizer.step(params, grads, optimizer.init(params))


def test_python_threads_step_models_of_their_own() -> None:
    from concurrent.futures import ThreadPoolExecutor

    optimizer = fj.adam()

    def train(seed: int) -> Any:
        params = given(arrays(seed=seed))
        state = optimizer.init(params)
        for _ in range(20):
            params, state = optimizer.step(params, given(arrays(seed=seed + 1)), state)
        return jax.tree.map(np.array, params)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(train, range(4)))
    assert_same(together, [train(seed) for seed in range(4)])


# ------------------------------------------------------------------------------------------------- numbers that change


def test_traced_numbers() -> None:
    """A traced number is float32: the reference gets the same."""
    optimizer, mine = fj.adamw(lr=1e-3), given(arrays())
    params, grads = arrays(), arrays(seed=1)
    twin = Twin(fs.AdamW(params, lr=float(np.float32(0.03)), betas=(0.5, float(np.float32(0.9))), weight_decay=0.25))
    twin.step(list(grads.values()), grad_scale=2.0)

    def train(p: Any, s: Any, lr: Any, beta: Any) -> Any:
        return optimizer.step(
            p, given(grads), s, lr=lr, betas=(0.5, beta), weight_decay=jnp.float32(0.25), grad_scale=2.0
        )

    new, _ = jax.jit(train)(mine, optimizer.init(mine), 0.03, jnp.float32(0.9))
    for name, slot in zip(SHAPES, twin.slots, strict=True):
        assert_same(np.asarray(new[name]), slot["arrays"]["param"], name)
    made_inside = jax.jit(lambda p, lr: (o := fj.adam(lr=lr)).step(p, given(grads), o.init(p)))(mine, 0.03)
    twin = Twin(fs.Adam(arrays(), lr=float(np.float32(0.03))))
    twin.step(list(grads.values()))
    assert_same(np.asarray(made_inside[0]["W"]), twin.slots[0]["arrays"]["param"])


def rates() -> Any:
    return np.linspace(0.1, 0.2, 3).astype(np.float32)


@pytest.mark.parametrize(
    "lr",
    [rates(), jnp.asarray(rates()), lambda step: jnp.asarray(rates())[jnp.minimum(step, 2)]],
    ids=["numpy", "jax", "function"],
)
def test_schedules(lr: Any) -> None:
    """Step 4 has the value of step 3: an array's last value holds on."""
    optimizer, params = fj.adam(lr=lr), given(arrays())
    state = optimizer.init(params)
    schedule = lambda t: float(rates()[min(t, 2)])  # noqa: E731
    numpy_optimizer = fs.Adam(arrays(), lr=schedule)
    for seed in range(4):
        params, state = optimizer.step(params, given(arrays(seed=seed)), state)
        numpy_optimizer.step(arrays(seed=seed))
    assert_same(np.asarray(params["W"]), numpy_optimizer._slots[0].param)


def test_schedules_of_optax_and_pairs() -> None:
    optimizer = fj.adam(
        lr=optax.cosine_decay_schedule(0.1, 10),
        betas=lambda step: (0.5, 0.9 + 0.0 * step),
        max_grad_norm=lambda step: 1.0 / (1 + step),
    )
    params = given(arrays())
    state = optimizer.init(params)
    twin = fs.Adam(arrays(), lr=0.1, betas=(0.5, float(np.float32(0.9))), max_grad_norm=1.0)
    params, state = optimizer.step(params, given(arrays(seed=1)), state)
    twin.step(arrays(seed=1))
    assert_same(np.asarray(params["W"]), twin._slots[0].param)


def test_states_that_begin_with_the_rate() -> None:
    for rule in ("rprop", "asgd"):
        optimizer = getattr(fj, rule)(lr=optax.constant_schedule(0.25))
        plain = getattr(fj, rule)(lr=0.25)
        one, other = (o.init(given(arrays())) for o in (optimizer, plain))
        assert_same(read(jax.tree.leaves(one)), read(jax.tree.leaves(other)))


def test_an_int64_count_goes_further() -> None:
    with wide():
        optimizer, params = fj.sgd(lr=0.5), given(arrays())
        state = optimizer.init(params)._replace(step=jnp.asarray(2**31 - 1, jnp.int64))
        _, state = optimizer.step(params, given(arrays()), state)
        assert int(state.step) == 2**31 and state.step.dtype == jnp.int64


# ------------------------------------------------------------------------------------------------------ masks, packing


@pytest.mark.parametrize(
    "mask",
    [{"W": True, "b": False, "deep": np.bool_(True)}, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)],
    ids=["structure", "function"],
)
def test_decay_of_some(mask: Any) -> None:
    optimizer, params, grads = fj.adamw(lr=0.1, weight_decay=0.5, mask=mask), given(arrays()), given(arrays(seed=1))
    theirs = optax.adamw(0.1, weight_decay=0.5, mask=mask)
    updates, _ = theirs.update(grads, theirs.init(params), params)
    expected = jax.tree.map(np.array, optax.apply_updates(params, updates))
    new, _ = optimizer.step(params, grads, optimizer.init(params), lr=jnp.float32(0.1))
    for name in SHAPES:
        np.testing.assert_allclose(np.asarray(new[name]), expected[name], rtol=1e-5, atol=1e-6)


def test_parameters_that_are_not_trained() -> None:
    """They may be of any dtype, have no state, and come back as they are; None is no parameter."""
    params = {"frozen": {"a": jnp.arange(3), "b": jnp.ones(2)}, "W": jnp.ones((2, 2)), "none": None}
    grads = {"frozen": {"a": 0, "b": None}, "W": jnp.ones((2, 2)), "none": None}
    optimizer = fj.adam(lr=0.1, trainable={"frozen": False, "W": True, "none": None}, ema_decay=0.9)
    state = optimizer.init(params)
    unpacked = optimizer.unpack(params, state)
    assert unpacked["exp_avg"]["frozen"] == {"a": None, "b": None}
    new, state = optimizer.step(params, grads, state)
    assert new["frozen"]["a"].tolist() == [0, 1, 2] and new["frozen"]["b"].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(np.asarray(new["W"]), 0.9, rtol=1e-6)


def test_nothing_to_step() -> None:
    optimizer = fj.nadam()
    for params in ({}, {"a": jnp.zeros((0, 3)), "b": jnp.ones(())}):
        state = optimizer.init(params)
        _, state = optimizer.step(params, jax.tree.map(jnp.ones_like, params), state)
        assert int(state.step) == 1


def test_pack_is_the_way_back() -> None:
    for dtype, options in STORED:
        optimizer = fj.adamw(**options)
        params = given(arrays(dtype))
        _, state = jax.jit(optimizer.step)(params, given(arrays(dtype, 1)), optimizer.init(params))
        again = optimizer.pack(params, optimizer.unpack(params, state), optimizer.init(params))
        assert_same(
            {k: np.asarray(v) for k, v in again.arrays.items()}, {k: np.asarray(v) for k, v in state.arrays.items()}
        )


def test_training_goes_on_from_a_state_of_optax() -> None:
    theirs, optimizer = optax.adam(0.1), fj.adam(lr=0.1)
    params = given(arrays())
    before = theirs.init(params)
    for seed in range(3):
        updates, before = theirs.update(given(arrays(seed=seed)), before, params)
        params = optax.apply_updates(params, updates)
    moments = before[0]
    state = optimizer.pack(params, {"exp_avg": moments.mu, "exp_avg_sq": moments.nu})._replace(step=moments.count)
    grads = given(arrays(seed=9))
    updates, _ = theirs.update(grads, before, params)
    expected = optax.apply_updates(params, updates)
    new, _ = optimizer.step(params, grads, state)
    for name in SHAPES:
        np.testing.assert_allclose(np.asarray(new[name]), np.asarray(expected[name]), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- optax

PEERS: dict[str, tuple[Options, Any]] = {
    "adam": ({"lr": 1e-2}, optax.adam(1e-2)),
    "adamw": ({"lr": 1e-2, "weight_decay": 0.1}, optax.adamw(1e-2, weight_decay=0.1)),
    "sgd": ({"lr": 1e-2, "momentum": 0.9}, optax.sgd(1e-2, momentum=0.9)),
    "sgd-nesterov": ({"lr": 1e-2, "momentum": 0.9, "nesterov": True}, optax.sgd(1e-2, momentum=0.9, nesterov=True)),
    "rmsprop": ({"lr": 1e-2, "alpha": 0.9}, optax.rmsprop(1e-2, decay=0.9, eps=1e-8, eps_in_sqrt=False)),
    "adagrad": ({"lr": 1e-2, "initial_accumulator_value": 0.1, "eps": 0.0, "eps_root": 1e-7}, optax.adagrad(1e-2)),
    "lion": ({"lr": 1e-3, "weight_decay": 0.1}, optax.lion(1e-3, weight_decay=0.1)),
    "adabelief": ({"lr": 1e-2}, optax.adabelief(1e-2)),
    "lamb": ({"lr": 1e-2, "weight_decay": 0.1}, optax.lamb(1e-2, weight_decay=0.1)),
    "adam-clipped": ({"lr": 1e-2, "max_grad_norm": 1.0}, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))),
    "adam-8bit": ({"lr": 1e-2, "state_format": "8bit"}, None),
}


@pytest.mark.parametrize("name", [name for name in PEERS if PEERS[name][1] is not None])
def test_as_optax_has_it(name: str) -> None:
    """Every element after 20 steps, within 2e-5 of it or 2e-6: both round to float32 at every operation."""
    options, theirs = PEERS[name]
    optimizer = getattr(fj, name.partition("-")[0])(**options)
    mine, peer = given(arrays()), given(arrays())
    state, their_state = optimizer.init(mine), theirs.init(peer)
    update = jax.jit(theirs.update)
    for seed in range(20):
        grads = given(arrays(seed=seed))
        mine, state = optimizer.step(mine, grads, state)
        updates, their_state = update(grads, their_state, peer)
        peer = optax.apply_updates(peer, updates)
    for key in SHAPES:
        np.testing.assert_allclose(np.asarray(mine[key]), np.asarray(peer[key]), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", PEERS)
def test_as_a_transformation_of_optax(name: str) -> None:
    """The update added to the parameters is the step, within its rounding."""
    optimizer = getattr(fj, name.partition("-")[0])(**PEERS[name][0])
    transformation = optimizer.as_optax()
    mine, params = given(arrays()), given(arrays())
    state, other = optimizer.init(mine), transformation.init(params)
    update = jax.jit(transformation.update)
    for seed in range(5):
        grads = given(arrays(seed=seed))
        mine, state = optimizer.step(mine, grads, state)
        updates, other = update(grads, other, params, lr=PEERS[name][0]["lr"])
        params = optax.apply_updates(params, updates)
    for key in SHAPES:
        np.testing.assert_allclose(np.asarray(params[key]), np.asarray(mine[key]), rtol=1e-5, atol=1e-6)


def test_in_a_chain_and_masked() -> None:
    transformation = optax.chain(
        optax.clip(0.1), optax.masked(fj.adam(lr=0.1).as_optax(), {"W": True, "b": False, "deep": True})
    )
    theirs = optax.chain(optax.clip(0.1), optax.masked(optax.adam(0.1), {"W": True, "b": False, "deep": True}))
    params, grads = given(arrays()), given(arrays(seed=1))
    one, _ = transformation.update(grads, transformation.init(params), params)
    other, _ = theirs.update(grads, theirs.init(params), params)
    for key in SHAPES:
        np.testing.assert_allclose(np.asarray(one[key]), np.asarray(other[key]), rtol=1e-4, atol=1e-6)


def test_every_rule_is_there_with_the_defaults_of_its_class() -> None:
    import inspect

    from fusedstep.jax._options import Options

    assert set(fj.optimizers.__all__) == set(CLASSES) - {"sparse_adam"}
    for rule in fj.optimizers.__all__:
        mine = inspect.signature(getattr(fj, rule)).parameters
        theirs = inspect.signature(CLASSES[rule].__init__).parameters
        assert {n: p.default for n, p in mine.items() if n != "options"} == {
            n: p.default for n, p in theirs.items() if n not in ("self", "params", "options")
        }
        assert f"fusedstep.{CLASSES[rule].__name__}" in getattr(fj, rule).__doc__
    assert set(Options.__annotations__) - {"mask", "trainable"} == set(fs._base.Options.__annotations__) - set(
        fj._optimizer.REFUSED
    )


def test_schedule_free_average() -> None:
    for rule, beta in (("schedule_free_sgd", 0.9), ("schedule_free_adamw", 0.9)):
        optimizer = getattr(fj, rule)(lr=0.1)
        params = given(arrays())
        state = optimizer.init(params)
        for seed in range(3):
            params, state = optimizer.step(params, given(arrays(seed=seed)), state)
        z = np.asarray(optimizer.unpack(params, state)["z"]["W"])
        expected = fs.reference.schedule_free_average(np.asarray(params["W"]), z, beta=beta)
        np.testing.assert_allclose(np.asarray(optimizer.average(params, state)["W"]), expected, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------------------------ mistakes


def one() -> dict[str, Any]:
    return {"W": jnp.ones((2, 3)), "b": jnp.zeros(3)}


MADE: list[tuple[str, Options, type[Exception], str]] = [
    ("adam", {"learning_rate": 1}, TypeError, "unexpected keyword argument 'learning_rate', did you mean lr?"),
    ("adam", {"lr": -1.0}, ValueError, "lr: got -1.0, needs >= 0 and finite"),
    ("adam", {"lr": "fast"}, TypeError, "lr: got 'fast' .*needs a real number"),
    ("adam", {"lr": np.array([0.1, -0.1])}, ValueError, r"lr\[1\]: got .*-0.1.*, needs >= 0"),
    ("adam", {"lr": np.zeros(0)}, ValueError, "lr: got an empty array"),
    ("adam", {"lr": np.ones((2, 2))}, TypeError, "lr: got "),
    (
        "adam",
        {"lr": np.ma.array([0.1, 0.2], mask=[False, True])},
        TypeError,
        "lr: got a masked array, needs one without",
    ),
    ("adam", {"lr": np.ma.array(0.1)}, TypeError, "lr: got a masked array, needs"),
    ("adam", {"lr": fs.schedules.cosine(0.1, 10)}, TypeError, r"lr: got cosine\(.*np.array\(\[schedule\(t\)"),
    ("adam", {"lr": lambda step: -1.0}, ValueError, "lr: got -1.0, needs"),
    ("adam", {"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]: got 1.0, needs >= 0 and < 1"),
    ("adam", {"betas": 0.9}, TypeError, "betas: got 0.9.*needs a pair"),
    ("adam", {"amsgrad": jnp.ones(3)}, TypeError, "amsgrad: got .*needs True or False"),
    ("adam", {"amsgrad": lambda step: True}, TypeError, "amsgrad: got function, needs True or False"),
    ("adam", {"zero_grads": True}, TypeError, "zero_grads: got True, needs to be left out"),
    ("adam", {"state_format": "4bit"}, ValueError, "state_format: got '4bit', needs"),
    ("adam", {"max_grad_norm": 0.0}, ValueError, "max_grad_norm: got 0.0, needs > 0"),
    ("adam", {"ema_decay": 1.0}, ValueError, "ema_decay.*: got 1.0, needs"),
    ("adam", {"seed": -1}, ValueError, "seed: got -1, needs"),
    ("rprop", {"mask": True}, TypeError, "mask: got one, needs a rule with weight_decay"),
    ("adagrad", {"state_format": "8bit"}, ValueError, "state_format.*needs 'float32' for adagrad"),
    ("sgd", {"nesterov": True}, ValueError, "nesterov.* needs a momentum above 0"),
]


@pytest.mark.parametrize(("rule", "options", "error", "message"), MADE, ids=[row[-1][:40] for row in MADE])
def test_options_that_are_refused(rule: str, options: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(fj, rule)(**options)


TRACED: list[tuple[Options, Options, type[Exception], str]] = [
    ({}, {"rate": 1.0}, TypeError, "unexpected keyword argument 'rate'"),
    (
        {},
        {"max_grad_norm": 1.0},
        TypeError,
        "max_grad_norm: got a number for this step, needs an optimizer that was made with one",
    ),
    ({"ema_decay": 0.9}, {"ema_decay": None}, TypeError, "ema_decay: got None for this step, needs an optimizer"),
    ({}, {"momentum": 0.9}, TypeError, "momentum: got a value for this step, needs an optimizer made with one"),
    ({}, {"nesterov": 1.0}, TypeError, "nesterov: got a traced array, needs True or False"),
    ({}, {"lr": np.ones(2)}, TypeError, r"lr: got an array of float32 and shape \(2,\), needs one real number"),
    ({}, {"lr": 1j}, TypeError, "lr: got an array of complex64"),
    ({"trainable": {"W": True}}, {}, ValueError, "trainable: got another structure than params"),
    ({"mask": {"W": 1, "b": True}}, {}, TypeError, "mask: got 1, needs True or False"),
    ({"master": "split"}, {}, TypeError, r'params\["W"\]: got float32 with master=.split., needs bfloat16'),
]


@pytest.mark.parametrize(("options", "values", "error", "message"), TRACED, ids=[row[-1][:40] for row in TRACED])
def test_steps_that_are_refused(options: Options, values: Options, error: type[Exception], message: str) -> None:
    """While the program is traced: nothing was donated yet."""
    optimizer, params = fj.sgd(**options), one()
    with pytest.raises(error, match=message):
        optimizer.step(params, one(), optimizer.init(params), **values)
    assert not params["W"].is_deleted()


def arguments(case: str) -> tuple[Any, Any, Any]:
    optimizer, params, grads = fj.adam(), one(), one()
    state = optimizer.init(params)
    changed: dict[str, Any] = {
        "integers": ({"W": jnp.ones((2, 3), jnp.int32), "b": params["b"]}, grads, state),
        "other structure": (params, {"W": grads["W"]}, state),
        "no gradient": (params, {"W": grads["W"], "b": None}, state),
        "other shape": (params, {"W": jnp.ones((3, 2)), "b": grads["b"]}, state),
        "whole gradient": (params, {"W": jnp.ones((2, 3), jnp.int32), "b": grads["b"]}, state),
        "no state": (params, grads, tuple(state)),
        "other state": (params, grads, state._replace(arrays={})),
        "short state": (params, grads, state._replace(arrays={"float32": jnp.zeros(3)})),
        "float step": (params, grads, state._replace(step=jnp.zeros(()))),
    }
    arguments: tuple[Any, Any, Any] = changed[case]
    return arguments


ARGUMENTS = {
    "integers": (TypeError, r'params\["W"\]: got int32, needs an array of float32'),
    "other structure": (ValueError, "grads: got another structure than params"),
    "no gradient": (TypeError, r'grads\["b"\]: got NoneType, needs float32'),
    "other shape": (ValueError, r'grads\["W"\]: got shape \(3, 2\), needs \(2, 3\), the shape of params\["W"\]'),
    "whole gradient": (TypeError, r'grads\["W"\]: got int32, needs float32, float16 or bfloat16'),
    "no state": (TypeError, "state: got tuple, needs the State"),
    "other state": (ValueError, "state: got .step, needs .arrays"),
    "short state": (ValueError, r'state.arrays\["float32"\]: got float32 of shape \(3,\), needs float32 of shape'),
    "float step": (ValueError, r"state.step: got float32 of shape \(\), needs int32"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_are_refused(case: str) -> None:
    error, message = ARGUMENTS[case]
    with pytest.raises(error, match=message):
        fj.adam().step(*arguments(case))


RUNNING: list[tuple[Options, Options, str]] = [
    ({}, {"lr": -1.0}, "lr: got -1, needs >= 0 and finite"),
    ({}, {"lr": np.nan}, "lr: got nan, needs >= 0 and finite"),
    ({}, {"betas": (1.0, 0.5)}, r"betas\[0\]: got 1, needs >= 0 and < 1"),
    ({}, {"grad_scale": 0.0}, "grad_scale: got 0, needs > 0 and finite"),
    ({}, {"grad_scale": 1e-39}, "grad_scale: got 1e-39, needs a number whose inverse is finite in float32"),
    ({"lr": lambda step: 1.0 - 2.0 * (step > 0)}, {}, "lr: got -1, needs"),
]


@pytest.mark.parametrize(("options", "values", "message"), RUNNING, ids=[row[-1][:40] for row in RUNNING])
def test_traced_numbers_out_of_range(options: Options, values: Options, message: str) -> None:
    """Nothing is written: the arguments, not donated here, are as they were."""
    optimizer, params = fj.adam(**options), one()
    state = optimizer.init(params)._replace(step=jnp.int32(1))
    before = read((params, state))
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(jax.jit(optimizer.step)(params, one(), state, **values))
    assert_same(jax.tree.leaves(read((params, state))), jax.tree.leaves(before))


def test_a_step_beyond_float16() -> None:
    optimizer, params = fj.sgd(lr=100.0), {"W": jnp.full(3, 65504.0, jnp.float16)}
    with pytest.raises(Exception, match=r'params\["W"\]: got a step beyond 65504'):
        jax.block_until_ready(optimizer.step(params, {"W": jnp.full(3, -1000.0, jnp.float16)}, optimizer.init(params)))


def test_names_without_utf8() -> None:
    optimizer, params, grads = fj.sgd(lr=0.5), {"\ud800": jnp.ones(3)}, {"\ud800": jnp.ones(3)}
    params, state = optimizer.step(params, grads, optimizer.init(params))
    assert params["\ud800"].tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(TypeError, match=r'params\["\\ud800"\]'):
        optimizer.step({"\ud800": jnp.ones(3, jnp.int32)}, grads, state)


def test_a_count_that_is_full() -> None:
    optimizer, params = fj.sgd(), one()
    for step in (2**31 - 1, -1):
        state = optimizer.init(params)._replace(step=jnp.int32(step))
        with pytest.raises(Exception, match=f"state.step: got {step}, needs"):
            jax.block_until_ready(jax.jit(optimizer.step)(params, one(), state))


def test_transformations_that_there_are_not() -> None:
    optimizer, params, grads = fj.adam(), one(), one()
    state = optimizer.init(params)
    batch = jax.tree.map(lambda g: g[None], grads)
    with pytest.raises(NotImplementedError, match=r"under jax\.vmap, needs one without"):
        jax.vmap(lambda g: optimizer.step(params, g, state))(batch)
    with pytest.raises(NotImplementedError, match="a step that is differentiated, needs one that is not"):
        jax.grad(lambda g: optimizer.step(params, g, state)[0]["W"].sum())(grads)


def test_on_another_device() -> None:
    """Programs are compiled for a GPU without having one."""
    optimizer, params = fj.adam(), one()
    traced = jax.jit(optimizer.step).trace(params, one(), optimizer.init(params))
    with pytest.raises(ValueError, match=r"got a program for cuda, needs one for the CPU.*jax\.device_put"):
        traced.lower(lowering_platforms=("cuda",))


def test_what_else_is_refused() -> None:
    optimizer, params = fj.adam(), one()
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"params: got None, needs the parameters"):
        optimizer.as_optax().update(params, state)
    with pytest.raises(TypeError, match="average: got adam, needs schedule_free"):
        optimizer.average(params, state)
    with pytest.raises(ValueError, match="unpacked: got 'mu', needs any of exp_avg, exp_avg_sq"):
        optimizer.pack(params, {"mu": params})
    with pytest.raises(ValueError, match=r'unpacked\["exp_avg"\]\["W"\]: got shape \(2,\), needs \(2, 3\)'):
        optimizer.pack(params, {"exp_avg": {"W": jnp.ones(2), "b": jnp.ones(3)}})
    with pytest.raises(ValueError, match=r'unpacked\["exp_avg"\]: got another structure than params'):
        optimizer.pack(params, {"exp_avg": {"W": jnp.ones(2)}})
    quantized = fj.adam(state_format="8bit", min_quantized_size=0)
    with pytest.raises(ValueError, match="got float32, needs a pair of codes and scales"):
        quantized.pack(params, {"exp_avg": params})
    with pytest.raises(TypeError, match=r"lr: got a traced array, needs a number"):
        jax.jit(lambda lr: fj.asgd(lr=lr).init(params))(0.1)


@pytest.mark.parametrize("wrong", [None, 3, "text", (1, 2), [], np.ones(3)], ids=repr)
def test_arguments_of_a_wrong_kind(wrong: Any) -> None:
    """In every function: a documented error that begins with the argument's name, as no attribute is looked for."""
    optimizer, params = fj.schedule_free_adamw(), one()
    state = optimizer.init(params)
    grads, unpacked, optax_face = one(), optimizer.unpack(params, state), optimizer.as_optax()
    calls: dict[str, list[Any]] = {
        "params": [
            lambda: optimizer.step(wrong, grads, state),
            lambda: optimizer.unpack(wrong, state),
            lambda: optimizer.pack(wrong, unpacked),
            lambda: optimizer.average(wrong, state),
            lambda: optax_face.update(grads, state, wrong),
        ],
        "grads": [lambda: optimizer.step(params, wrong, state), lambda: optax_face.update(wrong, state, params)],
        "state": [
            lambda: optimizer.step(params, grads, wrong),
            lambda: optimizer.unpack(params, wrong),
            lambda: optimizer.scalars(wrong),
            lambda: optimizer.average(params, wrong),
            lambda: optax_face.update(grads, wrong, params),
        ],
        "unpacked": [lambda: optimizer.pack(params, wrong), lambda: optimizer.pack(params, {"z": wrong})],
    }
    if wrong is not None:
        calls["state"].append(lambda: optimizer.pack(params, unpacked, wrong))
    for name, every in calls.items():
        for call in every:
            # JAX names what is no array at all itself; other structures of parameters show at what belongs to them.
            with pytest.raises((TypeError, ValueError), match=None if name == "params" else name):
                call()


def test_scalars_of_another_form() -> None:
    optimizer = fj.nadam()
    state = optimizer.init(one())
    every: list[Any] = [None, [], np.zeros((1, 2)), np.zeros(2, np.uint32), np.zeros((1, 3), np.uint32)]
    for wrong in every:
        with pytest.raises(ValueError, match=r"^state\.scalars: got .*, needs uint32 of shape \(n, 2\)"):
            optimizer.scalars(state._replace(scalars=wrong))
    with pytest.raises(TypeError, match="state: got a traced one"):
        jax.jit(lambda traced: optimizer.scalars(traced)["mu_product"])(state)


def test_packed_states_of_another_form() -> None:
    """A transposed state has as many elements, and codes are no numbers: neither is taken."""
    params = {"W": jnp.ones((2, 3), jnp.bfloat16)}
    split = fj.adam(master="split", state_format="8bit", min_quantized_size=0)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (fj.adam(), {"exp_avg": {"W": jnp.ones((3, 2))}}, r"got shape \(3, 2\), needs \(2, 3\)"),
        (fj.adam(), {"exp_avg": {"W": jnp.ones((2, 3), jnp.int32)}}, "got int32, needs an array of a float dtype"),
        (split, {"master": {"W": jnp.ones((2, 3))}}, "got float32, needs an array of int16"),
        (split, {"exp_avg": {"W": (jnp.ones((2, 3)), jnp.ones(1))}}, "got float32, needs an array of uint8"),
        (split, {"exp_avg": {"W": (jnp.ones((2, 3), jnp.uint8), jnp.ones((1, 1)))}}, r"got shape \(1, 1\), needs"),
    ]
    for optimizer, entries, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.pack(params, entries)


def test_parameters_of_numpy_in_float64() -> None:
    """JAX makes float32 of them here, and so do the functions that read states."""
    optimizer, params = fj.adam(), {"W": np.ones((2, 3))}
    state = optimizer.init(params)
    unpacked = optimizer.unpack(params, state)
    packed = optimizer.pack(params, unpacked)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(packed), jax.tree.leaves(state), strict=True))
    assert unpacked["exp_avg"]["W"].dtype == np.float32


def test_without_jax_the_message_says_what_to_install() -> None:
    code = "import sys; sys.modules['jax'] = None; import fusedstep; import fusedstep.jax"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "fusedstep.jax needs JAX" in found.stderr and "fusedstep[jax]" in found.stderr


def test_structures_are_those_of_xla(tmp_path: Path) -> None:
    """Offset by offset, as a compiler sees jaxlib's header beside the package's own."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    same: list[str] = []
    for mine, theirs, members in STRUCTURES:
        pairs = [pair.split("=") for pair in members.split()]
        same += [f"offsetof(m::{mine}, {a}) == offsetof(XLA_FFI_{theirs}, {b})" for a, b in pairs]
        same += [f"sizeof(m::{mine}::{a}) == sizeof(XLA_FFI_{theirs}::{b})" for a, b in pairs]
    same += [f"sizeof(m::{name}) == sizeof(XLA_FFI_{other})" for name, other, _ in STRUCTURES if name in WHOLE]
    same += [f"int(m::{name}) == int(XLA_FFI_{other})" for name, other in CONSTANTS.items()]
    source = tmp_path / "structures.cpp"
    source.write_text(
        '#include "xla/ffi.hpp"\n#include "xla/ffi/api/c_api.h"\nnamespace m = fusedstep::xla;\n'
        + "\n".join(f"static_assert({line});" for line in same)
    )
    root = Path(__file__).parents[2] / "cpp"
    includes = [f"-I{root}", f"-I{jax.ffi.include_dir()}"]
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    if "XLA_FFI_InternalExtension" in header:  # its name from JAX 0.12 on
        includes.append("-DXLA_FFI_Extension_Base=XLA_FFI_InternalExtension")
    command = [compiler, STANDARD, "-fsyntax-only", "-Wno-invalid-offsetof", *includes, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
