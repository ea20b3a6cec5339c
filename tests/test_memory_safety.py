"""Plain Python code that once read or wrote memory that is not, or is no longer, an array's."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import reshape

import fusedstep as fs
from fusedstep import _core
from fusedstep._step_options import GROUP_VALUES
from fusedstep.reference._rule import FUNCTION_OPTIONS


def ones(n: int = 64, dtype: Any = np.float32) -> Any:
    return np.ones(n, dtype)


# ---- numbers in an array's place ----

NO_ARRAYS = [(8, 3, "float32"), (8, 3, "uint8"), [8, 3, "float32"], 8, "float32", b"\0" * 12, (ones(3),), (1, 2)]


@pytest.mark.parametrize("value", NO_ARRAYS, ids=repr)
def test_only_an_array_is_taken_for_memory(value: Any) -> None:
    param = ones(3)
    optimizer = fs.SGD([param])
    with pytest.raises((TypeError, ValueError)):
        optimizer.step([value])
    with pytest.raises((TypeError, ValueError)):
        fs.SGD([param], grads=[value])
    for arguments in ([value, ones(3), ones(3), ones(3)], [ones(3), value, ones(3), ones(3)]):
        with pytest.raises((TypeError, ValueError)):
            fs.functional.adam(*arguments, step=1)
    for state in ([ones(3), value], [value, ones(3)], [value, value]):
        with pytest.raises((TypeError, ValueError)):
            fs.functional.adam(param, ones(3), *state, step=1)
    with pytest.raises((TypeError, ValueError)):
        fs.functional.adam(param, ones(3), ones(3), ones(3), step=1, ema=value, ema_decay=0.5)
    assert (param == 1).all()


def test_memory_cannot_be_made_of_numbers() -> None:
    with pytest.raises(TypeError):
        _core.Memory()
    with pytest.raises(TypeError):
        _core.Memory(8, 3, "float32")  # type: ignore[call-arg]


def test_the_native_model_checks_its_arguments() -> None:
    model = _core.Model("sgd", None, None)
    for group in (-1, 0, 7):
        with pytest.raises(IndexError):
            model.add(group, ones(), [None])
    options = {**fs.reference.RULES["sgd"].hypers, **{name: FUNCTION_OPTIONS[name] for name in GROUP_VALUES}}
    model.add_group(options)
    for states in ([], [None, None]):
        with pytest.raises(ValueError, match="states"):
            model.add(0, ones(), states)
    model.add(0, ones(), [None])
    with pytest.raises(RuntimeError, match="not finished"):
        model.step_list([ones()], 1.0)
    model.finish()
    for grads in ([], [ones(), ones()]):
        with pytest.raises(ValueError, match="needs 1"):
            model.step_list(grads, 1.0)
    other = _core.Tree([ones(), ones()], "params")
    with pytest.raises(ValueError, match="needs 1"):
        model.step_tree(other, [ones(), ones()], 1.0)
    with pytest.raises(ValueError, match="needs 1"):
        model.bind(other, [ones(), ones()])
    for call in (lambda: model.get_step(1), lambda: model.set_step(1, 0), lambda: model.set_scalars(1, [])):
        with pytest.raises(IndexError):
            call()
    assert model.step_list([ones()], 1.0)


# ---- arrays that are changed in place ----


def shorten(array: Any) -> None:
    array.resize(array.size // 2, refcheck=False)


def lengthen(array: Any) -> None:
    array.resize(array.size * 4096, refcheck=False)


def widen(array: Any) -> None:
    array.dtype = np.dtype(f"V{2 * array.itemsize}")


def swap_bytes(array: Any) -> None:
    array.dtype = array.dtype.newbyteorder()


def protect(array: Any) -> None:
    array.setflags(write=False)


CHANGES = [shorten, lengthen, widen, swap_bytes, protect]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("bound", [False, True], ids=["given", "bound"])
def test_parameter_changed_in_place(change: Callable[[Any], None], bound: bool) -> None:
    param, grad = ones(), ones()
    optimizer = fs.Adam([param], grads=[grad] if bound else None)
    optimizer.step(None if bound else [grad])
    change(param)
    before = param.tobytes()
    for given in [None] if bound else [[grad], [np.ones(param.shape, np.float32)]]:
        with pytest.raises((ValueError, TypeError)):
            optimizer.step(given)
    assert param.tobytes() == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", [shorten, lengthen, widen, swap_bytes], ids=lambda f: f.__name__)
def test_bound_gradient_changed_in_place(change: Callable[[Any], None]) -> None:
    param, grad = ones(), ones()
    optimizer = fs.Adam([param], grads=[grad])
    optimizer.step()
    change(grad)
    before = param.copy()
    with pytest.raises(ValueError, match="since it was bound"):
        optimizer.step()
    assert (param == before).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", [widen, swap_bytes, protect], ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", [{}, {"master": "float32"}, {"ema_decay": 0.5}], ids=repr)
def test_state_changed_in_place(change: Callable[[Any], None], options: dict[str, Any]) -> None:
    dtype = np.float16 if "master" in options else np.float32
    param = ones(64, dtype)
    optimizer = fs.Adam([param], **options)
    optimizer.step([ones(64, dtype)])
    slot = optimizer._slots[0]
    for array in [part for _, part in slot.items()]:
        dtype_before, copy = array.dtype, array.copy()
        change(array)
        before = param.tobytes()
        with pytest.raises((ValueError, TypeError)):
            optimizer.step([ones(64, dtype)])
        assert param.tobytes() == before
        array.setflags(write=True)
        array.dtype = dtype_before  # type: ignore[misc]
        assert (array == copy).all()
    assert optimizer.step([ones(64, dtype)])


def test_reshaping_in_place_is_no_harm() -> None:
    param = ones(64)
    optimizer = fs.SGD([param], lr=1.0)
    reshape(param, (8, 8))
    assert optimizer.step([np.ones((8, 8), np.float32)])
    assert (param == 0).all()


def test_longer_dtype_at_an_address_seen_before() -> None:
    """Two gradients that overlap only by the second one's longer dtype."""
    n = 64
    raw = np.zeros(4 * n, np.uint8)
    first, second, long = raw[: 2 * n].view(np.float16), raw[2 * n :].view(np.float16), raw.view(np.float32)[:n]
    params = [np.zeros(n, np.float32), np.zeros(n, np.float32)]
    optimizer = fs.SGD(params, lr=1.0, zero_grads=True)
    first[:] = second[:] = 1
    assert optimizer.step([first, second])
    long[:] = 1
    with pytest.raises(ValueError, match="overlap"):
        optimizer.step([long, second])
    assert (long == 1).all() and all((p == -1).all() for p in params)


