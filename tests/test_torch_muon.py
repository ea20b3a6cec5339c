"""Muon for torch: against torch.optim.Muon, against `fusedstep.Muon`, and its products, memory and layouts."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, assert_same, numbers, running

torch: Any = pytest.importorskip("torch")
from torch_training import array, tensor  # noqa: E402

import fusedstep as fs  # noqa: E402
from fusedstep.reference import RULES  # noqa: E402
from fusedstep.reference._newton_schulz import newton_schulz  # noqa: E402

ft: Any = pytest.importorskip("fusedstep.torch")
from fusedstep.torch._directions import TensorDirections, multiplies_bfloat16  # noqa: E402

NS_DTYPES = pytest.mark.parametrize("ns_dtype", [None, torch.float32, torch.bfloat16], ids=str)
SHAPES = ((96, 130), (130, 96), (96, 130), (5, 20, 12), (8, 3, 2, 2), (0, 4), (1, 7), (9,))


def arrays(dtype: Any, seed: int, shapes: Any = SHAPES) -> list[Array]:
    return [numbers(shape, dtype, seed + i, scale=0.1) for i, shape in enumerate(shapes)]


def parameters(dtype: Any, seed: int = 0, shapes: Any = SHAPES) -> list[Any]:
    return [torch.nn.Parameter(tensor(a)) for a in arrays(dtype, seed, shapes)]


def step(optimizer: Any, params: list[Any], grads: list[Any]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else tensor(g).to(p.dtype) if isinstance(g, np.ndarray) else g
    optimizer.step()


# ---- against torch.optim.Muon ----


def test_signature_is_torchs_and_ours() -> None:
    given = inspect.signature(ft.Muon.__init__).parameters
    assert {name: given[name].default for name in RULES["muon"].hypers} == RULES["muon"].hypers
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim has no Muon before torch 2.9")
    theirs = inspect.signature(torch.optim.Muon.__init__).parameters
    assert list(given)[: len(theirs)] == list(theirs)
    assert all(given[name].default == parameter.default for name, parameter in theirs.items())
    assert issubclass(ft.Muon, torch.optim.Muon)
    ours = list(inspect.signature(fs.Muon.__init__).parameters)[2:-2]
    assert list(given)[2:] == [*ours, "rest", "ns_dtype", "options"]


@pytest.mark.parametrize("ns_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_agrees_with_torch(
    adjust: str | None, nesterov: bool, dtype: Any, ns_dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over 50 steps, in parts of how far the parameter went: 1e-4 with products in float32, 0.05 in bfloat16."""
    module = pytest.importorskip("torch.optim._muon")

    def wide(grad: Any, coefficients: Any, steps: int, eps: float) -> Any:
        a, b, c = coefficients
        x = grad.T.clone() if grad.size(0) > grad.size(1) else grad.clone()
        x.div_(x.norm().clamp(min=eps))
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if grad.size(0) > grad.size(1) else x

    if ns_dtype is not torch.bfloat16:
        monkeypatch.setattr(module, "_zeropower_via_newtonschulz", wide)
    shapes = ((20, 50), (50, 20), (16, 16), (20, 50))
    mine, theirs = parameters(dtype, 0, shapes), parameters(dtype, 0, shapes)
    begun = copy.deepcopy(mine)
    options: dict[str, Any] = {"lr": 0.02, "nesterov": nesterov, "adjust_lr_fn": adjust}
    opt, other = ft.Muon(mine, ns_dtype=ns_dtype, **options), torch.optim.Muon(theirs, **options)
    for i in range(50):
        grads = arrays(dtype, 10 * i, shapes)
        step(opt, mine, grads)
        step(other, theirs, grads)
    part = 0.05 if ns_dtype is torch.bfloat16 else 1e-4 if dtype == FLOAT32 else 1e-11
    for p, q, first in zip(mine, theirs, begun, strict=True):
        change = (p - first).abs().max().item()
        torch.testing.assert_close(p, q, rtol=0, atol=part * change)


