"""Schedule-free optimizers: two sets of weights, the way from one to the other, and saving in either mode."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable
from concurrent import futures
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusedstep as fs
from fusedstep._pieces import PIECE
from fusedstep.reference import schedule_free_average, schedule_free_interpolation

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
CLASSES = [fs.ScheduleFreeSGD, fs.ScheduleFreeAdamW]
BETA: dict[Any, Any] = {fs.ScheduleFreeSGD: {"momentum": 0.8}, fs.ScheduleFreeAdamW: {"betas": (0.8, 0.99)}}
STORAGES: list[tuple[Any, Any]] = [
    (np.float32, {}),
    (np.float64, {}),
    (np.float16, {}),
    (BFLOAT16, {}),
    (BFLOAT16, {"rounding": "stochastic"}),
    (np.float16, {"master": "float32"}),
    (BFLOAT16, {"master": "float32"}),
    (BFLOAT16, {"master": "split"}),
]
NAMES = [f"{np.dtype(dtype).name}-{'-'.join(map(str, options.values()))}" for dtype, options in STORAGES]
FORMATS = ["float32", "bfloat16", "8bit"]


def compute(dtype: Any) -> Any:
    return np.float64 if dtype == np.float64 else np.float32


def stepped(cls: Any, dtype: Any, sizes: tuple[int, ...] = (5, 7), steps: int = 4, **options: Any) -> tuple[Any, Any]:
    """Parameters and an optimizer after some steps."""
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(size).astype(dtype) for size in sizes]
    optimizer = cls(params, lr=0.05, **BETA[cls], **options)
    for _ in range(steps):
        step(optimizer, params, rng)
    return params, optimizer


def step(optimizer: Any, params: Any, rng: np.random.Generator) -> None:
    optimizer.step([rng.standard_normal(p.shape).astype(compute(p.dtype)).astype(p.dtype) for p in params])


def content(arrays: Any) -> list[bytes]:
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


def held(optimizer: Any) -> list[bytes]:
    return content(value for state in optimizer.state for value in state.values() if isinstance(value, np.ndarray))


def exact(optimizer: Any) -> list[Any]:
    """The parameters as the rule sees them."""
    return [slot.values().copy() for slot in optimizer._slots]


# ---- the two points ----


@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
@pytest.mark.parametrize("cls", CLASSES)
def test_eval_and_train_are_the_two_formulas(cls: Any, dtype: Any, options: dict[str, Any]) -> None:
    params, optimizer = stepped(cls, dtype, sizes=(2 * PIECE + 3, 1), steps=2, **options)
    before = exact(optimizer)
    assert optimizer.training
    optimizer.eval()
    assert not optimizer.training
    for param, y, state, now in zip(params, before, optimizer.state, exact(optimizer), strict=True):
        x = schedule_free_average(y, state["z"], beta=0.8)
        assert np.abs(x - y).max() > 0
        assert param.tobytes() == x.astype(dtype).tobytes() or options.get("master") == "split"
        if options.get("master"):
            assert now.tobytes() == x.tobytes()
    averages = exact(optimizer)
    optimizer.train()
    assert optimizer.training
    for param, x, state, now in zip(params, averages, optimizer.state, exact(optimizer), strict=True):
        y = schedule_free_interpolation(x, state["z"], beta=0.8)
        assert param.tobytes() == y.astype(dtype).tobytes() or options.get("master") == "split"
        if options.get("master"):
            assert now.tobytes() == y.tobytes()


@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9, 0.999])
def test_there_and_back_is_within_rounding(dtype: Any, options: dict[str, Any], beta: float) -> None:
    rng = np.random.default_rng(0)
    param = rng.standard_normal(10_000).astype(dtype)
    optimizer = fs.ScheduleFreeSGD(param, lr=0.5, momentum=beta, **options)
    for _ in range(3):
        optimizer.step(rng.standard_normal(10_000).astype(dtype))
    (y,), z = exact(optimizer), optimizer.state[0]["z"]
    optimizer.eval()
    optimizer.train()
    kind = compute(dtype) if options.get("master") or dtype in (np.float32, np.float64) else dtype
    unit = float(ml_dtypes.finfo(kind).eps)  # type: ignore[no-untyped-call]
    x = y + (1 - 1 / beta) * (z - y)
    largest = np.maximum(np.maximum(np.abs(y), np.abs(z)), np.abs(x))
    assert (np.abs(exact(optimizer)[0] - y) <= 4 * unit * largest).all()


def test_the_formulas_are_the_authors() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    y, z = rng.standard_normal(1000), rng.standard_normal(1000)
    for beta in (0.1, 0.5, 0.9, 0.98):
        x = torch.from_numpy(y).clone().lerp_(end=torch.from_numpy(z), weight=1 - 1 / beta)
        np.testing.assert_allclose(schedule_free_average(y, z, beta=beta), x.numpy(), rtol=1e-13, atol=1e-13)
        back = x.clone().lerp_(end=torch.from_numpy(z), weight=1 - beta)
        np.testing.assert_allclose(
            schedule_free_interpolation(x.numpy(), z, beta=beta), back.numpy(), rtol=1e-13, atol=1e-13
        )


@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
def test_a_second_call_changes_nothing(dtype: Any, options: dict[str, Any]) -> None:
    params, optimizer = stepped(fs.ScheduleFreeAdamW, dtype, **options)
    for switch in (optimizer.train, optimizer.eval, optimizer.train):
        switch()
        before = content(params), held(optimizer)
        switch()
        assert (content(params), held(optimizer)) == before


@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
def test_weights_loaded_in_evaluation_mode_count(dtype: Any, options: dict[str, Any]) -> None:
    params, optimizer = stepped(fs.ScheduleFreeSGD, dtype, **options)
    optimizer.eval()
    for param in params:
        param[...] = np.arange(1, param.size + 1)
    optimizer.train()
    for param, state, now in zip(params, optimizer.state, exact(optimizer), strict=True):
        loaded = np.arange(1, param.size + 1).astype(compute(dtype))
        y = schedule_free_interpolation(loaded, state["z"], beta=0.8)
        if options.get("master") == "split":  # a remainder is at most half a unit of the loaded weight's last place
            np.testing.assert_allclose(now, y, rtol=2**-8)
        else:
            assert now.tobytes() == (y if options.get("master") else y.astype(dtype).astype(y.dtype)).tobytes()


@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
def test_weights_loaded_before_the_first_step_count(dtype: Any, options: dict[str, Any]) -> None:
    first, second = np.ones(6, dtype), np.arange(6).astype(dtype)
    late, early = fs.ScheduleFreeAdamW(first, **options), fs.ScheduleFreeAdamW(second, **options)
    first[...] = second
    for k in range(3):
        grad = np.full(6, k + 1).astype(dtype)
        late.step(grad)
        early.step(grad)
    assert content([first]) == content([second])
    assert held(late) == held(early)


def test_what_never_took_a_step_is_not_touched() -> None:
    params = {"mask": np.array([0.0, -np.inf, np.nan], np.float32), "w": np.ones(3, np.float32)}
    optimizer = fs.ScheduleFreeSGD(params)
    optimizer.step({"mask": None, "w": np.ones(3, np.float32)})
    before = params["mask"].tobytes()
    optimizer.eval()
    assert params["mask"].tobytes() == before
    params["mask"][0] = 5.0
    optimizer.train()
    assert params["mask"][0] == 5.0


@pytest.mark.parametrize("cls", CLASSES)
def test_floating_point_errors_are_not_reported(cls: Any) -> None:
    with np.errstate(all="raise"):
        params = [np.ones(4), np.full(4, 1e-6, np.float16)]
        optimizer = cls(params, lr=1e-3)
        optimizer.step([np.ones(4), np.full(4, 1e-3, np.float16)])
        optimizer.eval()
        optimizer.train()
    assert optimizer.training


def test_the_momentum_may_be_a_schedule() -> None:
    param = np.ones(5)
    optimizer = fs.ScheduleFreeSGD(param, lr=0.1, momentum=lambda t: 0.5 + 0.1 * t)
    optimizer.step(np.ones(5))
    optimizer.step(np.full(5, -2.0))
    expected = schedule_free_average(param, optimizer.state[0]["z"], beta=0.7)
    optimizer.eval()
    np.testing.assert_array_equal(param, expected)


# ---- errors ----


@pytest.mark.parametrize("cls", CLASSES)
def test_a_step_in_evaluation_mode_is_an_error_with_the_remedy(cls: Any) -> None:
    params, optimizer = stepped(cls, np.float32)
    optimizer.eval()
    before = content(params), held(optimizer), optimizer.steps_taken
    with pytest.raises(RuntimeError, match=r"call train\(\) first"):
        optimizer.step([np.ones_like(p) for p in params])
    assert (content(params), held(optimizer), optimizer.steps_taken) == before


def read_only(param: Any) -> None:
    param.flags.writeable = False


def resized(param: Any) -> None:
    param.resize(3, refcheck=False)


def overflowing(param: Any) -> None:
    param[1] = 60000.0


@pytest.mark.parametrize(
    ("spoil", "error"), [(read_only, ValueError), (resized, ValueError), (overflowing, OverflowError)]
)
@pytest.mark.parametrize("options", [{}, {"master": "float32"}])
def test_a_failed_eval_changes_nothing(
    spoil: Callable[[Any], None], error: type[Exception], options: dict[str, Any]
) -> None:
    params = [np.ones(2 * PIECE, np.float16), np.ones(5, np.float16)]
    optimizer = fs.ScheduleFreeSGD(params, lr=0.1, momentum=0.3, **options)
    optimizer.step([np.ones_like(param) for param in params])
    optimizer.step([np.ones_like(param) for param in params])
    optimizer.state[1]["z"][...] = -60000.0
    spoil(params[1])
    before = content(params), held(optimizer)
    with pytest.raises(error, match=r"params\[1\]"):
        optimizer.eval()
    assert (content(params), held(optimizer)) == before
    assert optimizer.training


@pytest.mark.parametrize("value", [0.0, 1.0, "much"])
def test_a_momentum_without_an_average_is_an_error(value: Any) -> None:
    params, optimizer = stepped(fs.ScheduleFreeSGD, np.float32)
    before = content(params)
    optimizer.param_groups[0]["momentum"] = value
    with pytest.raises((ValueError, TypeError), match=r'param_groups\[0\]\["momentum"\]'):
        optimizer.eval()
    assert content(params) == before and optimizer.training


# ---- groups, copies ----


@pytest.mark.parametrize("cls", CLASSES)
def test_groups_may_be_added_in_evaluation_mode(cls: Any) -> None:
    runs = []
    for evaluate in (False, True):
        first, second = np.ones(3), np.arange(4.0)
        optimizer = cls(first, lr=0.1, **BETA[cls])
        optimizer.step(np.ones(3))
        if evaluate:
            optimizer.eval()
        optimizer.add_param_group({"params": second})
        assert optimizer.training is not evaluate
        optimizer.train()
        assert second.tolist() == [0.0, 1.0, 2.0, 3.0]
        for _ in range(3):
            optimizer.step([np.ones(3), np.full(4, -0.5)])
        optimizer.eval()
        runs.append((first, second))
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
@pytest.mark.parametrize("evaluate", [False, True])
def test_copies_are_in_the_same_mode(how: Any, dtype: Any, options: dict[str, Any], evaluate: bool) -> None:
    params, optimizer = stepped(fs.ScheduleFreeAdamW, dtype, **options)
    if evaluate:
        optimizer.eval()
    others, other = how((params, optimizer))
    assert other.training is not evaluate
    for mine, its in ((params, optimizer), (others, other)):
        its.train()
        rng = np.random.default_rng(9)
        step(its, mine, rng)
        step(its, mine, rng)
    assert content(others) == content(params) and held(other) == held(optimizer)


# ---- saving ----


def resumed(cls: Any, dtype: Any, options: dict[str, Any], saved: Any, weights: Any, evaluating: bool) -> Any:
    """Another optimizer, in either mode, that loads."""
    params, optimizer = stepped(cls, dtype, steps=1, **options)
    if evaluating:
        optimizer.eval()
    optimizer.load_state_dict(saved)
    for param, weight in zip(params, weights, strict=True):
        param[...] = weight
    return params, optimizer


@pytest.mark.parametrize("state_format", FORMATS)
@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
@pytest.mark.parametrize("evaluating", [False, True])
def test_resumed_from_training_mode_with_the_same_bits(
    dtype: Any, options: dict[str, Any], state_format: str, evaluating: bool
) -> None:
    options = options | {"state_format": state_format, "min_quantized_size": 0}
    params, optimizer = stepped(fs.ScheduleFreeAdamW, dtype, **options)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["train_mode"] is True
    others, other = resumed(fs.ScheduleFreeAdamW, dtype, options, saved, params, evaluating)
    assert other.training
    for mine, its in ((params, optimizer), (others, other)):
        rng = np.random.default_rng(9)
        step(its, mine, rng)
        its.eval()
    assert content(others) == content(params) and held(other) == held(optimizer)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
@pytest.mark.parametrize("evaluating", [False, True])
def test_resumed_from_evaluation_mode(cls: Any, dtype: Any, options: dict[str, Any], evaluating: bool) -> None:
    params, optimizer = stepped(cls, dtype, **options)
    optimizer.eval()
    saved, weights = optimizer.state_dict(), [param.copy() for param in params]
    assert saved["param_groups"][0]["train_mode"] is False
    others, other = resumed(cls, dtype, options, saved, weights, evaluating)
    assert not other.training
    assert content(others) == content(params)
    for mine, its in ((params, optimizer), (others, other)):
        its.train()
        rng = np.random.default_rng(9)
        step(its, mine, rng)
        its.eval()
    assert content(others) == content(params) and held(other) == held(optimizer)


def test_a_dict_that_does_not_tell_the_mode_is_of_training() -> None:
    _, optimizer = stepped(fs.ScheduleFreeSGD, np.float32)
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["train_mode"]
    optimizer.eval()
    optimizer.load_state_dict(saved)
    assert optimizer.training


def test_a_mode_that_is_none_is_an_error_and_changes_nothing() -> None:
    params, optimizer = stepped(fs.ScheduleFreeSGD, np.float32)
    optimizer.eval()
    saved = optimizer.state_dict()
    saved["param_groups"][0]["train_mode"] = "perhaps"
    before = content(params), held(optimizer)
    with pytest.raises(TypeError, match="train_mode"):
        optimizer.load_state_dict(saved)
    assert (content(params), held(optimizer)) == before and not optimizer.training


# ---- torch ----

torch = pytest.importorskip("torch")
import fusedstep.torch as ft  # noqa: E402


def tensors(arrays: Any) -> list[Any]:
    made = []
    for array in arrays:
        dtype = getattr(torch, array.dtype.name)
        made.append(torch.nn.Parameter(torch.from_numpy(array.astype(np.float64)).to(dtype)))
    return made


def torch_bytes(tensor: Any) -> bytes:
    flat = tensor.detach().reshape(-1)
    if flat.dtype == torch.bfloat16:
        flat = flat.view(torch.int16)
    data: bytes = flat.numpy().tobytes()
    return data


@pytest.mark.parametrize("state_format", FORMATS)
@pytest.mark.parametrize(("dtype", "options"), STORAGES, ids=NAMES)
@pytest.mark.parametrize("cls", CLASSES)
def test_both_faces_leave_the_same_bits(cls: Any, dtype: Any, options: dict[str, Any], state_format: str) -> None:
    if state_format != "float32":
        if cls is fs.ScheduleFreeSGD:
            return  # its state is kept exactly
        options = options | {"state_format": state_format, "min_quantized_size": 0}
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(size).astype(dtype) for size in (PIECE + 5, 7)]
    params = tensors(arrays)
    ours = cls(arrays, lr=0.05, **BETA[cls], **options)
    theirs = getattr(ft, cls.__name__)(params, lr=0.05, **BETA[cls], **options)
    for _ in range(3):
        grads = [rng.standard_normal(array.size).astype(dtype) for array in arrays]
        for param, grad in zip(params, tensors(grads), strict=True):
            param.grad = grad.detach()
        ours.step(grads)
        theirs.step()
        for name in ("eval", "train"):
            getattr(ours, name)()
            getattr(theirs, name)()
            assert [torch_bytes(param) for param in params] == content(arrays)
            for copy_name in ("master", "remainder"):
                if copy_name in ours.state[0]:
                    assert torch_bytes(theirs.state[params[0]][copy_name]) == ours.state[0][copy_name].tobytes()


def train(model: Any, optimizer: Any, first: int, count: int) -> None:
    optimizer.train()
    for k in range(first, first + count):
        optimizer.zero_grad()
        model(torch.full((2, 3), 0.1 * k + 0.1)).square().sum().backward()
        optimizer.step()


def weights_of(model: Any) -> list[bytes]:
    return [torch_bytes(param) for param in model.parameters()]


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("mode_there", ["train", "eval"])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("through_file", [False, True])
def test_torch_resumes_in_either_mode(name: str, mode: str, mode_there: str, offload: bool, through_file: bool) -> None:
    def made(seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        model = torch.nn.Linear(3, 2)
        cls = getattr(ft, name)
        if offload:
            return model, ft.CPUOffload(cls, model.parameters(), lr=1e-2)
        return model, cls(model.parameters(), lr=1e-2)

    model, optimizer = made(0)
    train(model, optimizer, 0, 4)
    getattr(optimizer, mode)()
    saved: Any = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    if through_file:
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    again, other = made(1)
    train(again, other, 0, 1)
    getattr(other, mode_there)()
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[0])
    assert other.training is (mode == "train")
    for its, mine in ((model, optimizer), (again, other)):
        train(its, mine, 5, 3)
        mine.eval()
    assert weights_of(again) == weights_of(model)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_torch_copies_are_in_the_same_mode(how: str) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ft.ScheduleFreeAdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 0, 3)
    optimizer.eval()
    both = (model, optimizer)
    again, other = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert not other.training
    for its, mine in ((model, optimizer), (again, other)):
        train(its, mine, 3, 2)
    assert weights_of(again) == weights_of(model)


def test_a_mode_that_torch_cannot_load_changes_nothing() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ft.ScheduleFreeAdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 0, 3)
    saved = optimizer.state_dict()
    optimizer.eval()
    before = weights_of(model)
    saved["param_groups"][0]["train_mode"] = "perhaps"
    with pytest.raises(TypeError, match="train_mode"):
        optimizer.load_state_dict(saved)
    assert not optimizer.training and weights_of(model) == before
    del saved["param_groups"][0]["train_mode"]
    optimizer.load_state_dict(saved)
    assert optimizer.training


def test_torch_steps_in_evaluation_mode_are_errors() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ft.ScheduleFreeSGD(model.parameters(), lr=1e-2)
    train(model, optimizer, 0, 2)
    optimizer.eval()
    before = weights_of(model)
    with pytest.raises(RuntimeError, match=r"call train\(\) first"):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"call train\(\) first"):
        optimizer.step(lambda: model(torch.ones(1, 3)).sum())
    assert weights_of(model) == before


def test_a_backward_pass_that_would_step_in_evaluation_mode_is_an_error() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ft.apply_in_backward(model, ft.ScheduleFreeSGD, lr=1e-2)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.eval()
    before = weights_of(model)
    with pytest.raises(RuntimeError, match=r"call train\(\) first"):
        model(torch.ones(1, 3)).sum().backward()
    assert weights_of(model) == before


def test_torch_groups_may_be_added_in_evaluation_mode() -> None:
    first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.arange(4.0))
    optimizer = ft.ScheduleFreeSGD([first], lr=0.1)
    first.grad = torch.ones(3)
    optimizer.step()
    optimizer.eval()
    optimizer.add_param_group({"params": [second]})
    assert not optimizer.training
    with pytest.raises(RuntimeError, match="train"):
        optimizer.step()
    optimizer.train()
    assert second.tolist() == [0.0, 1.0, 2.0, 3.0]
    second.grad = torch.ones(4)
    optimizer.step()
    assert (second < torch.arange(4.0)).all()


def test_torch_parameters_with_gaps_and_complex_ones() -> None:
    param = torch.nn.Parameter(torch.arange(24.0).reshape(4, 6)[:, ::2])
    number = torch.nn.Parameter(torch.tensor([1 + 2j, 3 - 1j]))
    optimizer = ft.ScheduleFreeSGD([param, number], lr=0.1, momentum=0.5)
    for _ in range(2):
        param.grad, number.grad = torch.ones(4, 3), torch.tensor([1j, 2.0])
        optimizer.step()
    expected = []
    for p in (param, number):
        y, z = p.detach().clone().contiguous(), optimizer.state[p]["z"].contiguous()
        expected.append(y + (1 - 1 / 0.5) * (z - y))
    version = param._version, number._version
    optimizer.eval()
    assert torch.equal(param, expected[0]) and torch.equal(number, expected[1])
    assert param._version > version[0] and number._version > version[1]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_first_step_that_fails_leaves_the_states_as_they_were(cls: Any) -> None:
    """The state z begins at the parameter as it is at the first step, which may have been loaded since."""
    params = [np.ones(5, np.float32), np.ones(7, np.float32)]
    optimizer = cls(params)
    params[0][...] = 2
    before = [array.copy() for view in optimizer.state for array in view.values() if isinstance(array, np.ndarray)]
    with pytest.raises(TypeError, match="grads"):
        optimizer.step([np.ones(5, np.float32), "ones"])
    after = [array for view in optimizer.state for array in view.values() if isinstance(array, np.ndarray)]
    for one, other in zip(before, after, strict=True):
        assert one.tobytes() == other.tobytes()
    optimizer.step([np.zeros(5, np.float32), np.zeros(7, np.float32)])
    assert (optimizer.state[0]["z"] == 2).all() and (optimizer.state[1]["z"] == 1).all()


def test_a_frozen_parameter_that_became_something_else_is_left_alone() -> None:
    param, frozen = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = ft.ScheduleFreeSGD([param, frozen], lr=0.1)
    param.grad, frozen.grad = torch.ones(3), torch.ones(3)
    optimizer.step()
    frozen.grad = None
    frozen.requires_grad_(False)
    frozen.data = torch.tensor([1, 2, 3], dtype=torch.int8)
    optimizer.eval()
    assert frozen.tolist() == [1, 2, 3] and not optimizer.training


def test_optimizers_wrapped_by_a_subclass_that_forwards() -> None:
    """As Lightning's and Fabric's wrappers do."""

    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.__class__ = type("Wrapped", (Wrapper, type(optimizer)), {})
            self._optimizer = optimizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._optimizer, name)

    param = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.ScheduleFreeSGD([param], lr=0.1)
    wrapped: Any = Wrapper(optimizer)
    for _ in range(2):
        param.grad = torch.ones(3)
        optimizer.step()
    before = torch_bytes(param)
    wrapped.eval()
    assert not optimizer.training and not wrapped.training and torch_bytes(param) != before
    assert wrapped.state[param]["z"] is optimizer.state[param]["z"]
    assert wrapped.state_dict()["param_groups"][0]["train_mode"] is False
    wrapped.train()
    assert optimizer.training


@pytest.mark.parametrize("how", ["load", "fusedstep.load", "load_state_dict"])
def test_parameters_without_a_step_before_loading(how: str, tmp_path: Any) -> None:
    """What is loaded has a step of all: their z must not begin anew."""
    path = tmp_path / "run.safetensors"
    kept, other = ([np.arange(1, 5, dtype=np.float32), np.ones(3, np.float32)] for _ in range(2))
    grads = [np.ones(4, np.float32), np.ones(3, np.float32)]
    saved, loaded = fs.ScheduleFreeSGD(kept, lr=0.1), fs.ScheduleFreeSGD(other, lr=0.1)
    for _ in range(2):
        saved.step(grads)
    loaded.step([grads[0], None])
    fs.save(path, kept, saved)
    for here, there in zip(other, kept, strict=True):
        here[...] = there
    if how == "load":
        saved.save(path)
        loaded.load(path)
    elif how == "fusedstep.load":
        fs.load(path, other, loaded)
    else:
        loaded.load_state_dict(saved.state_dict())
    saved.step(grads)
    loaded.step(grads)
    for here, there in zip(other, kept, strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("face", ["numpy", "torch"])
@pytest.mark.parametrize("mode", [None, "eval", 2, np.ones(2)], ids=repr)
def test_a_mode_that_is_no_bool(mode: Any, face: str) -> None:
    """Taken for true, it would have neither eval() nor train() do anything."""
    if face == "numpy":
        optimizer: Any = fs.ScheduleFreeSGD([np.ones(3, np.float32)], lr=0.1)
    else:
        torch = pytest.importorskip("torch")
        ft = pytest.importorskip("fusedstep.torch")
        optimizer = ft.ScheduleFreeSGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    optimizer.param_groups[0]["train_mode"] = mode
    step = (lambda: optimizer.step([np.ones(3, np.float32)])) if face == "numpy" else optimizer.step
    for call in (step, optimizer.eval, optimizer.train, lambda: optimizer.training):
        with pytest.raises(TypeError, match=r'^param_groups\[0\]\["train_mode"\]: got .*, needs True or False'):
            call()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_parameter_retyped_before_eval() -> None:
    param = np.ones(4, np.float32)
    optimizer = fs.ScheduleFreeSGD([param], lr=0.1)
    optimizer.step([np.ones(4, np.float32)])
    before = param.tobytes()
    setattr(param, "dtype", np.int32)  # noqa: B010  (a type checker refuses it)
    with pytest.raises(ValueError, match=r"^params\[0\]: got dtype int32, needs float32"):
        optimizer.eval()
    assert param.tobytes() == before


def refusal(work: Callable[[], object]) -> str:
    """What another thread is told."""
    with futures.ThreadPoolExecutor(1) as pool:
        return str(pool.submit(work).exception())


def of_face(face: str) -> tuple[Any, Any, Callable[[], object]]:
    """An optimizer that has stepped, its parameter, and a step."""
    if face == "torch":
        param = torch.nn.Parameter(torch.ones(3))
        param.grad = torch.ones(3)
        optimizer: Any = ft.ScheduleFreeSGD([param], lr=0.5)
        return optimizer, param.detach().numpy(), optimizer.step
    array = np.ones(3, np.float32)
    optimizer = fs.ScheduleFreeSGD(array, lr=0.5)
    return optimizer, array, lambda: optimizer.step(np.ones(3, np.float32))


@pytest.mark.parametrize("face", ["arrays", "torch"])
def test_threads_do_not_switch_in_the_middle_of_anything(face: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, param, step = of_face(face)
    step()
    claim = optimizer._claim if face == "torch" else optimizer._model
    before = param.copy()
    with claim.exclusive("state_dict()"):
        for use in (optimizer.eval, optimizer.train, step, lambda: optimizer.load_state_dict({})):
            assert "another thread is saving" in refusal(use)
    assert optimizer.training and (param == before).all()

    told = []  # by eval() in another thread, right behind the look at the mode
    module = sys.modules[ft.ScheduleFreeSGD.__module__ if face == "torch" else "fusedstep.optimizers.schedule_free"]

    def check(groups: Any) -> None:
        told.append(refusal(optimizer.eval))

    monkeypatch.setattr(module, "check_training", check)
    step()
    assert "another thread is" in told[0] and optimizer.training


def test_a_second_thread_does_not_touch_what_the_first_step_makes() -> None:
    param, grad = np.ones(3, np.float32), np.ones(3, np.float32)
    told: list[str] = []

    def rate(taken: int) -> float:
        if busy:
            z = optimizer._slots[0].states["z"]
            param[...] = 7  # as a step that is under way changes it
            z.flags.writeable = False
            told.append(refusal(lambda: optimizer.step(grad)))
            z.flags.writeable, param[...] = True, 1
        return 0.5

    busy = False
    optimizer = fs.ScheduleFreeSGD(param, lr=rate)
    busy = True
    optimizer.step(grad)
    assert "another thread is" in told[0]
