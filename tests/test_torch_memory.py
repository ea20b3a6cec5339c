"""Tensors whose memory is not what the optimizer for torch was made with, or does not hold their numbers."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

N = 5000
OPTIONS = [
    {},
    {"state_format": "8bit"},
    {"state_format": "bfloat16"},
    {"master": "float32"},
    {"master": "split"},
    {"ema_decay": 0.9},
]


def made(dtype: Any = torch.float32, **options: Any) -> tuple[Any, Any]:
    dtype = torch.bfloat16 if options.get("master") else dtype
    param = torch.nn.Parameter(torch.ones(N, dtype=dtype))
    param.grad = torch.ones(N, dtype=dtype)
    optimizer = ft.Adam([param], lr=0.1, **options)
    optimizer.step()
    return param, optimizer


def tensors_of(state: dict[str, Any]) -> list[str]:
    return [name for name, value in state.items() if torch.is_tensor(value)]


def wrong(tensor: Any) -> dict[str, Any]:
    """Other tensors in a state's place."""
    return {
        "shorter": tensor.flatten()[: tensor.numel() // 2].clone(),
        "longer": torch.zeros(2 * tensor.numel(), dtype=tensor.dtype),
        "int16 or int32": tensor.to(torch.int32 if tensor.dtype == torch.int16 else torch.int16),
        "half": tensor.to(torch.float16 if tensor.dtype != torch.float16 else torch.float32),
        "bytes": torch.zeros(tensor.shape, dtype=torch.uint8),
        "complex": torch.zeros(tensor.shape, dtype=torch.complex64),
        "gaps": torch.zeros(2 * tensor.numel(), dtype=tensor.dtype)[::2].reshape(tensor.shape),
        "expanded": torch.zeros((), dtype=tensor.dtype).expand(tensor.shape),
        "meta": tensor.to("meta"),
        "sparse": tensor.reshape(-1).to_sparse() if tensor.dtype.is_floating_point else tensor.to("meta"),
        "no tensor": 3.5,
        "None": None,
    }


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_states_that_were_replaced(options: dict[str, Any]) -> None:
    """Converted, made anew, or refused before anything was changed; never read as what they are not."""
    for name in tensors_of(made(**options)[1].state[made(**options)[0]]):
        param, optimizer = made(**options)
        for kind in wrong(optimizer.state[param][name]):
            param, optimizer = made(**options)
            state = optimizer.state[param]
            state[name] = wrong(state[name])[kind]
            before = param.detach().clone()
            try:
                optimizer.step()
            except (TypeError, ValueError, RuntimeError, NotImplementedError):
                assert torch.equal(param.detach(), before), (name, kind)
            else:
                assert torch.isfinite(param.detach()).all(), (name, kind)


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
@pytest.mark.parametrize("size", [0, 8])
def test_storage_resized_under_a_state(options: dict[str, Any], size: int) -> None:
    for name in tensors_of(made(**options)[1].state[made(**options)[0]]):
        param, optimizer = made(**options)
        tensor = optimizer.state[param][name]
        if size and tensor.numel() * tensor.element_size() <= size:
            continue
        tensor.untyped_storage().resize_(size)
        before = param.detach().clone()
        with pytest.raises((ValueError, TypeError), match="memory"):
            optimizer.step()
        assert torch.equal(param.detach(), before)


@pytest.mark.parametrize("size", [0, 8])
@pytest.mark.parametrize("which", ["parameter", "gradient"])
def test_storage_resized_under_a_parameter_or_gradient(which: str, size: int) -> None:
    param, optimizer = made()
    (param if which == "parameter" else param.grad).untyped_storage().resize_(size)
    with pytest.raises(ValueError, match="freed or resized"):
        optimizer.step()
    fresh = torch.nn.Parameter(torch.ones(N))
    fresh.grad = torch.ones(N)
    other = ft.Adam([fresh])
    (fresh if which == "parameter" else fresh.grad).untyped_storage().resize_(size)
    with pytest.raises(ValueError, match="freed or resized"):
        other.step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8, torch.float64])