@pytest.mark.parametrize("which", [(ft.Muon, "torch"), ("torch", ft.Muon)], ids=["into torch's", "into ours"])
def test_state_dicts_are_interchangeable(which: Any) -> None:
    """Half the steps with one class, half with the other; torch's has neither groups of rules nor counts."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim has no Muon before torch 2.9")
    first, second = (torch.optim.Muon if kind == "torch" else kind for kind in which)
    shapes, left = ((20, 50), (50, 20)), []
    for kinds in ((first, second), (torch.optim.Muon, torch.optim.Muon)):
        params = parameters(FLOAT32, 0, shapes)
        saved = None
        for number, kind in enumerate(kinds):
            options = {"ns_dtype": torch.bfloat16} if kind is ft.Muon else {}
            opt = kind(params, lr=0.02 if number == 0 else 0.5, adjust_lr_fn="match_rms_adamw", **options)
            if saved is not None:
                opt.load_state_dict(saved)
                assert opt.param_groups[0]["lr"] == 0.02
            for i in range(5):
                step(opt, params, arrays(FLOAT32, 100 * number + 10 * i, shapes))
            saved = opt.state_dict()
            assert all(state.keys() == {"momentum_buffer"} for state in saved["state"].values())
        left.append(params)
    for p, q in zip(*left, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0.02)


# ---- against fusedstep.Muon: the same bits, given the same products ----

STORAGE: tuple[tuple[Any, dict[str, Any]], ...] = (
    (FLOAT32, {}),
    (FLOAT64, {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 4, "eps": 10.0}),
    (FLOAT32, {"nesterov": False, "momentum": 0.5, "weight_decay": 0.0, "reshape": "flatten"}),
    (FLOAT32, {"momentum": 0.0, "ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 1, "max_grad_norm": 3.0}),
    (FLOAT32, {"state_format": "8bit"}),
    (FLOAT32, {"state_format": "bfloat16", "ema_decay": 0.5, "clip_value": 0.1}),
    (FLOAT64, {"state_format": "8bit", "zero_grads": True}),
    (FLOAT16, {"master": "float32", "max_grad_norm": 0.1}),
    (FLOAT16, {"rounding": "stochastic", "state_format": "8bit"}),
    (BFLOAT16, {"master": "float32", "maximize": True}),
    (BFLOAT16, {"master": "split", "state_format": "8bit", "ema_decay": 0.9}),
    (BFLOAT16, {"rounding": "stochastic", "state_format": "bfloat16", "skip_nonfinite": True}),
)


@pytest.mark.parametrize("rest", [{}, {"rule": "lion", "lr": 1e-3}], ids=str)
@pytest.mark.parametrize(("dtype", "options"), STORAGE, ids=str)
def test_bits_of_the_numpy_side(
    dtype: Any, options: dict[str, Any], rest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_numpy(self: Any, x: Any, work: Any, factor: float, lowest: Any, steps: int, coefficients: Any) -> None:
        memory = [part.numpy() for part in work]
        newton_schulz(x.numpy(), steps=steps, coefficients=coefficients, factor=factor, lowest=lowest, work=memory)

    monkeypatch.setattr(TensorDirections, "_iterate", as_numpy)
    options = {"lr": 0.02, "reshape": "batch", "min_quantized_size": 100, "rest": rest, **options}
    params, others = parameters(dtype), arrays(dtype, 0)
    mine, numpys = ft.Muon(params, ns_dtype=torch.float32, **options), fs.Muon(others, **options)
    with running(None, 2):
        for i in range(4):
            grads: list[Any] = arrays(dtype, 10 * i)
            step(mine, params, grads)
            assert numpys.step(grads)
    for i, p in enumerate(params):
        assert_same(array(p), others[i], f"parameter {i}")
        for name, value in numpys.state[i].items():
            if isinstance(value, np.ndarray):
                own = mine.state[p]["remainder" if name == "master" and options.get("master") == "split" else name]
                assert_same(array(own).reshape(value.shape), value, f"{name} {i}")
    assert mine.grad_norm == numpys.grad_norm


# ---- products ----


@NS_DTYPES
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, BFLOAT16, FLOAT16], ids=str)
def test_dtype_of_the_products(dtype: Any, ns_dtype: Any) -> None:
    """In bfloat16 each of the products rounds to 1 in 256; in float32 they are as those of NumPy."""
    params, others = parameters(dtype), arrays(dtype, 0)
    mine, numpys = (
        ft.Muon(params, lr=0.02, reshape="batch", ns_dtype=ns_dtype),
        fs.Muon(others, lr=0.02, reshape="batch"),
    )
    assert mine.ns_dtype is ns_dtype
    narrow = ns_dtype is torch.bfloat16 or (ns_dtype is None and multiplies_bfloat16() and dtype != FLOAT64)
    kept = {FLOAT16: 2.0**-10, BFLOAT16: 2.0**-7}.get(dtype, 0.0)  # how the parameter itself is rounded
    for i in range(3):
        begun = copy.deepcopy(params)
        grads: list[Any] = arrays(dtype, 10 * i)
        step(mine, params, grads)
        assert numpys.step(grads)
        for p, q, first in zip(params, others, begun, strict=True):
            change = (p - first).abs().max().item() if p.numel() else 0.0
            bound = ((0.05 if narrow else 1e-4) + kept) * change + 1e-12
            np.testing.assert_allclose(array(p).astype(np.float64), q.astype(np.float64), rtol=kept, atol=bound)
            q[...] = array(p)  # so that each step rounds once
    kinds = {memory.dtype for memory in mine._directions(mine._slots).arrays}
    assert kinds == {torch.bfloat16 if narrow else torch.float64 if dtype == FLOAT64 else torch.float32}


@pytest.mark.parametrize("shape", [(3, 40, 60), (3, 60, 40), (2, 30, 30)], ids=str)
@pytest.mark.parametrize(("ns_dtype", "bound"), [(None, 1e-10), (torch.bfloat16, 0.05)], ids=str)
def test_singular_values(shape: tuple[int, ...], ns_dtype: Any, bound: float) -> None:
    """With these coefficients the iterations converge: every expert's step has singular values of 1."""
    grads = numbers(shape, FLOAT64, 3)
    grads[1] *= 1e-3  # every matrix is divided by a norm of its own
    p = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    opt = ft.Muon(
        [p], lr=1.0, weight_decay=0.0, ns_steps=25, ns_coefficients=(1.875, -1.25, 0.375), momentum=0.0,
        adjust_lr_fn="match_rms_adamw", reshape="batch", ns_dtype=ns_dtype,
    )  # fmt: skip
    step(opt, [p], [grads])
    u, _, v = np.linalg.svd(grads, full_matrices=False)
    np.testing.assert_allclose(-array(p) / (0.2 * max(shape[1:]) ** 0.5), u @ v, atol=bound)


