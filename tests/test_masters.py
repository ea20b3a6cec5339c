"""A 16-bit parameter that was loaded or clipped between steps takes effect, whatever its float32 master says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import ROWS, Twin, assert_same, functional_arrays, hypers, running

import fusedstep as fs
from fusedstep import formats

BFLOAT16: Any = formats.bfloat16()
DTYPES = [np.float16, BFLOAT16]
SPECIAL = (-0.0, 0.0, np.nan, -3.5, 1e-7)


def stored(size: int, dtype: Any, seed: int) -> tuple[Any, Any]:
    """Parameters and their masters."""
    master = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return master.astype(dtype), master


def change(param: Any, seed: int, dtype: Any) -> None:
    """Write every third element, as clipping does, and some numbers that are easily taken for others."""
    rng = np.random.default_rng(seed)
    param[::3] = np.clip(param[::3].astype(np.float32), -0.5, 0.5).astype(dtype)
    for value in SPECIAL:
        param[rng.integers(0, param.size)] = value


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_master_counts_where_the_parameter_is_its_rounding(dtype: Any) -> None:
    param, master = stored(3000, dtype, 0)
    master[:4] = [np.nan, -0.0, np.inf, 1e-40]
    param[:4] = master[:4].astype(dtype)
    assert_same(formats.master_values(param, master), master)
    written = param.copy()
    written[::7] = 0.25
    values = formats.master_values(written, master)
    assert (values[::7] == 0.25).all()
    values[::7] = master[::7]
    assert_same(values, master)
    zeros = np.zeros(2, dtype)
    assert not np.signbit(formats.master_values(zeros, np.array([-0.0, 0.0], np.float32))).any()


@pytest.mark.parametrize("isa", fs.available_isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", sorted(ROWS))
def test_every_rule_starts_from_the_parameter(rule: str, dtype: Any, isa: str) -> None:
    """The first pass of rules with a trust ratio sees the same numbers as the second."""
    sizes = (3, 300, 40000)
    kept = [stored(n, dtype, i) for i, n in enumerate(sizes)]
    given: dict[str, Any] = functional_arrays(rule, {}, [m for _, m in kept], 7)
    options = {"clip_value": 1.0, "ema_decay": 0.5, "maximize": True}
    left = []
    with running(isa, 2):
        for module in (fs.functional, fs.reference):
            arrays = {name: [value.copy() for value in values] for name, values in given.items()}
            params, masters = [p.copy() for p, _ in kept], [m.copy() for _, m in kept]
            averages = [m.copy() for m in masters]
            for step in (1, 2, 3):
                for i, param in enumerate(params):
                    change(param, 10 * step + i, dtype)
                    param[np.isnan(param.astype(np.float32))] = 0 if rule in ("lamb", "lars") else np.nan
                grads = [np.random.default_rng(step).standard_normal(n).astype(dtype) for n in sizes]
                lr = {"lr": 1e-3} if "lr" in hypers(rule, {}) else {}
                getattr(module, rule)(params, grads, step=step, master=masters, ema=averages, **arrays, **options, **lr)
            left.append([*params, *masters, *averages, *(a for values in arrays.values() for a in values)])
    for ours, theirs in zip(*left, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_start_from_the_parameter(dtype: Any) -> None:
    table, wide = (a.reshape(30, 100) for a in stored(3000, dtype, 3))
    left = []
    for function in (fs.functional.sparse_adam, fs.reference.sparse_adam):
        param, master = table.copy(), wide.copy()
        moments = [np.zeros(param.shape, np.float32) for _ in range(2)]
        for step in (1, 2):
            change(param.reshape(-1), step, dtype)
            before = param.copy()
            values = np.random.default_rng(step).standard_normal((4, 100)).astype(dtype)
            rows = np.array([3, 9, 3, 20])
            function(param, fs.SparseRows(rows, values), *moments, step=step, lr=0.1, master=master)
            others = np.delete(np.arange(30), rows)
            assert_same(param[others], before[others])
        left.append([param, master, *moments])
    for ours, theirs in zip(*left, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize(("name", "dtype"), [("float32", np.float16), ("float32", BFLOAT16), ("split", BFLOAT16)])
@pytest.mark.parametrize("storage", [{}, {"state_format": "8bit", "ema_decay": 0.9}])
def test_loaded_weights_stay(name: Any, dtype: Any, storage: dict[str, Any]) -> None:
    param = np.ones(5000, dtype)
    optimizer = fs.AdamW(param, lr=0.0, weight_decay=0.0, master=name, **storage)
    optimizer.step(np.ones_like(param))
    param[...] = np.arange(5000).astype(dtype)
    optimizer.step(np.ones_like(param))
    assert_same(param, np.arange(5000).astype(dtype))


@pytest.mark.parametrize("size", [1, 7, 300, 5000])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0])
@pytest.mark.parametrize("storage", [{}, {"state_format": "bfloat16"}, {"state_format": "8bit"}])
def test_weights_set_to_a_number_beside_an_old_remainder(size: int, value: float, storage: dict[str, Any]) -> None:
    """Weights that were cut off or pruned: no remainder makes a NaN of them."""
    rng = np.random.default_rng(0)
    param = rng.standard_normal(size).astype(BFLOAT16)
    optimizer = fs.AdamW(param, lr=1e-2, weight_decay=0.0, master="split", min_quantized_size=0, **storage)
    for _ in range(2):
        optimizer.step(rng.standard_normal(size).astype(BFLOAT16))
    assert size < 300 or (optimizer.state[0]["remainder"] < 0).any()
    param[...] = value
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(np.zeros(size, BFLOAT16))
    np.testing.assert_allclose(param.astype(np.float32), value, atol=2.0**-126)


@pytest.mark.parametrize("isa", fs.available_isas())
def test_every_pair_of_a_parameter_and_a_remainder_is_read_alike(isa: str) -> None:
    upper = np.array([0x0000, 0x8000, 0x0001, 0x7F80, 0xFF80, 0x7F7F, 0xFF7F, 0x3F80, 0x7FC0], np.uint16)
    lower = np.array([-32768, -1, 0, 1, 32767], np.int16)
    bits, remainder = (a.reshape(-1).repeat(60) for a in np.meshgrid(upper, lower))
    before = fs.isa()
    fs.set_isa(isa)
    try:
        results = []
        for face in (fs.functional, fs.reference):
            param, low = bits.copy().view(BFLOAT16), remainder.copy()
            moments = [np.zeros(bits.size, np.float32) for _ in range(2)]
            face.adamw(param, np.zeros(bits.size, BFLOAT16), *moments, step=1, lr=0.1, weight_decay=0.0, master=low)
            results.append((param, low))
    finally:
        fs.set_isa(before)
    (ours, ours_low), (theirs, theirs_low) = results
    assert_same(ours, theirs)
    assert ours_low.tobytes() == theirs_low.tobytes()
    finite = np.isfinite(bits.view(BFLOAT16).astype(np.float32))
    assert not np.isnan(ours.astype(np.float32)[finite]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipped_weights_of_a_class(dtype: Any) -> None:
    params = [stored(n, dtype, n)[0] for n in (7, 3000)]
    optimizer = fs.NAdam(params, lr=0.01, master="float32", state_format="8bit", min_quantized_size=256)
    twin = Twin(optimizer)
    for step in range(4):
        for param, mine in zip(params, twin.slots, strict=True):
            param[...] = np.clip(param.astype(np.float32), -0.5, 0.5).astype(dtype)
            mine["arrays"]["param"][...] = param
        grads: list[Any] = [np.random.default_rng(step).standard_normal(p.size).astype(dtype) for p in params]
        optimizer.step(grads)
        assert twin.step(grads)
        twin.check(f"step {step}")


@pytest.mark.parametrize("size", [1, 300, 70000])
def test_an_overflow_is_judged_by_the_parameter(size: int) -> None:
    """A float16 parameter set back to 1 does not overflow, though its master would."""
    param = np.full(size, 65000, np.float16)
    optimizer = fs.SGD(param, lr=1.0, master="float32")
    param[...] = 1
    assert optimizer.step(np.full(size, -600, np.float16))
    assert (param == 601).all()
    param[...] = 65000
    with pytest.raises(OverflowError, match="nothing was changed"):
        optimizer.step(np.full(size, -600, np.float16))
    assert (param == 65000).all()


def test_a_split_master_takes_over_halves() -> None:
    """Exactly between two bfloat16 a float32 master's parameter is even, a split one's is farther from zero."""
    halfway = np.array([0x3F800000, 0x3F810000, 0xBF800000], np.uint32) + np.uint32(0x8000)
    full = fs.SGD(halfway.view(np.float32).astype(BFLOAT16), lr=1.0, master="float32")
    full._slots[0].master[...] = halfway.view(np.float32)  # type: ignore[index]
    half = fs.SGD(full._slots[0].param.copy(), lr=1.0, master="split")
    back = fs.SGD(full._slots[0].param.copy(), lr=1.0, master="float32")
    half.load_state_dict(full.state_dict())
    assert_same(half._slots[0].values(), halfway.view(np.float32))
    back._slots[0].param[...] = half._slots[0].param
    back.load_state_dict(half.state_dict())
    assert_same(back._slots[0].values(), halfway.view(np.float32))
    assert_same(back._slots[0].param, full._slots[0].param)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_loaded_model_in_torch(name: str, offload: bool) -> None:
    torch = pytest.importorskip("torch")
    from fusedstep.torch import AdamW, CPUOffload

    model = torch.nn.Linear(30, 20).to(getattr(torch, name))
    options: dict[str, Any] = {"lr": 0.0, "weight_decay": 0.0, "master": "float32"}
    make: Any = CPUOffload if offload else lambda cls, *args, **kw: cls(*args, **kw)
    optimizer = make(AdamW, model.parameters(), **options)

    def step() -> None:
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()

    step()
    other = {key: value + 1 for key, value in model.state_dict().items()}
    model.load_state_dict(other)
    step()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=0)
