"""A rule of one's own in NumPy: a known formula leaves the bytes of the native optimizer, with all step options."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import warnings
import weakref
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, assert_same, reshape, snapshot

import fusedstep as fs
from fusedstep.reference import RULES

SHAPES = ((3, 5), (600,), ())


class Average(fs.NumPyOptimizer):
    """`fs.Momentum`, as a user would write it."""

    @staticmethod
    def update(param: Array, grad: Array, velocity: Array, *, step: int, lr: Any = 1e-3, beta: Any = 0.9) -> None:
        velocity[:] = beta * velocity + (1 - beta) * grad
        param -= lr * velocity


class Squares(fs.NumPyOptimizer):
    """`fs.RMSprop`: a state that is never negative."""

    kinds: ClassVar[dict[str, Literal["signed", "unsigned", "exact"]]] = {"square": "unsigned"}

    @staticmethod
    def update(
        param: Array, grad: Array, square: Array, *, step: int, lr: Any = 1e-2, alpha: Any = 0.99, eps: Any = 1e-8
    ) -> None:
        square[:] = alpha * square + (1 - alpha) * grad * grad
        param -= lr * grad / (np.sqrt(square) + eps)


class Failing(fs.NumPyOptimizer):
    """Fails where `fail` is above 0: by an error, or in another way."""

    calls = 0

    @staticmethod
    def update(param: Array, grad: Array, state: Array, *, step: int, lr: Any = 0.5, fail: Any = 0.0) -> Any:
        param -= lr * grad
        state += 1
        Failing.calls += 1
        if fail and Failing.calls % 2 == 0:
            if fail == 2:
                return param
            raise ZeroDivisionError("in the formula")
        return None


def parameters(dtype: Any) -> list[Array]:
    rng = np.random.default_rng(3)
    return [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES]


def gradients(seed: int, dtype: Any = FLOAT32) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipping": {"max_grad_norm": 0.7, "clip_value": 0.02},
    "ema": {"ema_decay": 0.9, "maximize": True},
    "schedule": {"lr": lambda t: 0.1 / (t + 1)},
    "bfloat16": {"state_format": "bfloat16", "min_quantized_size": 0},
    "8bit": {"state_format": "8bit", "min_quantized_size": 0},
    "stochastic": {"rounding": "stochastic", "seed": 5},
    "master": {"master": "float32"},
    "split": {"master": "split"},
    "zero": {"zero_grads": True, "skip_nonfinite": True},
    "cast": {"cast_grads": True},
    "accumulate": {"accumulate_steps": 2, "max_grad_norm": 1.0},
    "tree": {"lr": [0.1, 0.2, 0.3]},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=str)
def test_the_bytes_of_the_native_optimizer(dtype: Any, options: str) -> None:
    how = OPTIONS[options]
    if "master" in how and not (dtype == BFLOAT16 or (dtype == FLOAT16 and how["master"] == "float32")):
        pytest.skip("no master")
    own, native = Average(parameters(dtype), **how), fs.Momentum(parameters(dtype), **how)
    for seed in range(6):
        grads = gradients(seed, FLOAT64 if options == "cast" else FLOAT16 if seed % 2 else FLOAT32)
        if seed == 3:
            grads[seed % 2] = None
        twin = copy.deepcopy(grads)
        scale = 2.0 if seed == 2 else 1.0
        assert own.step(grads, grad_scale=scale) and native.step(twin, grad_scale=scale)
        assert_same(snapshot(own), snapshot(native))
        assert_same(grads, twin)
        assert own.grad_norm == native.grad_norm
        assert own.steps_taken == native.steps_taken and own.accumulated == native.accumulated
        assert list(own.metrics()) == [name for name in native.metrics() if name != "weight_decay"] or options == "tree"


@pytest.mark.parametrize("state_format", ["float32", "8bit"])
def test_a_state_that_is_never_negative(state_format: Any) -> None:
    how: dict[str, Any] = {"state_format": state_format, "min_quantized_size": 0}
    own, native = Squares(parameters(FLOAT32), **how), fs.RMSprop(parameters(FLOAT32), **how)
    for seed in range(4):
        own.step(gradients(seed))
        native.step(gradients(seed))
    for mine, theirs in zip(own._slots, native._slots, strict=True):
        np.testing.assert_allclose(mine.param, theirs.param, rtol=0, atol=1e-5)


def test_groups_bound_gradients_and_new_groups() -> None:
    def params() -> Any:
        return [{"params": parameters(FLOAT32), "lr": 0.1}, {"params": {"x": np.ones(3, np.float32)}, "beta": 0.5}]

    grads = [gradients(0), {"x": np.ones(3, np.float32)}]
    own, native = Average(params(), grads=grads), fs.Momentum(params(), grads=grads)
    for _ in range(2):
        assert own.step() and native.step()
    own, native = Average(params()), fs.Momentum(params())
    for optimizer in (own, native):
        optimizer.step(grads)
        optimizer.add_param_group({"params": np.ones(2, np.float32), "lr": 1.0})
        optimizer.lr = 0.5
        optimizer.step([*grads, np.ones(2, np.float32)])
    assert_same(snapshot(own), snapshot(native))
    assert own.state[0]["step"] == 2 and own.state[-1]["step"] == 1
    with pytest.raises(ValueError, match=r"^grads: got None, needs the gradients"):
        own.step()


@pytest.mark.parametrize(
    "how", [{}, {"state_format": "8bit", "min_quantized_size": 0}, {"rounding": "stochastic"}], ids=repr
)
def test_saving_and_copies(how: dict[str, Any]) -> None:
    opt = Average(parameters(BFLOAT16), **how)
    opt.step(gradients(0))
    saved = opt.state_dict()
    other = Average(parameters(BFLOAT16), **how)
    for slot, mine in zip(other._slots, opt._slots, strict=True):
        slot.param[...] = mine.param
    other.load_state_dict(saved)
    for each in (opt, other, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        if each is not opt:
            each.step(gradients(1))
            if opt.steps_taken == 1:
                opt.step(gradients(1))
            assert_same(snapshot(each), snapshot(opt))
        else:
            copies = copy.deepcopy(opt)
            copies.step(gradients(1))
            opt.step(gradients(1))
            assert_same(snapshot(copies), snapshot(opt))
            opt.load_state_dict(saved)
            for slot, mine in zip(opt._slots, other._slots, strict=True):
                slot.param[...] = mine.param
    with pytest.raises(ValueError, match=r"got one of .*Average, needs one of momentum"):
        fs.Momentum(parameters(BFLOAT16)).load_state_dict(saved)


def test_structures_and_averages() -> None:
    params = {"W": np.ones((2, 2), np.float32), "b": None}
    opt = Average(params, lr=1.0, ema_decay=0.5)
    assert opt.step({"W": np.ones((2, 2), np.float32), "b": None})
    assert opt.ema_params()["b"] is None and opt.memory()["velocity"] == 4.0
    assert "lr=1.0" in repr(opt)


# ---- errors: nothing has changed ----


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize(("fail", "error"), [(1.0, ZeroDivisionError), (2.0, TypeError)])
def test_a_formula_that_fails(fail: float, error: Any, dtype: Any) -> None:
    opt = Failing([np.ones(3, dtype), np.ones(4, dtype)], ema_decay=0.5, state_format="8bit", min_quantized_size=0)
    Failing.calls = 0
    grads = [np.ones(3, np.float16), np.ones(4, np.float16)]
    opt.step(grads)
    before = snapshot(opt)
    opt.fail = fail
    opt.zero_grads = True
    with pytest.raises(error):
        opt.step(grads)
    assert_same(snapshot(opt), before)
    assert opt.steps_taken == 1 and all(grad.all() for grad in grads)
    opt.fail = 0.0
    assert opt.step(grads) and not any(grad.any() for grad in grads)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("v = 0.9 * v + grad; param -= lr * v", "v"),
        ("v += grad; param = param - lr * v", "param"),
        ("v, x = v + grad, 1; param -= lr * v", "v"),
        ("lr = 2 * lr; grad = -grad; v = np.add(v, grad, out=v); param += lr * v", None),
    ],
)
def test_an_assignment_in_place_of_a_change_in_place(body: str, name: str | None) -> None:
    found: dict[str, Any] = {"np": np}
    exec(f"def update(param, grad, v, *, step, lr=0.1): {body}", found)
    rule = type("Assigning", (fs.NumPyOptimizer,), {"update": staticmethod(found["update"])})
    param, grad = np.ones(3, np.float32), np.ones(3, np.float32)
    opt = rule(param)
    assert opt.step(0 * grad)  # says nothing
    if name is None:
        assert opt.step(grad) and np.allclose(param, 0.8)
    else:
        with pytest.raises(TypeError, match=f"^update: got an assignment to '{name}' that leaves the array as it was"):
            opt.step(grad)
        assert opt.steps_taken == 1 and np.all(param == 1)


def test_no_mistake_is_seen_where_a_formula_is_right() -> None:
    """A function that passes its arguments on, and another name for a parameter that stands still at rate 0."""

    def flat(param: Any, grad: Any, *, step: Any, lr: float = 0.1) -> None:
        param = param.reshape(-1)
        param -= lr * grad.reshape(-1)

    @functools.wraps(flat)
    def passing(*arrays: Any, **options: Any) -> None:
        flat(*arrays, **options)

    for update in (flat, passing):
        param, grad = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
        opt = type("Right", (fs.NumPyOptimizer,), {"update": staticmethod(update)})(param, lr=0.0)
        assert opt.step(grad) and np.all(param == 1)
        opt.lr = 0.5
        assert opt.step(grad) and np.all(param == 0.5)


def test_bad_gradients_and_options() -> None:
    opt = Average({"W": np.ones(3, np.float32), "b": np.ones(2, np.float32)}, skip_nonfinite=True, zero_grads=True)
    before = snapshot(opt)
    good = np.ones(3, np.float32)
    fixed = np.ones(2, np.float32)
    fixed.flags.writeable = False
    for bad, text in (
        (np.ones(2), r'grads\["b"\]: got float64, needs'),
        (np.ones(3, np.float32), r'grads\["b"\]: got shape \(3,\), needs \(2,\)'),
        (3.0, r'grads\["b"\]: got float'),
        (fixed, r'grads\["b"\]: got a read-only array'),
        (opt._slots[1].param, r'(grads\["b"\]|params\["b"\]): got memory that overlaps'),
        (fs.SparseRows(np.array([0]), np.ones(1, np.float32)), r'grads\["b"\]: got SparseRows'),
    ):
        with pytest.raises((TypeError, ValueError), match="^" + text):
            opt.step({"W": good, "b": bad})
    opt.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["lr"\]: got -1'):
        opt.step({"W": good, "b": np.ones(2, np.float32)})
    opt.lr = 0.1
    assert not opt.step({"W": good, "b": np.full(2, np.nan, np.float32)}) and opt.skipped_steps == 1
    for scale in (0.0, 1e-300):
        with pytest.raises(ValueError, match="grad_scale"):
            opt.step({"W": good, "b": np.ones(2, np.float32)}, grad_scale=scale)
    assert_same([snapshot(opt), good], [before, np.ones(3, np.float32)])
    assert opt.step({"W": good, "b": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="overlap"):
        Average([good, good])
    for name, value in (("lr", -1), ("beta", 1.0), ("lr", "x")):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: got"):
            Average(good, **{name: value})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'bete', did you mean beta\?"):
        Average(good, bete=1.0)
    assert Failing(good, fail=-3.0).fail == -3.0
    for value in (np.inf, "x", True):
        with pytest.raises((TypeError, ValueError), match=r"^fail: got"):
            Failing(good, fail=value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["param", "velocity", "ema"])
def test_arrays_that_are_changed_in_place(name: str) -> None:
    opt = Average([np.ones(8, np.float32), np.ones(8, np.float32)], ema_decay=0.5)
    opt.step([np.ones(8, np.float32)] * 2)
    slot = opt._slots[1]
    array = {"param": slot.param, **dict(slot.items())}[name]
    before = snapshot(opt)
    array.flags.writeable = False
    with pytest.raises(ValueError, match=r"^params\[1\].*: got a read-only array"):
        opt.step([np.ones(8, np.float32)] * 2)
    array.flags.writeable = True
    assert_same(snapshot(opt), before)
    if name == "param":
        array.resize(4, refcheck=False)
        with pytest.raises(ValueError, match=r"^params\[1\] velocity: got shape"):
            opt.step([np.ones(8, np.float32), np.ones(4, np.float32)])
    assert opt.steps_taken == 1


def test_beyond_float16() -> None:
    param = np.full(5, 60000, np.float16)
    opt = Average(param, lr=1.0, beta=0.0)
    before = snapshot(opt)
    with pytest.raises(OverflowError, match="65504"):
        opt.step(np.full(5, -20000, np.float32))
    assert_same(snapshot(opt), before)


def test_eight_bit_states_that_are_not_finite() -> None:
    opt = Average(np.ones(512, np.float32), state_format="8bit", min_quantized_size=0)
    grad = np.ones(512, np.float32)
    grad[3] = np.nan
    with pytest.warns(RuntimeWarning, match=r"^1 block\(s\) of 256"):
        opt.step(grad)
    assert opt.nonfinite_blocks == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fs.Momentum(np.ones(3, np.float32)).step(np.ones(3, np.float32))


def test_a_formula_that_steps() -> None:
    opt: Any = None

    class Nested(fs.NumPyOptimizer):
        @staticmethod
        def update(param: Array, grad: Array, *, step: int, lr: Any = 1.0) -> None:
            opt.step(np.ones(3))

    opt = Nested(np.ones(3))
    with pytest.raises(RuntimeError, match="called during a step"):
        opt.step(np.ones(3))
    assert opt.steps_taken == 0


class Hooked(fs.NumPyOptimizer):
    """Calls what a test asks for in the middle of a step."""

    hook: ClassVar[Any] = None

    @staticmethod
    def update(param: Array, grad: Array, velocity: Array, *, step: int, lr: Any = 0.5) -> None:
        velocity += grad
        param -= lr * velocity
        Hooked.hook(param, velocity)


def hooked(hook: Any, **options: Any) -> tuple[Any, Any, BaseException]:
    """The error of a step whose formula calls this with the optimizer's arrays, and what was before."""
    Hooked.hook = staticmethod(lambda param, velocity: None)
    opt = Hooked([np.ones(4, np.float32), np.ones(4, np.float32)], **options)
    grads = [np.ones(4, np.float32), np.ones(4, np.float32)]
    opt.step(grads)
    before, params = snapshot(opt), [slot.param for slot in opt._slots]
    Hooked.hook = staticmethod(lambda param, velocity: hook(opt, params))
    with pytest.raises((ValueError, RuntimeError, ZeroDivisionError)) as caught:
        opt.step(grads)
    assert opt.steps_taken == 1
    return opt, before, caught.value


