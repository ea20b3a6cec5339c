"""``cast_grads=True``: gradients of any form leave the bytes that the converted gradients leave."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CLASSES, FLOAT16, FLOAT32, FLOAT64, Array, assert_same, reshape, snapshot

import fusedstep as fs

SHAPE = (6, 5)


class Subclass(np.ndarray[Any, Any]):
    """An array whose arithmetic and assignments are its own."""

    def __setitem__(self, key: Any, value: Any) -> None:
        raise AssertionError("assigned by its own method")


class Describing:
    """An object that has one protocol alone."""

    def __init__(self, array: Array, name: str) -> None:
        self.array, self.name = array, name

    def __getattr__(self, name: str) -> Any:
        if name == self.name or (self.name == "__dlpack__" and name == "__dlpack_device__"):
            return getattr(self.array, name)
        raise AttributeError(name)


def strided(array: Array) -> Array:
    wide = np.zeros((2 * array.shape[0], 3 * array.shape[1]), array.dtype)
    wide[::2, ::3] = array
    return wide[::2, ::3]


def unaligned(array: Array) -> Array:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


FORMS: dict[str, Callable[[Array], Any]] = {
    "float64": lambda a: a,
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "bfloat16": lambda a: a.astype(BFLOAT16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int64": lambda a: (8 * a).astype(np.int64),
    "uint8": lambda a: np.abs(8 * a).astype(np.uint8),
    "big endian": lambda a: a.astype(">f4"),
    "Fortran": np.asfortranarray,
    "strided": strided,
    "reversed": lambda a: a[::-1, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "strided float16": lambda a: strided(a.astype(np.float16)),
    "unaligned": lambda a: unaligned(a.astype(np.float32)),
    "subclass": lambda a: a.view(Subclass),
    "matrix": lambda a: a.view(np.matrix),
    "__dlpack__": lambda a: Describing(a, "__dlpack__"),
    "__array__": lambda a: Describing(a, "__array__"),
    "__array_interface__": lambda a: Describing(a, "__array_interface__"),
    "__array_struct__": lambda a: Describing(a, "__array_struct__"),
}


def converted(grad: Any, dtype: Any) -> Array:
    plain = grad.array if isinstance(grad, Describing) else np.asarray(grad)
    return np.array(plain, FLOAT64 if dtype == FLOAT64 else FLOAT32, order="C")


def gradients(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=SHAPE)


def parameter(dtype: Any) -> Array:
    return np.random.default_rng(7).normal(size=SHAPE).astype(dtype)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_same_bytes_as_with_the_converted_gradient(form: str, dtype: Any) -> None:
    options: dict[str, Any] = {"max_grad_norm": 1.0, "clip_value": 0.2, "ema_decay": 0.9, "rounding": "stochastic"}
    for bound in (False, True):
        given = FORMS[form](gradients())
        cast = fs.Adam(parameter(dtype), cast_grads=True, grads=given if bound else None, **options)
        plain = fs.Adam(parameter(dtype), **options)
        for scale in (1.0, 4.0):
            assert cast.step(None if bound else given, grad_scale=scale)
            assert plain.step(converted(given, dtype), grad_scale=scale)
            assert_same(snapshot(cast), snapshot(plain))
            assert cast.grad_norm == plain.grad_norm


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_every_rule(rule: str) -> None:
    cast, plain = CLASSES[rule](parameter(FLOAT32), cast_grads=True), CLASSES[rule](parameter(FLOAT32))
    for seed in range(3):
        cast.step(gradients(seed).T.copy().T)
        plain.step(gradients(seed).astype(np.float32))
    assert_same(snapshot(cast), snapshot(plain))


def test_structures_none_groups_and_scalars() -> None:
    def params() -> Any:
        return [{"params": {"W": parameter(FLOAT32), "c": np.ones((), np.float32)}}, {"params": parameter(FLOAT64)}]

    cast, plain = fs.SGD(params(), lr=0.1, cast_grads=True), fs.SGD(params(), lr=0.1)
    every: Any = ([{"W": gradients(), "c": np.float64(2)}, gradients().T.copy().T], [{"W": None, "c": None}, None])
    for given in every:
        assert cast.step(given)
        assert plain.step(
            [
                {k: v if v is None else np.asarray(v, np.float32).reshape(np.shape(v)) for k, v in given[0].items()},
                None if given[1] is None else np.ascontiguousarray(given[1]),
            ]
        )
    assert_same(snapshot(cast), snapshot(plain))
    cast.add_param_group({"params": parameter(FLOAT32)})
    assert cast.step([{"W": gradients(), "c": None}, None, gradients()])


def test_bound_gradients_are_read_anew_in_every_step() -> None:
    grad = gradients()
    cast, plain = fs.SGD(parameter(FLOAT32), grads=grad, cast_grads=True), fs.SGD(parameter(FLOAT32))
    for seed in range(3):
        grad[...] = gradients(seed)
        cast.step()
        plain.step(gradients(seed).astype(np.float32))
    assert_same(snapshot(cast), snapshot(plain))
    with pytest.raises(ValueError, match=r"^grads: got None, needs the gradients"):
        fs.SGD(parameter(FLOAT32), cast_grads=True).step()
    for bad in (np.ones((6, 5), complex), np.ones(3)):
        with pytest.raises((TypeError, ValueError), match=r"^grads: got "):
            fs.SGD(parameter(FLOAT32), grads=bad, cast_grads=True)


@pytest.mark.parametrize("form", ["float64", "float32", "Fortran", "strided", "subclass", "__dlpack__", "__array__"])
@pytest.mark.parametrize("bound", [False, True])
def test_zero_grads_clears_the_callers_own_memory(form: str, bound: bool) -> None:
    grad = FORMS[form](gradients())
    opt = fs.SGD(parameter(FLOAT32), cast_grads=True, zero_grads=True, grads=grad if bound else None)
    memory = grad.array if isinstance(grad, Describing) else np.asarray(grad)
    for _ in range(2):
        memory[...] = 1
        assert opt.step(None if bound else grad)
        assert not memory.any()


def test_zero_grads_leaves_a_skipped_step_alone() -> None:
    grad = gradients()
    grad[0, 0] = np.inf
    before = grad.copy()
    opt = fs.SGD(parameter(FLOAT32), cast_grads=True, zero_grads=True, skip_nonfinite=True)
    assert not opt.step(grad) and opt.skipped_steps == 1
    assert np.array_equal(grad, before)


def test_zero_grads_needs_memory_that_may_be_written() -> None:
    param = parameter(FLOAT64)
    opt = fs.SGD(param, cast_grads=True, zero_grads=True)
    before = param.copy()
    fixed = gradients().T.copy().T
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"^grads: got a read-only array, needs a writeable one, since zero_grads"):
        opt.step(fixed)
    with pytest.raises(ValueError, match=r"^grads: got memory that overlaps params"):
        opt.step(param[::-1])
    assert np.array_equal(param, before)
    opt.zero_grads = False
    assert opt.step(param[::-1])
    np.testing.assert_array_equal(param, before - 1e-3 * before[::-1])


def test_beyond_float32_is_infinite() -> None:
    grad = np.full(SHAPE, 1e300)
    param = parameter(FLOAT32)
    opt = fs.SGD(param, cast_grads=True, skip_nonfinite=True)
    with np.errstate(all="raise"):
        assert not opt.step(grad)
    assert param.tobytes() == parameter(FLOAT32).tobytes()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_sparse_rows(dtype: Any) -> None:
    cast, plain = (fs.Adagrad(parameter(dtype), cast_grads=flag) for flag in (True, False))
    for count in (2, 4, 1, 0):
        rows, values = np.arange(count) % 3, gradients()[:count]
        fortran = np.asfortranarray(values.astype(">f8"))
        assert cast.step(fs.SparseRows(rows, fortran))
        assert plain.step(fs.SparseRows(rows, values.astype(dtype)))
    assert_same(snapshot(cast), snapshot(plain))
    cast.zero_grads = True
    rows_grad = fs.SparseRows(np.array([1, 1]), gradients()[:2].astype(np.float16)[:, ::-1])
    assert cast.step(rows_grad)
    assert not rows_grad.values.any()
    with pytest.raises(ValueError, match=r"^grads: got shape \(2, 4\), needs \(2, 5\)"):
        cast.step(fs.SparseRows(np.array([1, 1]), np.ones((2, 4), int)))
    with pytest.raises(ValueError, match=r"^grads\.values: got shape \(1, 5\)"):
        cast.step(fs.SparseRows(np.array([1, 1]), np.ones((1, 5), int)))


BAD: list[tuple[Any, str]] = [
    (np.ones(SHAPE, complex), r"got dtype complex128, needs real numbers"),
    (np.ones(SHAPE, bool), r"got dtype bool, needs real numbers"),
    (np.ones(SHAPE, object), r"got dtype object, needs real numbers"),
    (np.ones(SHAPE, "V2"), r"got dtype \|V2, needs real numbers"),
    (np.full(SHAPE, "a"), r"got dtype <U1, needs real numbers"),
    (np.ones(SHAPE).astype("M8[s]"), r"got dtype datetime64\[s\], needs real numbers"),
    (np.ma.masked_array(np.ones(SHAPE)), r"got MaskedArray, needs a NumPy array"),
    (np.ones((5, 6)), r"got shape \(5, 6\), needs \(6, 5\), the shape of params"),
    (np.ones(30), r"got shape \(30,\), needs \(6, 5\)"),
    (np.ones((6, 5, 1)), r"got shape \(6, 5, 1\)"),
    (np.float64(1), r"got shape \(\), needs \(6, 5\)"),
    (1.0, r"got float, needs a NumPy array"),
    ([1.0], r"got list, needs a NumPy array"),
    ("W", r"got str, needs a NumPy array"),
]


class Raising:
    """Whatever it is asked for as an array raises."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise OSError("the file is gone")