def test_gradient_beside_a_parameter_in_a_longer_dtype() -> None:
    raw = np.zeros(96, np.float32)
    param, brief, long = raw[32:64], raw[:32].view(np.float16)[32:], raw[16:48]
    optimizer = fs.SGD([param], lr=1.0)
    assert optimizer.step([brief])
    with pytest.raises(ValueError, match="overlap"):
        optimizer.step([long])


# ---- containers ----


class Meddling(str):
    """A key that runs code of its own when it is compared."""

    __slots__ = ()
    meddle: Callable[[], None] = staticmethod(lambda: None)

    def __hash__(self) -> int:
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        Meddling.meddle()
        return str.__eq__(self, str(other))


def test_list_that_a_key_shortens_while_it_is_checked() -> None:
    params: Any = [{"a": ones()}, ones(), ones()]
    optimizer = fs.SGD(params, lr=1.0)
    grads: Any = [{Meddling("a"): ones()}, ones(), ones()]
    Meddling.meddle = grads.clear
    try:
        with pytest.raises(ValueError, match="grads: got a sequence that was changed in place"):
            optimizer.step(grads)
    finally:
        Meddling.meddle = staticmethod(lambda: None)
    assert all((p == 1).all() for p in (params[0]["a"], params[1], params[2]))


def test_key_without_utf8() -> None:
    """As names of files have that were not UTF-8."""
    params = {"caf\udce9": ones()}
    optimizer = fs.SGD(params, lr=1.0)
    assert optimizer.step({"caf\udce9": ones()})
    with pytest.raises(ValueError, match=r"caf.*udce9"):
        optimizer.step({"caf\udce9": ones(3)})
    with pytest.raises(ValueError, match=r"caf.*udce9"):
        optimizer.step({"cafe": ones()})