@pytest.mark.parametrize("together", [1, 700, 1 << 22])
@NS_DTYPES
def test_many_at_once_or_few(together: int, ns_dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many matrices are multiplied together, and which have a gradient, changes no more than rounding."""
    monkeypatch.setattr(TensorDirections, "together", together)
    shapes = [(12, 20)] * 5
    params, others = parameters(FLOAT32, 0, shapes), parameters(FLOAT32, 0, shapes)
    opt = ft.Muon(params, lr=0.1, ns_dtype=ns_dtype)
    alone = [ft.Muon([p], lr=0.1, ns_dtype=ns_dtype) for p in others]
    for i, present in enumerate(((0, 1, 2, 3, 4), (1, 2, 4), (0,), (4,), (0, 2, 3), ())):
        grads = [g if k in present else None for k, g in enumerate(arrays(FLOAT32, 10 * i, shapes))]
        step(opt, params, grads)
        for k, one in enumerate(alone):
            step(one, [others[k]], [grads[k]])
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6 if ns_dtype is torch.float32 else 5e-3)


@pytest.mark.parametrize(
    ("shape", "reshape", "lay"),
    [
        ((20, 30), None, lambda p: p.t().contiguous().t()),
        ((30, 20), None, lambda p: p.t().contiguous().t()),
        ((8, 3, 4, 5), None, lambda p: p.contiguous(memory_format=torch.channels_last)),
        ((8, 3, 4, 5), "flatten", lambda p: p.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)),
        ((4, 6, 7), "batch", lambda p: p.transpose(1, 2).contiguous().transpose(1, 2)),
        ((2, 3, 6, 7), "batch", lambda p: p.transpose(0, 1).contiguous().transpose(0, 1)),
        ((4, 1, 7), "batch", lambda p: p.transpose(0, 1).contiguous().transpose(0, 1)),
        ((20, 30), None, lambda p: torch.cat([p, p], 1)[:, :30]),
    ],
)
def test_layouts_of_memory(shape: Any, reshape: Any, lay: Any) -> None:
    """A transposed matrix, or one whose columns are in another order, is stepped where it lies."""
    plain = numbers(shape, FLOAT64, 0)
    params = [torch.nn.Parameter(tensor(plain)), torch.nn.Parameter(lay(tensor(plain)))]
    for p in params:
        opt = ft.Muon([p], lr=0.1, adjust_lr_fn="original", reshape=reshape)
        for i in range(3):
            step(opt, [p], [lay(tensor(numbers(shape, FLOAT64, i)))])
    torch.testing.assert_close(params[0], params[1], rtol=0, atol=1e-9)


def test_nothing_is_allocated() -> None:
    """All memory for directions and products is kept from step to step, inside of torch's products as well."""
    params = [torch.nn.Parameter(torch.ones(256, 512)) for _ in range(4)] + [torch.nn.Parameter(torch.ones(64, 300, 8))]
    for p in params:
        p.grad = torch.randn_like(p)
    opt = ft.Muon(params, max_grad_norm=1.0, reshape="batch", ns_dtype=torch.float32)
    opt.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        opt.step()
    events = profile.key_averages()
    assert any("bmm" in event.key for event in events)
    assert sum(max(0, event.self_cpu_memory_usage) for event in events) < params[0].nbytes / 16


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-40, 0.0])
@NS_DTYPES
def test_odd_gradients(value: float, ns_dtype: Any) -> None:
    """A gradient of zeros or of tiny numbers is no direction; of others, none that is finite."""
    params = parameters(FLOAT32, 0, [(6, 5), (5, 6), (3, 4, 4)])
    opt = ft.Muon(params, reshape="batch", ns_dtype=ns_dtype)
    for _ in range(2):
        step(opt, params, [np.full(tuple(p.shape), value, FLOAT32) for p in params])
    finite = all(bool(torch.isfinite(p).all()) for p in params)
    assert finite or value not in (0.0, 1e-40)


@pytest.mark.parametrize("mode", ["inference", "autocast", "meta"])
def test_modes_of_torch(mode: str) -> None:
    """A step within them is the step outside of them."""
    modes = {"inference": torch.inference_mode(), "autocast": torch.autocast("cpu", torch.bfloat16)}
    modes["meta"] = torch.device("meta")
    params, others = parameters(FLOAT32), parameters(FLOAT32)
    opt, other = (ft.Muon(ps, lr=0.1, reshape="batch", ns_dtype=torch.float32) for ps in (params, others))
    for i in range(4):
        grads = [tensor(a) for a in arrays(FLOAT32, 10 * i)]
        step(other, others, grads)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        if i % 2 == 0:
            with modes[mode]:
                opt.step()
        else:
            opt.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