class Elsewhere:
    """A gradient on a GPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise AssertionError("not to be asked")


class Nowhere:
    """A gradient that does not know where it is."""

    def __dlpack_device__(self) -> tuple[str, int]:
        return ("cpu", 0)

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise AssertionError("not to be asked")


class Masked:
    """An object that is behind a mask."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return np.ma.masked_array(np.ones(SHAPE), True)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        *BAD,
        (Raising(), "got Raising, needs an array that NumPy can read: the file is gone"),
        (Elsewhere(), r"got Elsewhere on another device \(DLPack's 2\), needs one in the CPU's memory"),
        (Nowhere(), "got Nowhere, needs an array that NumPy can read: invalid literal for int"),
        (Masked(), "got Masked, which gives an array with a mask, needs a NumPy array"),
    ],
    ids=[*(text for _, text in BAD), "raising", "elsewhere", "nowhere", "masked"],
)
def test_what_is_still_an_error(bad: Any, text: str) -> None:
    opt = fs.Adam({"a": parameter(FLOAT32), "W": parameter(FLOAT32)}, cast_grads=True)
    opt.step({"a": gradients(), "W": gradients()})
    before = snapshot(opt)
    with pytest.raises((TypeError, ValueError), match=r'^grads\["W"\]: ' + text):
        opt.step({"a": gradients(), "W": bad})
    assert_same(snapshot(opt), before)
    assert opt.steps_taken == 1