def test_state_in_another_dtype_under_data(dtype: Any) -> None:
    """`.data` puts other memory under a state without replacing the entry."""
    param, optimizer = made()
    state = optimizer.state[param]
    values = state["exp_avg"].clone()
    try:
        state["exp_avg"].data = values.to(dtype)
    except RuntimeError:
        pytest.skip("this torch does not let the dtype change")
    before = param.detach().clone()
    try:
        optimizer.step()
    except (TypeError, ValueError):
        assert torch.equal(param.detach(), before)
    else:
        twin, same = made()
        same.step()
        torch.testing.assert_close(param, twin, rtol=1e-3, atol=1e-3)


VIEWS = {
    "conjugate": lambda: torch.linspace(0, 1, 6, dtype=torch.cfloat).mul(1j).conj(),
    "conjugate transpose": lambda: torch.arange(6.0).to(torch.cfloat).mul(1 + 1j).reshape(2, 3).mH,
    "negative": lambda: torch._neg_view(torch.arange(6.0)),
    "imaginary part": lambda: torch.arange(6.0).to(torch.cfloat).mul(1j).conj().imag,
    "one imaginary part": lambda: torch.full((1,), 2j, dtype=torch.cfloat).conj().imag,
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_parameters_that_are_conjugate_or_negative_views(name: str, rule: str) -> None:
    def descend(module: Any) -> Any:
        param = torch.nn.Parameter(VIEWS[name]())
        options = {"momentum": 0.5} if rule == "SGD" else {}
        optimizer = getattr(module, rule)([param], lr=0.1, **options)
        for _ in range(10):
            optimizer.zero_grad()
            (param - (1 + 2j if param.is_complex() else 1)).abs().square().sum().backward()
            optimizer.step()
        return param.detach().resolve_conj().resolve_neg()

    try:
        expected = descend(torch.optim)
    except RuntimeError:  # torch's Adam takes no conjugates
        expected = None
    got = descend(ft)
    if expected is not None:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    plain = torch.nn.Parameter(VIEWS[name]().resolve_conj().resolve_neg().clone())
    optimizer = getattr(ft, rule)([plain], lr=0.1, **({"momentum": 0.5} if rule == "SGD" else {}))
    for _ in range(10):
        optimizer.zero_grad()
        (plain - (1 + 2j if plain.is_complex() else 1)).abs().square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(got, plain.detach(), rtol=1e-6, atol=1e-6)


def test_gradients_that_are_conjugate_or_negative_views() -> None:
    for size in (1, 5):
        param = torch.nn.Parameter(torch.zeros(size))
        optimizer = ft.SGD([param], lr=1.0)
        param.grad = torch.ones(param.shape)
        optimizer.step()
        param.grad = torch._neg_view(torch.ones(size))
        optimizer.step()
        assert (param == 0).all()
    param = torch.nn.Parameter(torch.zeros(5, dtype=torch.cfloat))
    param.grad = torch.full((5,), 1 + 2j, dtype=torch.cfloat).conj()
    ft.SGD([param], lr=1.0).step()
    assert (param == -(1 - 2j)).all()


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "ema"])
def test_states_that_are_negative_views(name: str) -> None:
    param, optimizer = made(ema_decay=0.9)
    twin, same = made(ema_decay=0.9)
    state = optimizer.state[param]
    state[name] = torch._neg_view(-state[name])
    optimizer.step()
    same.step()
    assert torch.equal(param, twin)
    assert torch.equal(optimizer.state[param][name].resolve_neg(), same.state[twin][name])


