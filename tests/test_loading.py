"""Loading: any container's arrays, exact numbers, nothing changed by a failure; and other threads kept out."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CLASSES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Array,
    Options,
    assert_same,
    copied,
    numbers,
    reshape,
    snapshot,
)

import fusedstep
from fusedstep import formats
from fusedstep.reference import RULES

fs: Any = fusedstep  # what is wrong on purpose must pass the type checker
SHAPES: list[Any] = [(), (5,), (3, 700), (70, 60)]
FORMATS: list[tuple[Any, Options]] = [
    (FLOAT64, {"ema_decay": 0.5}),
    (FLOAT32, {}),
    (FLOAT32, {"state_format": "bfloat16", "min_quantized_size": 0}),
    (FLOAT32, {"state_format": "8bit", "min_quantized_size": 0, "ema_decay": 0.5}),
    (BFLOAT16, {"master": "split"}),
    (BFLOAT16, {"master": "float32", "state_format": "8bit"}),
    (FLOAT16, {"master": "float32", "state_format": "bfloat16"}),
]
every_format = pytest.mark.parametrize(("dtype", "options"), FORMATS, ids=str)


def made(dtype: Any, *, steps: int = 2, cls: Any = None, **options: Any) -> Any:
    params = [numbers(shape, dtype, i) for i, shape in enumerate(SHAPES)]
    optimizer = (cls or fs.Adam)(params, **options)
    for t in range(steps):
        optimizer.step([numbers(shape, dtype, 10 * t + i) for i, shape in enumerate(SHAPES)])
    return optimizer


def fresh(one: Any, **options: Any) -> Any:
    """Another optimizer of copies of its parameters, with no step taken."""
    return type(one)([slot.param.copy() for slot in one._slots], **options)


def with_arrays(saved: Any, change: Callable[[str, Array], Any]) -> Any:
    """The state dict with every array replaced."""
    saved["state"] = {
        i: {k: change(k, v) if isinstance(v, np.ndarray) else v for k, v in entries.items()}
        for i, entries in saved["state"].items()
    }
    return saved


# ------------------------------------------------------------------------------------------------------- containers


@every_format
def test_through_an_npz_file(dtype: Any, options: Options) -> None:
    """NumPy saves bfloat16 numbers as voids of two bytes."""
    one = made(dtype, **options)
    saved = one.state_dict()
    file = io.BytesIO()
    np.savez(file, **{f"{i}.{k}": v for i, entries in saved["state"].items() for k, v in entries.items()})
    file.seek(0)
    loaded = np.load(file)
    saved["state"] = {}
    for key in loaded.files:
        number, _, name = key.partition(".")
        saved["state"].setdefault(int(number), {})[name] = loaded[key]
    two = fresh(one, **options)
    two.load_state_dict(saved)
    assert_same(snapshot(two), snapshot(one))
    if options.get("state_format") != "8bit":
        wide = fresh(one, **(options | {"state_format": "float32"}))
        wide.load_state_dict(saved)
        for view, other in zip(wide.state, one.state_dict(state_format="float32")["state"].values(), strict=True):
            assert_same(dict(view), other)


def swapped(name: str, array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder()) if array.dtype.kind in "fi" else array


def transposed(name: str, array: Array) -> Array:
    return np.asfortranarray(array) if array.ndim > 1 else array


def strided(name: str, array: Array) -> Array:
    wide = np.zeros((*array.shape, 3), array.dtype)
    wide[..., 1] = array
    return wide[..., 1]


def read_only(name: str, array: Array) -> Array:
    array.flags.writeable = False
    return array


def reversed_twice(name: str, array: Array) -> Array:
    return array[::-1].copy()[::-1] if array.ndim else array


def recarray(name: str, array: Array) -> Any:
    return array.view(np.recarray)


@every_format
@pytest.mark.parametrize("how", [swapped, transposed, strided, read_only, reversed_twice, recarray])
def test_arrays_in_any_layout_and_byte_order(how: Any, dtype: Any, options: Options) -> None:
    one = made(dtype, **options)
    two = fresh(one, **options)
    two.load_state_dict(with_arrays(one.state_dict(), how))
    assert_same(snapshot(two), snapshot(one))
    for state_format in ("float32", "bfloat16", "8bit"):
        others = [fresh(one, **(options | {"state_format": state_format, "min_quantized_size": 0})) for _ in range(2)]
        others[0].load_state_dict(with_arrays(one.state_dict(), how))
        others[1].load_state_dict(one.state_dict())
        assert_same(snapshot(others[0]), snapshot(others[1]))


def test_masters_of_the_other_kind_in_any_layout() -> None:
    for kinds in (("float32", "split"), ("split", "float32")):
        one = made(BFLOAT16, master=kinds[0])
        expected = fresh(one, master=kinds[1])
        expected.load_state_dict(one.state_dict())
        for how in (swapped, transposed, strided, read_only):
            two = fresh(one, master=kinds[1])
            two.load_state_dict(with_arrays(one.state_dict(), how))
            assert_same(snapshot(two), snapshot(expected))
            assert_same([slot.values() for slot in two._slots], [slot.values() for slot in one._slots])


def test_tensors_of_torch() -> None:
    torch: Any = pytest.importorskip("torch")
    one = made(FLOAT32, state_format="bfloat16", min_quantized_size=0)

    def tensor(name: str, array: Array) -> Any:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16).requires_grad_()

    two = fresh(one, state_format="bfloat16", min_quantized_size=0)
    two.load_state_dict(with_arrays(one.state_dict(), tensor))
    assert_same(snapshot(two), snapshot(one))


def test_memory_mapped_states(tmp_path: Any) -> None:
    one = made(FLOAT32)
    saved = one.state_dict()

    def mapped(name: str, array: Array) -> Any:
        path = tmp_path / f"{name}{array.size}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    two = fresh(one)
    two.load_state_dict(with_arrays(saved, mapped))
    assert_same(snapshot(two), snapshot(one))


def test_states_with_a_mask_are_refused() -> None:
    one = made(FLOAT32, ema_decay=0.5)
    before = snapshot(one)
    for name in ("exp_avg", "ema"):
        saved = one.state_dict()
        saved["state"][2][name] = np.ma.masked_array(saved["state"][2][name])
        with pytest.raises(
            TypeError, match=rf'^state_dict\["state"\]\[2\]\["{name}"\]: got MaskedArray, needs an array'
        ):
            one.load_state_dict(saved)
    assert_same(snapshot(one), before)


@pytest.mark.parametrize("options", [o for _, o in FORMATS], ids=str)
@pytest.mark.parametrize("kind", ["matrix", "memmap", "recarray", "subclass"])
def test_parameters_of_subclasses(kind: str, options: Options, tmp_path: Any) -> None:
    """They change what methods and indices do; a step, saving and loading see the memory."""

    class Odd(np.ndarray[Any, Any]):
        def __getitem__(self, index: Any) -> Any:
            raise AssertionError("not to be indexed")

        def reshape(self, *shape: Any, **how: Any) -> Any:
            raise AssertionError("not to be reshaped")

    def of_kind(array: Array) -> Any:
        if kind == "memmap":
            mapped = np.memmap(
                tmp_path / f"{np.random.default_rng().integers(2**60)}", array.dtype, "w+", 0, array.shape
            )
            np.asarray(mapped)[...] = array
            return mapped
        return array.view({"matrix": np.matrix, "recarray": np.recarray, "subclass": Odd}[kind])

    for dtype in (FLOAT32, BFLOAT16, FLOAT16):
        if (dtype == FLOAT32 and "master" in options) or (dtype == FLOAT16 and options.get("master") == "split"):
            continue
        for cls in (fs.Adam, fs.Adagrad, fs.Rprop, fs.ScheduleFreeSGD):
            given = {k: v for k, v in options.items() if k != "state_format" or cls is fs.Adam}
            start, grads = numbers((70, 60), dtype), [numbers((70, 60), dtype, t) for t in range(3)]
            plain, odd = cls(start.copy(), **given), cls(of_kind(start.copy()), **given)
            for grad in grads[:2]:
                plain.step(grad)
                odd.step(of_kind(grad.copy()))
            odd.load_state_dict(plain.state_dict())
            plain.load_state_dict(odd.state_dict())
            plain.step(grads[2])
            odd.step(of_kind(grads[2].copy()))
            assert_same(np.asarray(odd._slots[0].param), plain._slots[0].param)
            assert_same([a for _, a in odd._slots[0].items()], [a for _, a in plain._slots[0].items()])


def test_parameters_with_a_mask_are_refused() -> None:
    for options in ({}, {"ema_decay": 0.5}, {"state_format": "8bit"}):
        with pytest.raises(TypeError, match=r'^params\["w"\]: got MaskedArray, needs a NumPy array'):
            fs.Adam({"w": np.ma.masked_array(np.ones(3), [True, False, False])}, **options)
    opt = fs.Adam(np.ones(3))
    with pytest.raises(TypeError, match=r"^params\[1\].*: got MaskedArray"):
        opt.add_param_group({"params": np.ma.masked_array(np.ones(3))})
    with pytest.raises(TypeError, match=r"^grads: got MaskedArray"):
        opt.step(np.ma.masked_array(np.ones(3)))


# ----------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("step", [0, 1, 2**53 - 1, 2**53 + 1, 2**62 + 3, 2**63 - 1])
def test_step_counts_are_exact(step: int) -> None:
    one = fs.Adam(np.ones(2))
    kinds: list[Any] = [int, np.int64, np.uint64, np.array, lambda s: np.array([s])]
    if step < 2**53:
        kinds += [float, np.float64, lambda s: np.array(float(s))]
    for kind in kinds:
        saved = one.state_dict()
        saved["state"][0]["step"] = saved["fusedstep"]["steps_taken"] = kind(step)
        saved["fusedstep"]["skipped_steps"] = kind(step)
        one.load_state_dict(saved)
        assert one.state[0]["step"] == one.steps_taken == one.skipped_steps == step
        assert one.state_dict()["state"][0]["step"] == step and type(one.state[0]["step"]) is int


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (2**63, "got 9223372036854775808, needs a whole number from 0 to 2**63 - 1"),
        (2**70, "got 1180591620717411303424, needs a whole number from 0 to 2**63 - 1"),
        (np.uint64(2**63), "got 9223372036854775808, needs a whole number from 0"),
        (2.0**63, "got 9.22337e+18, needs a whole number from 0 to 2**63 - 1"),
        (-1, "got -1, needs a whole number from 0"),
        (np.int64(-(2**62) - 1), "got -4611686018427387905, needs a whole number from 0"),
        (0.5, "got 0.5, needs a whole number of at least 0"),
        (np.inf, "got inf, needs a whole number"),
        (-np.inf, "got -inf, needs a whole number"),
        (np.nan, "got nan, needs a whole number"),
        (True, "got bool, needs a number"),
        ("3", "got str, needs a number"),
        (None, "got NoneType, needs a number"),
        ([1, 2], "got list, needs a number"),
        (1j, "got complex, needs a number"),
    ],
    ids=repr,
)
def test_wrong_step_counts_say_why(step: Any, text: str) -> None:
    one = made(FLOAT32)
    before = snapshot(one)
    for path in (("state", 0, "step"), ("fusedstep", "steps_taken"), ("fusedstep", "skipped_steps")):
        saved = one.state_dict()
        place: Any = saved
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = step
        with pytest.raises((TypeError, ValueError)) as caught:
            one.load_state_dict(saved)
        where = "state_dict" + "".join(f'["{key}"]' if isinstance(key, str) else f"[{key}]" for key in path)
        assert str(caught.value).startswith(f"{where}: {text}"), str(caught.value)
    assert_same(snapshot(one), before)
    assert one.steps_taken == 2


# ---------------------------------------------------------------------------------------- nothing changed by a failure


def refuses(optimizer: Any, saved: Any, error: Any, text: str) -> None:
    before, groups = snapshot(optimizer), [dict(group) for group in optimizer.param_groups]
    taken, model = optimizer.steps_taken, optimizer._model
    with pytest.raises(error, match=text):
        optimizer.load_state_dict(saved)
    assert_same(snapshot(optimizer), before)
    assert [dict(group) for group in optimizer.param_groups] == groups
    assert optimizer.steps_taken == taken and optimizer._model is model


def test_arrays_that_became_read_only() -> None:
    for dtype, options in FORMATS:
        one = made(dtype, **options)
        saved = made(dtype, steps=4, **options).state_dict()
        for name, array in list(one._slots[2].items()):
            array.flags.writeable = False
            refuses(
                one, saved, ValueError, rf'^state_dict\["state"\]\[2\]\["{name.removesuffix("_scales")}"\]: .*read-only'
            )
            array.flags.writeable = True
        one.load_state_dict(saved)
    # a parameter is written where masters are converted
    one = made(BFLOAT16, master="split")
    other = made(BFLOAT16, steps=4, master="float32").state_dict()
    one._slots[3].param.flags.writeable = False
    refuses(one, other, ValueError, r'^state_dict\["state"\]\[3\]\["master"\]: .*read-only')


def test_schedule_that_fails_on_loading() -> None:
    class Fragile:
        def __init__(self) -> None:
            self.times, self.broken = 0, False

        def __call__(self, t: int) -> float:
            if self.broken and self.times == 5:
                raise ZeroDivisionError("mine")
            return 0.5

        def state_dict(self) -> Any:
            return {"times": self.times}

        def load_state_dict(self, state: Any) -> None:
            self.times = state["times"]

    def make() -> tuple[Any, list[Fragile]]:
        schedules = [Fragile(), Fragile()]
        groups = [{"params": numbers(4), "momentum": schedules[0]}, {"params": numbers(3), "lr": schedules[1]}]
        return fs.SGD(groups, momentum=0.5, lr=0.25), schedules

    one, schedules = make()
    for schedule in schedules:
        schedule.times = 5
    one.step([numbers(4), numbers(3)])
    two, others = make()
    others[1].broken = True
    saved = one.state_dict()
    for options in saved["param_groups"]:
        options["weight_decay"] = 0.125
    saved["fusedstep"]["seed"] = 7
    refuses(two, saved, ZeroDivisionError, "mine")
    assert [schedule.times for schedule in others] == [0, 0] and two.seed == 0
    others[1].broken = False
    two.load_state_dict(saved)
    assert_same(snapshot(two)[1][1:], snapshot(one)[1][1:])
    assert [schedule.times for schedule in others] == [5, 5] and two.weight_decay == 0.125


def test_state_that_cannot_be_added() -> None:
    """Loading options that call for a state makes the native model anew, which may fail."""
    saved = made(FLOAT32, cls=fs.SGD, momentum=0.5).state_dict()
    grads = [np.zeros(shape, np.float32) for shape in SHAPES]
    one = fs.SGD([numbers(shape) for shape in SHAPES], grads=grads, lr=0.5)
    grads[1].flags.writeable = False
    one.zero_grads = False
    saved["fusedstep"]["zero_grads"] = True
    refuses(one, saved, ValueError, r"^grads\[1\]: got a read-only array")
    assert one.zero_grads is False and not one._slots[0].states
    assert one.step()
    grads[1].flags.writeable = True
    one.load_state_dict(saved)
    assert one.zero_grads is True and one._slots[0].states and one.step()


def test_shape_of_a_parameter_that_was_changed() -> None:
    one = fs.Adam(np.zeros((2, 3)))
    saved = one.state_dict()
    reshape(one.param_groups[0]["params"], (3, 2))
    with pytest.raises(ValueError, match=r'^state_dict\["state"\]\[0\]\["exp_avg"\]: got'):
        one.load_state_dict(saved)


def test_unknown_entries() -> None:
    one = made(FLOAT32)
    for name in ("momentum_buffer", "exp_average", "square_avg", "exp_avg_scale", "sum_scales", 3):
        saved = one.state_dict()
        saved["state"][1][name] = np.ones(5, np.float32)
        message = rf'^state_dict\["state"\]\[1\]: got an entry "{name}", which adam does not have'
        refuses(one, saved, ValueError, message)


@every_format
def test_the_optimizers_own_arrays(dtype: Any, options: Options) -> None:
    """The live states as they are, and those of two parameters exchanged."""
    shape = (70, 60)
    one = fs.Adam([numbers(shape, dtype, 1), numbers(shape, dtype, 2)], **options)
    for t in range(2):
        one.step([numbers(shape, dtype, 10 * t), numbers(shape, dtype, 10 * t + 1)])
    before = copied(snapshot(one))
    saved = one.state_dict()
    saved["state"] = {i: dict(one.state[i]) for i in range(2)}
    one.load_state_dict(saved)
    assert_same(snapshot(one), before)
    saved["state"] = {i: dict(one.state[1 - i]) for i in range(2)}
    one.load_state_dict(saved)
    assert_same([entry[1:] for entry in snapshot(one)], [entry[1:] for entry in before[::-1]])
    if "master" not in options:
        saved["state"] = {
            i: {"step": 1, "exp_avg": one._slots[1 - i].param, "exp_avg_sq": np.ones(shape)} for i in (0, 1)
        }
        saved["param_groups"][0]["ema_decay"] = None
        one.load_state_dict(saved)
        expected = fs.Adam([slot.param.copy() for slot in one._slots], **options)
        expected.load_state_dict(copied(saved))
        assert_same(snapshot(one), snapshot(expected))


# --------------------------------------------------------------------------------------- the caller's NumPy settings

EXTREME = np.array([1e3, 4e-18, 1e-38, 1e-45, 0.0, -0.0, 7.0, -1e-20] * 600, np.float32)


@contextlib.contextmanager
def everything_raises() -> Any:
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_floating_point_errors_that_raise_change_nothing(rule: str) -> None:
    with np.errstate(all="ignore"):
        starts = {dtype: EXTREME.astype(dtype).copy for dtype in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)}

    def run(dtype: Any, options: Options) -> list[Any]:
        start = starts[dtype]()
        opt = CLASSES[rule](start, lr=1e-30, **options)
        opt.step(start.copy())
        exact = {state.kind for state in RULES[rule].states} == {"exact"} or not RULES[rule].states
        dicts = [opt.state_dict(state_format=f) for f in ((None,) if exact else (None, "float32", "bfloat16", "8bit"))]
        loaded = []
        for saved in dicts:
            again = CLASSES[rule](start.copy(), **options)
            again.load_state_dict(saved)
            loaded.append(snapshot(again))
            if dtype == FLOAT32 and "ema_decay" not in options:
                wide = copied(saved["state"][0])
                for name in [name for name in wide if f"{name}_scales" not in wide and not name.endswith("_scales")]:
                    if isinstance(wide[name], np.ndarray):
                        wide[name] = wide[name].astype(np.float64) * 1e-42 + 1e-60
                again.load_state_dict({**saved, "state": {0: wide}})
                loaded.append(snapshot(again))
        more = copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))
        opt.add_param_group({"params": start.copy()})
        return [dicts, loaded, [snapshot(o) for o in more], snapshot(opt)]

    exact = {state.kind for state in RULES[rule].states} == {"exact"}
    for dtype, options in FORMATS:
        given = {k: v for k, v in options.items() if not (exact and k == "state_format")}
        if not RULES[rule].states:
            given.pop("state_format", None)
        with np.errstate(all="ignore"):
            expected = run(dtype, given)
        with everything_raises():
            actual = run(dtype, given)
        assert_same(actual, expected, str(given))


def test_formats_with_errors_that_raise() -> None:
    values = np.concatenate([EXTREME, [np.inf, np.nan, 2.0**127, 3e38]]).astype(np.float32)
    wide = np.concatenate([values.astype(np.float64), [1e300, 1e-300]])

    def run() -> list[Any]:
        made: list[Any] = []
        for given in (values, wide):
            made += [formats.encode_bfloat16(given), formats.encode_float16(given), *formats.split(given)]
            for signed in (True, False):
                codes, scales = formats.encode_8bit(np.abs(given) if not signed else given, signed)
                made += [codes, scales, formats.decode_8bit(codes, scales, signed)]
        made += [formats.decode_float16(made[1]), formats.decode_bfloat16(made[0]), formats.join(made[2], made[3])]
        return made

    with np.errstate(all="ignore"):
        expected = run()
    with everything_raises():
        assert_same(run(), expected)


# -------------------------------------------------------------------------------------------------- other threads


def test_no_other_thread_sees_half_a_step() -> None:
    """Saving, loading, adding a group and copying are errors while another thread takes a step."""
    entered, go_on = threading.Event(), threading.Event()

    def rate(t: int) -> float:
        if t == 1 and threading.current_thread() is not threading.main_thread():
            entered.set()
            assert go_on.wait(60)
        return 0.5

    opt = fs.SGD(np.zeros(4), lr=rate, momentum=0.5)
    opt.step(np.ones(4))
    saved = opt.state_dict()
    before = snapshot(opt)
    thread = threading.Thread(target=lambda: opt.step(np.ones(4)))
    thread.start()
    assert entered.wait(60)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("state_dict()", opt.state_dict),
        ("state_dict()", lambda: opt.state_dict(state_format="float32")),
        ("load_state_dict()", lambda: opt.load_state_dict(saved)),
        ("add_param_group()", lambda: opt.add_param_group({"params": np.zeros(2)})),
        ("copy.deepcopy()", lambda: copy.deepcopy(opt)),
        ("pickle", lambda: pickle.dumps(opt)),
        ("step()", lambda: opt.step(np.ones(4))),
    ]
    try:
        for what, call in calls:
            with pytest.raises(RuntimeError, match="another thread is taking a step") as caught:
                call()
            assert str(caught.value).startswith(f"{what}: ")
        assert_same(snapshot(opt), before)
    finally:
        go_on.set()
        thread.join()
    assert opt.steps_taken == 2
    opt.state_dict()
    opt.load_state_dict(saved)
    opt.add_param_group({"params": np.zeros(2)})
    assert opt.step([np.ones(4), np.ones(2)])


def test_no_saving_inside_a_step() -> None:
    opt: Any = None

    def rate(t: int) -> float:
        if t == 1:
            opt.state_dict()
        return 0.5

    opt = fs.SGD(np.zeros(4), lr=rate)
    opt.step(np.ones(4))
    with pytest.raises(RuntimeError, match=r"^state_dict\(\): called during a step of this optimizer"):
        opt.step(np.ones(4))
    assert_same(opt.param_groups[0]["params"], np.full(4, -0.5))


def test_memory_that_an_object_only_describes_is_not_read() -> None:
    class Described:
        __array_interface__: ClassVar[dict[str, Any]] = {
            "shape": (7,),
            "typestr": "<f4",
            "data": (8, False),
            "version": 3,
        }

    param = np.ones(7, np.float32)
    optimizer = fusedstep.Adam(param)
    optimizer.step(np.ones_like(param))
    saved = optimizer.state_dict()
    for name in ("exp_avg", "exp_avg_sq", "step"):
        changed = copy.copy(saved)
        changed["state"] = {0: {**saved["state"][0], name: Described()}}
        with pytest.raises(TypeError, match=name):
            optimizer.load_state_dict(changed)