def test_parameters_stay_strict() -> None:
    for bad in (np.ones(SHAPE, int), np.ones(SHAPE).T, np.ones(SHAPE, ">f4")):
        with pytest.raises((TypeError, ValueError), match=r"^params: got "):
            fs.SGD(bad, cast_grads=True)
    for wrong in (1, "yes", None):
        with pytest.raises(TypeError, match=r"^cast_grads: got .*, needs True or False"):
            fs.SGD(parameter(FLOAT32), cast_grads=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [name for name in FORMS if name not in ("float32", "float16", "bfloat16")])
def test_without_it_the_error_says_how_to_mend(form: str) -> None:
    opt = fs.SGD(parameter(FLOAT32))
    with pytest.raises((TypeError, ValueError), match=r"^grads: got .*; or make the optimizer with cast_grads=True$"):
        opt.step(FORMS[form](gradients()))


@pytest.mark.parametrize("bad", [bad for bad, _ in BAD if not isinstance(bad, np.float64)], ids=lambda b: str(type(b)))
def test_it_is_not_advised_where_it_would_not_help(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        fs.SGD(parameter(FLOAT32)).step(bad)
    castable = isinstance(bad, np.ndarray) and bad.dtype == float and not isinstance(bad, np.ma.MaskedArray)
    assert castable or "cast_grads" not in str(caught.value)


# ---- buffers ----


def test_buffers_are_reused() -> None:
    size = 1 << 20
    opt, grad = fs.SGD(np.zeros(size, np.float32), cast_grads=True), np.ones(size)
    opt.step(grad)
    tracemalloc.start()
    for _ in range(3):
        opt.step(grad)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size


def test_copies_and_pickles_have_buffers_of_their_own() -> None:
    opt = fs.Adam(parameter(FLOAT32), cast_grads=True, max_grad_norm=1.0)
    opt.step(gradients())
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for other in (opt, *others):
        other.step(gradients(1))
        assert_same(snapshot(other), snapshot(opt))
    assert "cast_grads" not in repr(opt.state_dict())


def test_a_parameter_that_is_reshaped_in_place() -> None:
    param = np.zeros(SHAPE, np.float32)
    opt = fs.SGD(param, lr=1.0, cast_grads=True)
    opt.step(np.ones(SHAPE))
    reshape(param, (5, 6))
    assert opt.step(np.ones((5, 6)))
    assert (param == -2).all()


# ---- hostile gradients ----


def test_a_gradient_that_steps() -> None:
    params = [parameter(FLOAT32), parameter(FLOAT32)]
    opt = fs.SGD(params, cast_grads=True)

    class Stepping:
        def __array__(self, *args: Any, **kwargs: Any) -> Any:
            opt.step([gradients(), gradients()])

    with pytest.raises(TypeError, match=r"^grads\[1\]: got Stepping.*called during a step of this optimizer$"):
        opt.step([gradients(), Stepping()])
    assert opt.steps_taken == 0
    assert opt.step([gradients(), gradients()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("zero", [False, True])
def test_a_gradient_that_shortens_the_others(zero: bool) -> None:
    first, param = np.ones(4096), np.zeros(4096, np.float32)
    direct = np.ones(4096, np.float32)
    opt = fs.SGD([param, np.zeros(4096, np.float32), np.zeros(3, np.float32)], cast_grads=True, zero_grads=zero)

    class Shortening:
        def __array__(self, *args: Any, **kwargs: Any) -> Any:
            for array in (first, direct):
                if array.size == 4096:
                    array.resize(8, refcheck=False)
            return np.ones(3)

    with pytest.raises(ValueError, match=r"^grads\[1\]: got shape \(8,\)"):
        opt.step([first, direct, Shortening()])
    assert not param.any()


def test_a_gradient_that_loads_a_state_dict() -> None:
    opt = fs.Adam([parameter(FLOAT32), parameter(FLOAT32)], cast_grads=True)
    saved = opt.state_dict()
    opt.step([gradients(), gradients()])

    class Loading:
        def __array__(self, *args: Any, **kwargs: Any) -> Any:
            opt.load_state_dict(saved)
            return gradients()

    before = snapshot(opt)
    with pytest.raises(TypeError, match=r"^grads\[1\]: .*load_state_dict\(\): called during a step of this optimizer$"):
        opt.step([gradients(), Loading()])
    assert_same(snapshot(opt), before)
    assert opt.steps_taken == 1


def test_a_gradient_that_adds_parameters() -> None:
    opt = fs.SGD([parameter(FLOAT32), parameter(FLOAT32)], cast_grads=True)

    class Adding:
        def __array__(self, *args: Any, **kwargs: Any) -> Any:
            if len(opt.param_groups) == 1:
                opt.add_param_group({"params": parameter(FLOAT32)})
            return gradients()

    before = snapshot(opt)
    with pytest.raises(TypeError, match=r"^grads\[0\]: .*add_param_group\(\): called during a step of this optimizer$"):
        opt.step([Adding(), gradients()])
    assert_same(snapshot(opt), before)
    assert opt.step([gradients(), gradients()])


def test_a_gradient_that_cannot_be_cleared() -> None:
    """It was read for the step; the step counts, and the message says so."""
    opt = fs.SGD([parameter(FLOAT32), parameter(FLOAT32)], cast_grads=True, zero_grads=True)

    class Once:
        read = 0

        def __array__(self, *args: Any, **kwargs: Any) -> Any:
            self.read += 1
            if self.read == 2:
                raise OSError("gone")
            return gradients()

    other = gradients()[::-1]
    with pytest.raises(RuntimeError, match=r"^grads\[0\]: was read for the step, which was taken, .*gone$"):
        opt.step([Once(), other])
    assert opt.steps_taken == 1 and not other.any()


# ---- other libraries ----


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    grad = torch.from_numpy(gradients())
    cast, plain = fs.Adam(parameter(FLOAT32), cast_grads=True), fs.Adam(parameter(FLOAT32))
    for tensor in (grad, grad.float(), grad.T.contiguous().T, grad.half().double()):
        cast.step(tensor)
        plain.step(np.ascontiguousarray(tensor.numpy(), np.float32))
    assert_same(snapshot(cast), snapshot(plain))
    cast.zero_grads = True
    cast.step(grad)
    assert not grad.any()
    for tensor, text in ((grad.bfloat16(), "dtype|BFloat16"), (grad.requires_grad_(), "detach")):
        with pytest.raises(TypeError, match=rf"^grads: got Tensor, needs an array that NumPy can read: .*({text})"):
            cast.step(tensor)
    with pytest.raises(TypeError, match=r"^grads: got Tensor"):
        cast.step(torch.ones(SHAPE, device="meta"))


def test_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    cast, plain = fs.Adam(parameter(FLOAT32), cast_grads=True), fs.Adam(parameter(FLOAT32))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        grad = jnp.asarray(gradients(), dtype)
        cast.step(grad)
        cast.step(np.asarray(grad))
        for _ in range(2):
            plain.step(np.asarray(grad).astype(np.float32))
    assert_same(snapshot(cast), snapshot(plain))
    cast.zero_grads = True
    with pytest.raises(ValueError, match=r"^grads: got a read-only array"):
        cast.step(jnp.asarray(gradients(), jnp.float32))


class PlainDescent(fs.NumPyOptimizer):
    """Gradient descent as a rule of one's own."""

    @staticmethod
    def update(param: Array, grad: Array, *, step: int, lr: Any = 0.1) -> None:
        param -= np.float32(lr) * grad


@pytest.mark.parametrize("rule", ["sgd", "own"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("before", [False, True])
def test_zero_grads_set_within_a_step_holds_for_all_gradients_alike(before: bool, number: int, rule: str) -> None:
    made: list[Any] = []

    def lr(_step: int) -> float:
        for opt in made:
            opt.zero_grads = not before
        return 0.1

    cls: Any = fs.SGD if rule == "sgd" else PlainDescent
    params = [parameter(FLOAT32), parameter(FLOAT32)]
    opt = cls(params, lr=lr, cast_grads=True, zero_grads=before, accumulate_steps=number)
    made.append(opt)
    plain, converted = np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float64)
    for _ in range(number - 1):  # these are cleared as was asked when they came
        opt.step([np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float64)])
    opt.zero_grads = before
    opt.step([plain, converted])
    assert np.array_equal(plain, converted)
    assert plain.any() != before
    assert_same(params[0], params[1])