# ---- threads ----


@pytest.mark.parametrize("kind", ["dict", "list", "nested"])
def test_gradients_that_another_thread_replaces(kind: str) -> None:
    n = 200_000
    param = np.zeros(n, np.float32)
    wraps: dict[str, Callable[[Any], Any]] = {
        "dict": lambda a: {"w": a},
        "list": lambda a: [a],
        "nested": lambda a: {"w": [{"x": a}]},
    }
    wrap = wraps[kind]
    grads = wrap(np.ones(n, np.float32))
    optimizer = fs.SGD(wrap(param), lr=1.0)
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            fresh = np.ones(n, np.float32)
            if kind == "list":
                grads[0] = fresh
            elif kind == "dict":
                grads["w"] = fresh
            else:
                grads["w"][0]["x"] = fresh
            fresh = np.full(n, 7, np.float32)  # takes the memory that was let go
            del fresh

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for k in range(1, 301):
            optimizer.step(grads)
            assert (param == -k).all()
    finally:
        stop.set()
        thread.join()


def test_options_of_a_step_are_those_at_its_start() -> None:
    n = 4_000_000
    param, grad = np.zeros(n, np.float32), np.ones(n, np.float32)
    grad.flags.writeable = False
    optimizer = fs.SGD(param, lr=1.0)
    for i in range(20):
        optimizer.zero_grads = False
        timer = threading.Timer(0.0002 * (i % 10), lambda: setattr(optimizer, "zero_grads", True))
        timer.start()
        try:
            optimizer.step(grad)
        except ValueError as error:  # set before the step began
            assert "read-only" in str(error)
        timer.join()
    assert (grad == 1).all()


@pytest.mark.parametrize("options", [{"max_grad_norm": 1.0}, {"clip_value": 1.0}, {"ema_decay": 0.5}], ids=repr)
@pytest.mark.parametrize("rule", [fs.Adam, fs.LAMB, fs.Adadelta])
def test_thread_with_a_small_stack(rule: Any, options: dict[str, Any]) -> None:
    """Python lets a thread have as little as 32 KiB; one that is too deep ends the process."""
    code = f"""
import threading
import numpy as np, fusedstep as fs
threading.stack_size(64 * 1024)
param, grad = np.ones(10000, np.float32), np.ones(10000, np.float32)
optimizer = fs.{rule.__name__}(param, state_format="8bit", min_quantized_size=0, **{options})
thread = threading.Thread(target=lambda: print(optimizer.step(grad)))
thread.start(); thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the exit status of an abort is POSIX's")
def test_exit_while_daemon_threads_step() -> None:
    code = """
import threading, time
import numpy as np, fusedstep as fs
def loop():
    param, grad = np.ones(100_000, np.float32), np.ones(100_000, np.float32)
    optimizer = fs.Adam(param)
    while True:
        optimizer.step(grad)
for _ in range(3):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.3)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


# ---- warnings that are errors ----