@pytest.mark.parametrize(
    "use",
    [
        lambda opt: opt.load_state_dict(opt.state_dict()),
        lambda opt: opt.state_dict(),
        lambda opt: opt.add_param_group({"params": np.ones(3, np.float32)}),
        lambda opt: copy.deepcopy(opt),
        lambda opt: pickle.dumps(opt),
    ],
)
def test_a_formula_that_uses_its_optimizer(use: Any) -> None:
    opt, before, error = hooked(lambda opt, params: use(opt))
    assert "called during a step of this optimizer" in str(error)
    assert_same(snapshot(opt), before)


FORMATS: list[dict[str, Any]] = [{}, {"state_format": "8bit", "min_quantized_size": 0}, {"ema_decay": 0.5}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("options", FORMATS, ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.resize(1, refcheck=False),
        lambda array: setattr(array, "dtype", np.int16),
        lambda array: setattr(array.flags, "writeable", False),
    ],
    ids=["resized", "retyped", "read-only"],
)
@pytest.mark.parametrize("which", [0, 1], ids=["the first", "the second"])
def test_a_formula_that_changes_arrays_in_place(which: int, change: Any, options: dict[str, Any]) -> None:
    """Its memory may be gone: nothing reads it any more, and all else is as it was."""
    opt, before, error = hooked(lambda opt, params: change(params[which]), **options)
    assert str(error).startswith(f"update: got params[{which}], a state or the gradient resized")
    for i, (left, was) in enumerate(zip(snapshot(opt), before, strict=True)):
        assert_same(left[1:], was[1:])
        if i != which:
            assert_same(left[0], was[0])