def test_states_that_lie_otherwise() -> None:
    values = torch.arange(6.0).reshape(2, 3)
    results = []
    for turned in (False, True):
        param = torch.nn.Parameter(values.clone())
        param.grad = values.clone()
        optimizer = ft.Adam([param], lr=0.1, ema_decay=0.5)
        optimizer.step()
        state = optimizer.state[param]
        if turned:
            for name in ("exp_avg", "ema"):
                state[name] = state[name].t().contiguous().t()
        optimizer.step()
        results.append((param.detach().clone(), optimizer.state[param]["ema"].contiguous()))
    for straight, turned_one in zip(*results, strict=True):
        assert torch.equal(straight, turned_one)


def test_codes_with_gaps_between_them() -> None:
    param, optimizer = made(state_format="8bit")
    twin, same = made(state_format="8bit")
    state = optimizer.state[param]
    state["exp_avg"] = torch.stack((state["exp_avg"], state["exp_avg_sq"]), 1)[:, 0]
    optimizer.step()
    same.step()
    assert torch.equal(param, twin)


@pytest.mark.parametrize("name", ["step", "d", "d_max", "d_numerator"])
@pytest.mark.parametrize("other", ["another's", "param", "s"])
def test_a_number_in_other_memory(name: str, other: str) -> None:
    """They are written after the step, over what is there."""
    params = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = ft.Prodigy(params)
    optimizer.step()
    states = [optimizer.state[param] for param in params]
    states[0]["s"][0] = params[0].data[0] = 3.0  # a step count too
    states[0][name] = {"another's": states[1][name], "param": params[0].data[0], "s": states[0]["s"][0]}[other]
    before = copy.deepcopy([[param.data for param in params], states])
    with pytest.raises(ValueError, match=r"got memory that overlaps params.*, needs memory of its own"):
        optimizer.step()
    assert str([[param.data for param in params], states]) == str(before)


def test_a_warning_that_is_an_error_leaves_a_counted_step() -> None:
    whole = torch.ones(2 * N)
    for param in (torch.nn.Parameter(torch.ones(N)), torch.nn.Parameter(whole[::2])):  # one with gaps
        param.grad = torch.ones(N)
        param.grad[5] = np.nan
        optimizer = ft.Adam([param], state_format="8bit", lr=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for k in range(1, 4):
                with pytest.raises(RuntimeWarning, match="8-bit"):
                    optimizer.step()
                assert optimizer.state[param]["step"] == k
                assert abs(float(param.detach()[-1]) - (1 - 0.1 * k)) < 1e-3


def test_a_model_that_refers_to_its_optimizer_is_collected() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = ft.AdamW(model.parameters(), ema_decay=0.9)
    model.optimizer = optimizer
    for param in model.parameters():
        param.owner = optimizer
    optimizer.param_groups[0]["model"] = model
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    optimizer.state[model.weight]["mine"] = optimizer
    watched = weakref.ref(model), weakref.ref(optimizer), weakref.ref(optimizer.state[model.weight]["exp_avg"])
    del model, optimizer, param
    gc.collect()
    assert [reference() for reference in watched] == [None, None, None]


@pytest.mark.parametrize("size", [0, 8])
def test_storage_resized_under_a_gradient_with_gaps(size: int) -> None:
    param = torch.nn.Parameter(torch.ones(N))
    param.grad = torch.ones(2 * N)[::2]
    optimizer = ft.Adam([param])
    optimizer.step()
    before = param.detach().clone()
    param.grad.untyped_storage().resize_(size)
    with pytest.raises(ValueError, match="freed or resized"):
        optimizer.step()
    assert torch.equal(param.detach(), before)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "master": "float32"}])
def test_data_of_another_shape_says_both_shapes_and_what_to_do(options: dict[str, Any]) -> None:
    param = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16 if options else torch.float32))
    optimizer = ft.Adam([("weight", param)], lr=0.1, **options)
    param.grad = torch.ones_like(param)
    optimizer.step()
    param.data = torch.ones(3, dtype=param.dtype)
    param.grad = torch.ones_like(param)
    with pytest.raises(ValueError) as caught:
        optimizer.step()
    for part in ('params["weight"]: got shape (3,) now', "has shape (4,) from before", "del optimizer.state[param]"):
        assert part in str(caught.value)
    del optimizer.state[param]
    optimizer.step()
    assert (param < 1).all() and optimizer.state[param]["exp_avg"].shape == (3,)