def test_a_warning_that_is_an_error_leaves_a_counted_step() -> None:
    param, grad = ones(4096), ones(4096)
    grad[5] = np.nan
    optimizer = fs.Adam(param, state_format="8bit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="8-bit"):
            optimizer.step(grad)
    assert optimizer.steps_taken == 1 and optimizer.state[0]["step"] == 1
    assert (param[256:] != 1).all()


# ---- garbage collection ----


class Trainer:
    """Owns an optimizer whose schedule belongs to it."""

    def __init__(self, how: str) -> None:
        self.params = {"w": ones()}
        if how == "method":
            self.optimizer = fs.SGD(self.params, lr=self.rate)
        elif how == "closure":
            self.optimizer = fs.SGD(self.params, lr=lambda t: 0.1 if self else 0.2)
        elif how == "group entry":
            self.optimizer = fs.SGD(self.params, lr=0.1)
            self.optimizer.param_groups[0]["lr"] = self.rate
        else:
            self.optimizer = fs.SGD([{"params": self.params}, {"params": ones(), "lr": self.rate}])
        self.optimizer.step([{"w": ones()}, ones()] if how == "groups" else {"w": ones()})

    def rate(self, t: int) -> float:
        return 0.1


@pytest.mark.parametrize("how", ["method", "closure", "group entry", "groups"])
def test_a_schedule_that_refers_to_its_owner_is_collected(how: str) -> None:
    trainer = Trainer(how)
    watched = weakref.ref(trainer), weakref.ref(trainer.params["w"])
    del trainer
    gc.collect()
    assert watched[0]() is None and watched[1]() is None


def test_collection_spares_what_is_used() -> None:
    optimizer = fs.Adam({"w": ones()}, lr=lambda t: 0.1)
    gc.collect()
    assert optimizer.step({"w": ones()})


# ---- arrays of other classes and shapes, in functions and their definition alike ----


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=["functional", "reference"])
def test_a_subclass_is_stepped_as_the_memory_that_it_is(where: Any) -> None:
    """`numpy.matrix` multiplies as matrices do; a step knows elements alone."""
    plain = [np.linspace(0.5, 2, 16, dtype=np.float32).reshape(4, 4) + i for i in range(4)]
    other = [array.copy().view(np.matrix) for array in plain]
    for arrays in (plain, other):
        assert where.adam(*arrays, step=1, eps_root=1e-3, weight_decay=0.1)
    for one, two in zip(plain, other, strict=True):
        assert np.asarray(two).tobytes() == one.tobytes()


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=["functional", "reference"])
def test_codes_and_scales_are_a_tuple_or_a_list(where: Any) -> None:
    found = []
    for pair in (tuple, list):
        param, states = ones(300), [pair((np.zeros(300, np.uint8), np.zeros(2, np.float32))) for _ in range(2)]
        assert where.adam(param, ones(300), *states, step=1)
        assert where.adam([param], [ones(300)], *([state] for state in states), step=2)
        found.append([a.tobytes() for a in (param, *states[0], *states[1])])
    assert found[0] == found[1]


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=["functional", "reference"])
@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_scales_have_one_dimension(where: Any, shape: tuple[int, ...]) -> None:
    codes, scales = np.zeros(3, np.uint8), np.zeros(shape, np.float32)
    param = ones(3)
    with pytest.raises(ValueError, match=r"exp_avg scales.*\(1,\)"):
        where.adam(param, ones(3), (codes, scales), ones(3), step=1)
    assert (param == 1).all()


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=["functional", "reference"])
@pytest.mark.parametrize("name", ["grad", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("size", [0, 3])
def test_none_in_a_list_of_arrays(where: Any, name: str, size: int) -> None:
    given: dict[str, Any] = {n: [ones(3), ones(size)] for n in ("param", "grad", "exp_avg", "exp_avg_sq")}
    given[name][1] = None
    with pytest.raises(TypeError, match=rf"{name}\[1\]: got NoneType, needs a NumPy array"):
        where.adam(**given, step=1)
    assert (given["param"][0] == 1).all()