def test_a_formula_that_fails_after_it_wrote_elsewhere() -> None:
    def fail(opt: Any, params: Any) -> None:
        params[1][:] = 77
        params[0].flags.writeable = False
        raise ZeroDivisionError

    opt, before, _ = hooked(fail)
    assert_same(snapshot(opt), before)


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_a_formula_that_reshapes_its_arguments(options: dict[str, Any]) -> None:
    """They are its own."""
    left = []
    for hook in (lambda param, velocity: None, lambda param, velocity: reshape(velocity, (2, 2))):
        Hooked.hook = staticmethod(hook)
        opt = Hooked(np.ones(4, np.float32), **options)
        for _ in range(2):
            opt.step(np.ones(4, np.float32))
        left.append(snapshot(opt))
    assert_same(left[1], left[0])


CELL = """
class Notebook(fs.NumPyOptimizer):
    kinds = {{"m": "{kind}"}}
    @staticmethod
    def update(param, grad, {states}, *, step, lr={lr}):
        m += grad
        param -= lr * m
"""
FIRST = {"states": "m", "lr": 0.5, "kind": "signed"}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"kind": "unsigned"},
        {"kind": "exact"},
        {"states": "m, v"},
        {"states": "v, m"},
        {"lr": 2.0, "states": "m, v"},
    ],
    ids=str,
)
def test_a_class_that_is_defined_again_in_mid_training(changed: dict[str, Any]) -> None:
    """As by a notebook's cell: optimizers of the class before go on with its rule, copies of them too."""
    cell: dict[str, Any] = {"fs": fs, "__name__": "notebook"}
    state_format = "float32" if changed.get("kind") == "exact" else "8bit"

    def made(**others: Any) -> Any:
        exec(CELL.format(**FIRST | others), cell)
        return cell["Notebook"](np.ones(600, np.float32), state_format=state_format, min_quantized_size=1)

    def finish(opt: Any) -> list[Any]:
        opt.load_state_dict(opt.state_dict(state_format="float32"))
        opt = copy.deepcopy(opt)
        opt.add_param_group({"params": np.ones(4, np.float32)})
        opt.step([np.full(600, -2, np.float32), np.ones(4, np.float32)])
        return snapshot(opt)

    whole = made()
    whole.step(np.ones(600, np.float32))
    right = finish(whole)
    old = made()
    old.step(np.ones(600, np.float32))
    new = made(**changed)
    assert_same(finish(old), right)
    assert new.step(np.ones(600, np.float32))
    saved = new.state_dict()
    assert saved["fusedstep"]["rule"] == "notebook.Notebook"
    again = made(**changed)
    assert again.rule == new.rule
    again.load_state_dict(saved)
    for name, value in again.state[0].items():
        np.testing.assert_array_equal(value, new.state[0][name])


