"""The optimizers for torch beside torch's own: what a training script does with them."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep._step_options import GROUP_OPTIONS

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")
from torch_training import assert_same, network, train  # noqa: E402

NAMES = ["SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop"]


def test_torch_is_not_imported_by_the_package() -> None:
    code = "import sys, fusedstep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_constructor_is_torchs(name: str) -> None:
    import inspect

    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    mine = inspect.signature(getattr(ft, name)).parameters
    for position, (key, parameter) in enumerate(theirs.items()):
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert list(mine)[position] == key
        if key in mine:
            assert mine[key].default == parameter.default
        optimizer = getattr(ft, name)(
            [torch.nn.Parameter(torch.ones(2))], **({} if key == "params" else {key: parameter.default})
        )
        if key != "params":
            assert optimizer.param_groups[0][key] == parameter.default
    assert isinstance(optimizer, getattr(torch.optim, name))


def scheduled(name: str, optimizer: Any) -> Any:
    lr = torch.optim.lr_scheduler
    if name == "StepLR":
        return lr.StepLR(optimizer, 3, 0.5)
    if name == "CosineAnnealingLR":
        return lr.CosineAnnealingLR(optimizer, 6)
    cycles = bool({"momentum", "betas"} & optimizer.defaults.keys())  # changes them too, where there are any
    return lr.OneCycleLR(optimizer, 0.05, total_steps=12, cycle_momentum=cycles)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheduler", ["StepLR", "OneCycleLR", "CosineAnnealingLR"])
def test_schedulers(name: str, scheduler: str) -> None:
    results = []
    for module in (torch.optim, ft):
        model = network(torch.float64)
        options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
        optimizer = getattr(module, name)(model.parameters(), lr=1e-2, **options)
        made = scheduled(scheduler, optimizer)
        losses = train(model, optimizer, 10, [made])
        results.append((model, losses, made.get_last_lr()))
    assert_same(results[1][0], results[0][0], 1e-6, 1e-8)
    assert results[0][2] == results[1][2]
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-6)


def test_momentum_that_a_scheduler_turns_on_and_off() -> None:
    results = []
    for module in (torch.optim, ft):
        model = network(torch.float64)
        optimizer = module.SGD(model.parameters(), lr=0.05, dampening=0.3)
        for momentum in (0.0, 0.9, 0.0, 0.5):
            optimizer.param_groups[0]["momentum"] = momentum
            train(model, optimizer, 3)
        results.append(model)
    assert_same(results[1], results[0], 1e-10, 1e-12)


def test_amsgrad_that_begins_late() -> None:
    model = network()
    optimizer = ft.Adam(model.parameters(), lr=0.05)
    train(model, optimizer, 3)
    optimizer.param_groups[0]["amsgrad"] = True
    train(model, optimizer, 3)
    assert "max_exp_avg_sq" in optimizer.state[model[0].weight]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_clipping_closures_and_groups(name: str) -> None:
    results = []
    for module in (torch.optim, ft):
        model = network(torch.float64)
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5, "weight_decay": 0.1}]
        optimizer = getattr(module, name)(groups, lr=0.01)
        train(model, optimizer, 5, clip=0.05)
        extra = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer.add_param_group({"params": [extra], "lr": 0.2})

        def closure(optimizer: Any = optimizer, extra: Any = extra) -> Any:
            optimizer.zero_grad()
            loss = extra.square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == 3.0
        results.append((model, extra))
    assert_same(results[1][0], results[0][0], 1e-10, 1e-12)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_own_clipping_is_that_of_torch() -> None:
    theirs, mine = network(torch.float64), network(torch.float64)
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01), 10, clip=0.05)
    optimizer = ft.Adam(mine.parameters(), lr=0.01, max_grad_norm=0.05)
    train(mine, optimizer, 10)
    assert_same(mine, theirs, 1e-9, 1e-11)
    assert optimizer.grad_norm > 0


def test_hooks_and_profiler() -> None:
    model = network()
    optimizer = ft.Adam(model.parameters())
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    train(model, optimizer, 1)
    assert seen == ["pre", "post"]
    with torch.profiler.profile() as profile:
        train(model, optimizer, 1)
    assert any("Optimizer.step#Adam.step" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("name", NAMES)
def test_copies_go_on_alike(name: str) -> None:
    model = network()
    optimizer = getattr(ft, name)(model.parameters())
    train(model, optimizer, 3)
    other_model, other = copy.deepcopy((model, optimizer))
    loaded_model, loaded = pickle.loads(pickle.dumps((model, optimizer)))
    expected = train(model, optimizer, 3)
    assert train(other_model, other, 3) == expected
    assert train(loaded_model, loaded, 3) == expected


@pytest.mark.parametrize("option", sorted(set(GROUP_OPTIONS) - {"maximize"}))
def test_pickles_of_versions_without_an_option(option: str) -> None:
    """What came later has its default."""
    model = network()
    optimizer = ft.Adam(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    state = copy.deepcopy(optimizer).__getstate__()
    for options in (state["defaults"], state["_own"], *state["param_groups"]):
        options.pop(option)
    other_model = network()
    other_model.load_state_dict(model.state_dict())
    moved = dict(zip(state["param_groups"][0]["params"], other_model.parameters(), strict=True))
    state["state"] = {moved[p]: value for p, value in state["state"].items()}
    state["param_groups"][0]["params"] = list(other_model.parameters())
    other = ft.Adam.__new__(ft.Adam)
    other.__setstate__(state)
    assert train(other_model, other, 3) == train(model, optimizer, 3)
    assert getattr(other, option) == GROUP_OPTIONS[option] == other.defaults[option]
    other.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize(
    "options",
    [{}, {"state_format": "8bit", "min_quantized_size": 0}, {"state_format": "bfloat16", "min_quantized_size": 0}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_resumes_exactly(options: dict[str, Any], dtype: Any) -> None:
    options = options | {"ema_decay": 0.9, "master": "split" if dtype == torch.bfloat16 else None}
    model = network(dtype)
    optimizer = ft.AdamW(model.parameters(), lr=0.01, **options)
    train(model, optimizer, 4)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    expected = train(model, optimizer, 4)
    again = network(dtype)
    resumed = ft.AdamW(again.parameters(), lr=0.5, **options)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert train(again, resumed, 4) == expected
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(optimizer.ema_params()[0], resumed.ema_params()[0], strict=True):
        assert torch.equal(a, b)


def test_a_bad_state_dict_changes_nothing() -> None:
    model = network()
    optimizer = ft.Adam(model.parameters())
    train(model, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    bad = copy.deepcopy(before)
    bad["state"][1]["exp_avg"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r'state_dict\["state"\]\[1\]\["exp_avg"\]'):
        optimizer.load_state_dict(bad)
    torch.testing.assert_close(optimizer.state_dict()["state"], before["state"])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})


def test_step_counts_and_states_may_be_changed() -> None:
    model = network()
    optimizer = ft.Adam(model.parameters())
    train(model, optimizer, 3)
    state = optimizer.state[model[0].weight]
    assert state["step"].item() == 3
    state["step"].zero_()
    state["exp_avg"] = torch.zeros_like(state["exp_avg"])
    train(model, optimizer, 1)
    assert optimizer.state[model[0].weight]["step"].item() == 1
    assert optimizer.state[model[0].bias]["step"].item() == 4
    optimizer.state.clear()
    train(model, optimizer, 1)
    assert optimizer.state[model[0].bias]["step"].item() == 1


def test_states_are_looked_at_once_others_may_hold_them() -> None:
    model = network()
    optimizer = ft.Adam(model.parameters())
    train(model, optimizer, 2)
    state = optimizer.state[model[0].weight]
    train(model, optimizer, 2)
    state["exp_avg"].data = torch.full_like(state["exp_avg"], 3.0)
    model[0].weight.grad.zero_()
    optimizer.step()
    torch.testing.assert_close(state["exp_avg"], torch.full_like(state["exp_avg"], 2.7))
    state["exp_avg"] = torch.zeros_like(state["exp_avg"])
    optimizer.step()
    assert not state["exp_avg"].any()


def test_scaler() -> None:
    results = []
    for module in (torch.optim, ft):
        model = network()
        optimizer = module.SGD(model.parameters(), lr=0.05, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for step in range(6):
            optimizer.zero_grad()
            x = torch.full((4, 6), 0.1 * step)
            loss = model(x).square().mean() * (float("inf") if step == 3 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append((model, scaler.get_scale()))
    assert_same(results[1][0], results[0][0])
    assert results[0][1] == results[1][1]


def test_learning_rate_as_a_tensor() -> None:
    model, other = network(), network()
    rate = torch.tensor(0.1)
    optimizer = ft.Adam(model.parameters(), lr=rate)
    train(model, optimizer, 2)
    rate.fill_(0.01)
    train(model, optimizer, 2)
    plain = ft.Adam(other.parameters(), lr=0.1)
    train(other, plain, 2)
    plain.param_groups[0]["lr"] = rate.item()
    train(other, plain, 2)
    assert_same(model, other, 0, 0)


def layouts() -> dict[str, Any]:
    base = torch.randn(8, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    return {
        "channels_last": base.clone(memory_format=torch.channels_last),
        "transposed": base.clone().permute(3, 1, 0, 2),
        "a view of a larger buffer": torch.cat([base.flatten(), base.flatten()])[7 : 7 + 240].view(8, 30),
        "with gaps": base.clone()[:, ::2],
        "one row": base.clone()[:1, :1],
        "empty": base.new_zeros(0, 3),
        "scalar": base.new_tensor(2.0),
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("order", ["as the parameter", "contiguous", "reversed"])
def test_layouts(layout: str, order: str) -> None:
    mine = layouts()[layout].requires_grad_()
    theirs = layouts()[layout].requires_grad_()
    a, b = ft.Adam([mine], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        grad = torch.randn(mine.shape, generator=generator)
        theirs.grad = grad
        if order == "as the parameter":
            mine.grad = torch.empty_like(mine).copy_(grad)
        elif order == "contiguous":
            mine.grad = grad.clone()
        else:
            dims = list(range(grad.dim()))[::-1]
            mine.grad = grad.permute(dims).contiguous().permute(dims)
        a.step()
        b.step()
    torch.testing.assert_close(mine, theirs)
    state = a.state[mine]
    assert state["exp_avg"].shape == mine.shape
    torch.testing.assert_close(state["exp_avg"], b.state[theirs]["exp_avg"])


def test_complex_gradients_that_are_conjugated_views() -> None:
    torch.manual_seed(0)
    start = torch.randn(5, dtype=torch.complex64)
    mine, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    a, b = ft.RMSprop([mine]), torch.optim.RMSprop([theirs])
    grad = torch.randn(5, dtype=torch.complex64)
    for _ in range(3):
        mine.grad, theirs.grad = grad.conj(), grad.conj().resolve_conj()
        a.step()
        b.step()
    torch.testing.assert_close(mine, theirs)


def test_a_negated_scalar_gradient() -> None:
    mine = torch.tensor(1.0, requires_grad=True)
    mine.grad = torch.complex(torch.tensor(0.0), torch.tensor(2.0)).conj().imag
    assert mine.grad.is_neg()
    ft.SGD([mine], lr=0.5).step()
    assert mine.item() == 2.0


def test_several_dtypes_in_one_model() -> None:
    params = [
        torch.nn.Parameter(torch.ones(300, dtype=d))
        for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ]
    optimizer = ft.Adam(params, lr=0.125)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in params:
        assert p.dtype == optimizer.state[p]["exp_avg"].dtype or p.dtype.itemsize == 2
        assert torch.allclose(p.double(), torch.tensor(0.875, dtype=torch.float64), atol=1e-3)


def test_parameters_that_get_their_first_gradient_later() -> None:
    results = []
    for module in (torch.optim, ft):
        model = network(torch.float64)
        optimizer = module.Adam(model.parameters(), lr=0.05)
        for frozen in (True, False, True):
            model[0].requires_grad_(not frozen)
            train(model, optimizer, 3)
        results.append(model)
    assert_same(results[1], results[0], 1e-10, 1e-12)


def test_parameters_that_move_are_found() -> None:
    results = []
    for module in (torch.optim, ft):
        model = network(torch.float64)
        optimizer = module.Adam(model.parameters(), lr=0.05)
        train(model, optimizer, 3)
        with torch.no_grad():
            model[0].weight.data = model[0].weight.data.clone() * 2
        train(model, optimizer, 3)
        results.append(model)
    assert_same(results[1], results[0], 1e-10, 1e-12)


@pytest.mark.parametrize(
    "move",
    [
        lambda p: setattr(p, "data", p.data.t()),
        lambda p: p.data.untyped_storage().resize_(4 * p.numel() * p.element_size()),
        lambda p: torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach().clone() * 2)),
        lambda p: setattr(p, "grad", None),
        lambda p: setattr(p, "grad", p.grad.t().contiguous().t()),
        lambda p: setattr(p.grad, "data", torch.ones_like(p.grad)),
        lambda p: p.grad.untyped_storage().resize_(4 * p.numel() * p.element_size()),
    ],
    ids=["strides", "storage", "swapped", "no gradient", "gradient's strides", "gradient's data", "gradient's storage"],
)
@pytest.mark.parametrize("exposed", [False, True])
def test_tensors_may_change_between_steps(move: Any, exposed: bool) -> None:
    results = []
    for module in (torch.optim, ft):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(3, 3)) for _ in range(3)]
        optimizer = module.Adam(params, lr=0.05)
        for step in range(4):
            for p in params:
                p.grad = torch.randn(3, 3)
            if step == 2:
                if exposed:
                    assert optimizer.state[params[0]]["step"].item() == 2
                with torch.no_grad():
                    move(params[1])
            optimizer.step()
        results.append([*params, *(optimizer.state[p][name] for p in params for name in ("step", "exp_avg_sq"))])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_an_attribute_of_python() -> None:
    class Doubled(torch.nn.Parameter):  # type: ignore[misc, name-defined]
        grad = property(lambda self: torch.full_like(self, 2.0).detach())

    p = Doubled(torch.zeros(3))
    ft.SGD([p], lr=0.5).step()
    assert p.tolist() == [-1.0, -1.0, -1.0]


def test_step_counts_are_current_whenever_they_are_seen() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = ft.NAdam([p], lr=0.1)
    theirs = torch.optim.NAdam([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
    for changed in (False, True):
        for each in (optimizer, theirs):
            each.param_groups[0]["params"][0].grad = torch.ones(3)
            each.step()
            each.step()
        if changed:
            optimizer.skip_nonfinite = True  # makes the native model anew
        copied = copy.deepcopy(optimizer).state_dict()["state"][0]
        for state in (optimizer.state[p], optimizer.state_dict()["state"][0], copied):
            torch.testing.assert_close(state, theirs.state_dict()["state"][0], rtol=1e-6, atol=0, check_dtype=False)


def test_autograd_sees_that_parameters_changed() -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    frozen = torch.ones(3, requires_grad=True)
    optimizer = ft.SGD([p, frozen], lr=0.1)
    loss = (p * p * frozen).sum()
    before = frozen._version
    optimizer.step()
    assert frozen._version == before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_narrow_gradients() -> None:
    mine = torch.ones(4, requires_grad=True)
    free_grad_dtype(mine)
    mine.grad = torch.full((4,), 2.0, dtype=torch.bfloat16)
    ft.SGD([mine], lr=0.25).step()
    assert torch.equal(mine, torch.full((4,), 0.5))


# ---- what goes wrong ----


def snapshot(optimizer: Any) -> Any:
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return params, copy.deepcopy(optimizer.state_dict())


def bad_sparse(p: Any) -> None:
    p.grad = torch.ones(4, 3).to_sparse()


def free_grad_dtype(p: Any) -> None:
    """Let the gradient be of another dtype than the parameter."""
    if not hasattr(p, "grad_dtype"):
        pytest.skip("this torch has no gradients of another dtype")
    p.grad_dtype = None


def bad_dtype(p: Any) -> None:
    free_grad_dtype(p)
    p.grad = torch.ones(4, 3, dtype=torch.float64)


def bad_integer(p: Any) -> None:
    free_grad_dtype(p)
    p.grad = torch.ones(4, 3, dtype=torch.int32)


def bad_shape(p: Any) -> None:
    p.grad.data = torch.ones(12)


def bad_freed(p: Any) -> None:
    p.grad.untyped_storage().resize_(0)


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (bad_sparse, TypeError, "got a sparse tensor .*, needs a dense one for "),
        (bad_dtype, TypeError, "dtype torch.float64"),
        (bad_integer, TypeError, "dtype torch.int32"),
        (bad_shape, ValueError, "shape"),
        (bad_freed, ValueError, "freed"),
    ],
)
def test_bad_gradients_change_nothing(spoil: Any, error: type[Exception], text: str) -> None:
    params = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4, 3))]
    optimizer = ft.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    before, saved = snapshot(optimizer)
    spoil(params[1])
    with pytest.raises(error, match=text):
        optimizer.step()
    after, state = snapshot(optimizer)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close(state["state"], saved["state"], rtol=0, atol=0)
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()


def test_a_freed_parameter() -> None:
    p = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = ft.Adam([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    p.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="freed or resized"):
        optimizer.step()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda p: ft.Adam(p, differentiable=True), ValueError, "differentiable"),
        (lambda p: ft.Adam(p, capturable=True), ValueError, "capturable"),
        (lambda p: ft.Adam([{"params": p, "capturable": True}]), ValueError, "capturable"),
        (lambda p: ft.Adam(p, state_format="4bit"), ValueError, "state_format"),
        (lambda p: ft.Adam(p, max_grad_norm=-1.0), ValueError, "max_grad_norm"),
        (lambda p: ft.Adam(p, clip_value="x"), TypeError, "clip_value"),
        (lambda p: ft.Adam(p, speed="high"), TypeError, "speed"),
        (lambda p: ft.Adam([{"params": p, "lr": -1.0}]), ValueError, "lr"),
        (lambda p: ft.apply_in_backward(p, torch.optim.Adam), TypeError, "optimizer_class"),
        (lambda p: ft.apply_in_backward(p, ft.Adam, max_grad_norm=1.0), ValueError, "max_grad_norm"),
        (
            lambda p: ft.apply_in_backward(p, ft.Prodigy),
            ValueError,
            "optimizer_class: got Prodigy, needs another rule; it takes all gradients at once",
        ),
        (lambda p: ft.CPUOffload(torch.optim.Adam, p), TypeError, "optimizer_class"),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make([torch.nn.Parameter(torch.ones(2))])


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        (
            lambda: [torch.ones(4, device="meta", requires_grad=True)],
            ValueError,
            "got a tensor on meta, needs one on the CPU",
        ),
        (lambda: [torch.ones(1, requires_grad=True).detach().expand(3).requires_grad_()], ValueError, "share memory"),
        (lambda: [(b := torch.ones(6))[:4].requires_grad_(), b[2:].requires_grad_()], ValueError, "overlap"),
        (lambda: [torch.ones(3, dtype=torch.float8_e4m3fn).requires_grad_()], TypeError, "dtype"),
    ],
)
def test_bad_parameters(params: Any, error: type[Exception], text: str) -> None:
    made = params()
    optimizer = ft.SGD(made)
    for p in made:
        p.grad = torch.empty_like(p)
    with pytest.raises(error, match=text):
        optimizer.step()


def test_hyperparameters_out_of_range() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.Adam([p])
    p.grad = torch.ones(3)
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match=r'param_groups\[0\]\["lr"\]'):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))


# ---- the same bits as the NumPy side ----


@pytest.mark.parametrize("state_format", ["float32", "8bit"])
@pytest.mark.parametrize(
    "name", [name for name in fs.optimizers.__all__ if name not in ("Optimizer", "SparseAdam", "Muon")]
)
def test_leaves_the_bits_of_the_numpy_side(name: str, state_format: str) -> None:
    options: dict[str, Any] = {"max_grad_norm": 3.0, "ema_decay": 0.9, "maximize": True}
    if state_format == "8bit":
        if name in ("Adafactor", "Adagrad", "ASGD", "ScheduleFreeSGD"):
            return  # states that are kept exactly
        options |= {"state_format": "8bit", "min_quantized_size": 0}
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in ((40, 30), (7,), (1,))]
    params = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]
    mine, numpys = getattr(ft, name)(params, **options), getattr(fs, name)(arrays, **options)
    for _ in range(10):
        grads = [generator.standard_normal(a.shape).astype(np.float32) for a in arrays]
        for p, grad in zip(params, grads, strict=True):
            p.grad = torch.from_numpy(grad)
        mine.step()
        numpys.step(grads)
    for a, p, average in zip(arrays, params, mine.ema_params()[0], strict=True):
        assert a.tobytes() == p.detach().numpy().tobytes()
        state = numpys.state[next(i for i, q in enumerate(params) if q is p)]
        assert state["ema"].tobytes() == average.numpy().tobytes()
        for key, value in state.items():
            if isinstance(value, np.ndarray):
                assert value.tobytes() == mine.state[p][key].numpy().tobytes()


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free(name: str) -> None:
    model = network()
    optimizer = getattr(ft, name)(model.parameters(), lr=0.05)
    losses = train(model, optimizer, 30)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.eval()
    assert not optimizer.training
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(9))
    assert (model(x) - x[:, :2]).square().mean() < losses[0]
    with pytest.raises(RuntimeError, match="train"):
        optimizer.step()
    optimizer.train()
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(before, model.parameters(), strict=True))
    train(model, optimizer, 1)


# ---- sparse gradients ----


@pytest.mark.filterwarnings("ignore:Sparse invariant")  # torch's Adagrad makes sparse tensors
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_embeddings(name: str) -> None:
    results = []
    for module in (torch.optim, ft):
        torch.manual_seed(0)
        table = torch.nn.Embedding(20, 4, sparse=True)
        optimizer = getattr(module, name)(table.parameters(), lr=0.1)
        for step in range(5):
            optimizer.zero_grad()
            table(torch.tensor([step, 3, 3, 7])).square().sum().backward()
            optimizer.step()
        results.append(table)
    assert_same(results[1], results[0])


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_sparse_and_dense_in_one_model() -> None:
    results = []
    for module in (torch.optim, ft):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Embedding(20, 4, sparse=True), torch.nn.Linear(4, 2))
        optimizer = module.Adagrad(model.parameters(), lr=0.1)
        for step in range(5):
            optimizer.zero_grad()
            model(torch.tensor([step, 3, 3, 7])).square().sum().backward()
            optimizer.step()
        results.append(model)
    assert_same(results[1], results[0])


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_sparse_rows_leave_the_bits_of_arrays(name: str, dtype: Any) -> None:
    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.randn(30, 5, dtype=dtype))
    array = table.detach().numpy().copy()
    optimizer, own = getattr(ft, name)([table], lr=0.1), getattr(fs, name)(array, lr=0.1)
    for count in (4, 40, 0, 7):
        rows, values = torch.randint(30, (count,)), torch.randn(count, 5, dtype=dtype)
        table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=True)
        version = table._version
        optimizer.step()
        assert table._version > version
        own.step(fs.SparseRows(rows.numpy(), values.numpy()))
    assert table.detach().numpy().tobytes() == array.tobytes()
    for key, state in own.state[0].items():
        if isinstance(state, np.ndarray):
            assert optimizer.state[table][key].numpy().tobytes() == state.tobytes()


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize("form", ["two sparse dimensions", "transposed", "bfloat16", "complex"])
def test_sparse_gradients_of_other_forms(form: str) -> None:
    results = []
    for module in (torch.optim, ft):
        torch.manual_seed(1)
        dtype = {"bfloat16": torch.bfloat16, "complex": torch.complex64}.get(form, torch.float32)
        start = torch.randn(6, 8, dtype=dtype)
        table = torch.nn.Parameter(start.t() if form == "transposed" else start)
        optimizer = module.SGD([table], lr=0.5)
        for _ in range(3):
            grad = torch.randn(table.shape, dtype=dtype)
            grad[1::2] = 0
            table.grad = grad.to_sparse(2 if form.startswith("two") else 1)
            optimizer.step()
        results.append(torch.view_as_real(table.detach()) if form == "complex" else table.detach().float())
    torch.testing.assert_close(results[1], results[0], rtol=2e-2 if form == "bfloat16" else 1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_sparse_rows_that_the_table_does_not_have() -> None:
    """Found before a dense parameter of the same model has changed."""
    dense, table = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.zeros(4, 5))
    dense.grad = torch.ones(3)
    optimizer = ft.SGD([dense, table])
    for wrong in ([[1, 4]], [[-1, 2]]):
        table.grad = torch.sparse_coo_tensor(wrong, torch.ones(2, 5), table.shape, check_invariants=False)
        with pytest.raises(ValueError, match=r"indices from .* in dimension 0, needs them from 0 to 3"):
            optimizer.step()
        assert torch.equal(dense, torch.ones(3))
        assert not table.any()


# ---- step in backward ----


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_in_backward(name: str) -> None:
    mine, theirs = network(), network()
    expected = train(theirs, getattr(torch.optim, name)(theirs.parameters(), lr=0.01), 6)
    optimizer = ft.apply_in_backward(mine, getattr(ft, name), lr=0.01)
    assert train(mine, optimizer, 6) == pytest.approx(expected, rel=1e-5)
    assert all(p.grad is None for p in mine.parameters())
    assert optimizer.state_dict()["param_groups"][0]["params"] == [0, 1, 2, 3]
    optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in mine.parameters()]
    train(mine, optimizer, 1)
    if name != "AdamW":
        assert all(torch.equal(a, b) for a, b in zip(before, mine.parameters(), strict=True))


def test_in_backward_frees_gradients() -> None:
    """No more than two layers' gradients exist at a time."""
    layers = [torch.nn.Linear(64, 64, bias=False) for _ in range(8)]
    model = torch.nn.Sequential(*layers)
    optimizer = ft.apply_in_backward(model, ft.Adam)
    alive: list[int] = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
        )
    model(torch.randn(2, 64)).sum().backward()
    assert len(alive) == 8 and max(alive) <= 1
    del optimizer
    model(torch.randn(2, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch 2.10 there is no exchange table: the same result."""
    from fusedstep._core import TensorReader

    capsules = TensorReader(
        None, torch.utils.dlpack.to_dlpack, torch.Tensor, lambda: False, torch._C.DisableTorchFunction
    )
    results = []
    for older in (False, True):
        if older:
            monkeypatch.setattr("fusedstep.torch._building.reader", lambda: capsules)
            monkeypatch.setattr("fusedstep.torch._reading.reader", lambda: capsules)
        model = network()
        optimizer = ft.AdamW(model.parameters(), lr=0.01)
        train(model, optimizer, 2)
        assert optimizer.state
        train(model, optimizer, 2)
        results.append(model)
    assert_same(results[0], results[1], 0, 0)


@pytest.mark.skipif(torch.torch_version.TorchVersion(torch.__version__) < (2, 10), reason="what others lack")
def test_this_torch_has_what_older_ones_lack(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--capsules"):
        pytest.skip("taken away by --capsules")
    assert hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