@pytest.mark.parametrize("where", ["step", "exp_avg", "exp_avg_sq", "not the rule's"])
@pytest.mark.parametrize("offload", [False, True])
def test_states_whose_memory_was_freed_are_not_read(where: str, offload: bool, tmp_path: Any) -> None:
    """torch itself reads beyond the end of such a tensor."""
    param = torch.nn.Parameter(torch.ones(3000))
    param.grad = torch.ones(3000)
    optimizer: Any = ft.CPUOffload(ft.Adam, [param]) if offload else ft.Adam([param])
    optimizer.step()
    sound, saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    freed = saved["state"][0].setdefault(where, torch.ones(3000))
    freed.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="freed or resized"):
        optimizer.load_state_dict(saved)
    optimizer.load_state_dict(sound)
    optimizer.state[param].setdefault(where, torch.ones(3000)).untyped_storage().resize_(0)
    before = param.detach().clone()
    uses: list[Callable[[], object]] = [
        lambda: copy.deepcopy(optimizer),
        lambda: pickle.dumps(optimizer),
        lambda: optimizer.state_dict(state_format="bfloat16"),
        lambda: optimizer.save(tmp_path / "run.npz"),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="freed or resized"):
            use()
    assert torch.equal(param, before)
    optimizer.load_state_dict(sound)
    optimizer.step()


def test_a_parameter_whose_memory_was_freed_is_not_copied() -> None:
    param, frozen = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3000), requires_grad=False)
    optimizer = ft.Adam([param, frozen])
    frozen.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"params\[0\]\[1\]: got memory that was freed or resized"):
        copy.deepcopy(optimizer)


@pytest.mark.parametrize("name", ["Adam", "AdamMini", "Adafactor", "Prodigy", "Muon", "ScheduleFreeSGD"])
def test_groups_and_states_that_are_none(name: str) -> None:
    param = torch.nn.Parameter(torch.ones(3, 4))
    param.grad = torch.ones(3, 4)

    def made() -> Any:
        optimizer: Any = getattr(ft, name)([param])
        optimizer.step()
        return optimizer

    new = torch.nn.Parameter(torch.ones(2, 2))
    for wrong, needed in (([], r"got list"), ({"lr": 1.0}, "got a dict without it")):
        optimizer = made()
        optimizer.param_groups.append(wrong)
        uses: list[Callable[[], object]] = [
            optimizer.step,
            optimizer.state_dict,
            functools.partial(pickle.dumps, optimizer),
            functools.partial(optimizer.add_param_group, {"params": [new]}),
        ]
        before = param.detach().clone()
        for use in uses:
            with pytest.raises(TypeError, match=rf'param_groups\[1\]: {needed}, needs a dict with an entry "params"'):
                use()
        assert torch.equal(param, before)
        del optimizer.param_groups[1]
        optimizer.step()
    optimizer = made()
    optimizer.state[param] = None
    for use in (optimizer.step, optimizer.state_dict, functools.partial(pickle.dumps, optimizer), optimizer.ema_params):
        with pytest.raises(TypeError, match="state: got NoneType, needs a dict of dicts"):
            use()
    optimizer = made()
    optimizer.param_groups[0]["capturable"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r'param_groups\[0\]\["capturable"\]: got a tensor of 2 elements'):
        optimizer.step()
    if name == "Muon":
        for option in ("ns_steps", "ns_coefficients", "eps"):
            optimizer = made()
            del optimizer.param_groups[0][option]
            with pytest.raises(ValueError, match=rf'param_groups\[0\]: got no entry "{option}"'):
                optimizer.step()