def test_betas_are_as_many_as_the_formula_has() -> None:
    class Three(fs.NumPyOptimizer):
        @staticmethod
        def update(param: Array, grad: Array, *, step: int, betas: Any = (0.9, 0.99, 0.999)) -> None:
            param -= betas[2] * grad

    assert Three(np.ones(3)).step(np.ones(3))
    with pytest.raises(ValueError, match="betas: got 2 numbers, needs 3 real numbers"):
        Three(np.ones(3), betas=(0.9, 0.99))


def test_optimizers_are_collected() -> None:
    opt = Average(np.ones(3))
    opt.step(np.ones(3))
    watched = weakref.ref(opt)
    del opt
    gc.collect()
    assert watched() is None


# ---- definitions ----


def test_own_rules_are_not_among_the_packages() -> None:
    assert Average.rule not in list(RULES) and RULES[Average.rule].states[0].name == "velocity"
    with pytest.raises(KeyError):
        RULES["nothing"]
    with pytest.raises(TypeError, match=r"^NumPyOptimizer: has no update"):
        fs.NumPyOptimizer(np.ones(3))


def test_a_subclass_of_a_rule_keeps_it() -> None:
    class Faster(Average):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, lr=1.0, **options)

    assert Faster.rule == Average.rule and Faster(np.ones(3)).lr == 1.0


WRONG: list[tuple[str, str, str]] = [
    ("def update(self, param, grad, *, step): ...", "", "needs a @staticmethod"),
    ("@staticmethod\ndef update(grad, param, *, step): ...", "", r"needs \(param, grad, \*states, \*, step, \.\.\.\)"),
    ("@staticmethod\ndef update(param, grad): ...", "", r"needs \(param, grad, \*states, \*, step"),
    ("@staticmethod\ndef update(param, grad, *a, step): ...", "", r"got \*args or \*\*kwargs"),
    ("@staticmethod\ndef update(param, grad, *, step, **a): ...", "", r"got \*args or \*\*kwargs"),
    ("@staticmethod\ndef update(param, grad, *, step, lr): ...", "", "got 'lr' without a default"),
    ("@staticmethod\ndef update(param, grad, ema, *, step): ...", "", "got an argument 'ema'"),
    ("@staticmethod\ndef update(param, grad, *, step, state=1): ...", "", "got an argument 'state'"),
    ("@staticmethod\ndef update(param, grad, *, step, _a=1): ...", "", "got an argument '_a'"),
    ("@staticmethod\ndef update(param, grad, *, step, lr=-1): ...", "", "lr: got -1, needs"),
    ("@staticmethod\ndef update(param, grad, *, step, mine='x'): ...", "", "mine: got 'x'"),
    (
        "@staticmethod\ndef update(param, grad, v, *, step): ...",
        "kinds = {'w': 'signed'}",
        "got 'w', needs names of the states",
    ),
    ("@staticmethod\ndef update(param, grad, v, *, step): ...", "kinds = {'v': 'half'}", "got 'half', needs"),
    ("@staticmethod\ndef update(param, grad, v, *, step): ...", "kinds = None", "kinds: got NoneType, needs a dict"),
    ("@staticmethod\ndef update(param, grad, v, v_scales, *, step): ...", "", "got an argument 'v_scales'"),
    ("@staticmethod\ndef update(param, grad, v=3, *, step): ...", "", "got 'v' with a default, needs none"),
    ("@staticmethod\ndef update(param, grad, *, step, lr=np.ones(2)): ...", "", "lr: got .*, needs a real number"),
]


@pytest.mark.parametrize(("body", "kinds", "text"), WRONG, ids=[text for _, _, text in WRONG])
def test_wrong_definitions(body: str, kinds: str, text: str) -> None:
    lines = "\n    ".join(["class Wrong(fs.NumPyOptimizer):", kinds or "pass", *body.split("\n")])
    with pytest.raises((TypeError, ValueError), match=r"^Wrong\..*" + text):
        exec(lines, {"fs": fs, "np": np, "__name__": "tests"})
