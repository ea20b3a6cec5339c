"""Muon: native passes against the reference, the reference against torch, the rest against AdamW."""

from __future__ import annotations

import copy
import itertools
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, Twin, assert_same, numbers, running, snapshot

import fusedstep as fs
from fusedstep import _directions
from fusedstep.reference._newton_schulz import as_matrices, newton_schulz

SHAPES = ((96, 130), (130, 96), (96, 130), (5, 20, 12), (8, 3, 2, 2), (0, 4), (1, 7))
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"nesterov": False, "momentum": 0.5, "weight_decay": 0.0, "reshape": "flatten"},
    {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 4, "eps": 10.0},
    {"momentum": 0.0, "ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 1, "adjust_lr_fn": "original"},
)


def arrays(dtype: Any, seed: int, shapes: Any = SHAPES) -> list[Array]:
    return [numbers(shape, dtype, seed + i, scale=0.1) for i, shape in enumerate(shapes)]


def model(dtype: Any = FLOAT32, seed: int = 0) -> dict[str, Any]:
    """Matrices and others, among each other."""
    shapes = {"W": (64, 96), "b": (96,), "gain": (3, 2, 2), "V": (64, 96), "c": (5,), "K": (6, 3, 2, 2)}
    return {name: numbers(shape, dtype, seed + i, scale=0.1) for i, (name, shape) in enumerate(shapes.items())}


# ------------------------------------------------------------------------------------------ native and reference


@pytest.mark.parametrize("isa", fs.available_isas())
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_functions_are_equal(options: dict[str, Any], dtype: Any, isa: str) -> None:
    options = {"reshape": "batch"} | options
    compute = FLOAT64 if dtype == FLOAT64 else FLOAT32
    left = []
    with running(isa, 2):
        for module in (fs.functional, fs.reference):
            params, states = arrays(dtype, 0), [np.zeros(shape, compute) for shape in SHAPES]
            for step in (1, 2, 3):
                module.muon(params, arrays(dtype, 10 * step), states, step=step, lr=0.02, max_grad_norm=3.0, **options)
            left.append([params, states])
    assert_same(left[0], left[1])


STORAGE: tuple[tuple[Any, dict[str, Any]], ...] = (
    (FLOAT32, {"state_format": "8bit"}),
    (FLOAT32, {"state_format": "bfloat16", "ema_decay": 0.5, "clip_value": 0.1}),
    (FLOAT64, {"state_format": "8bit", "zero_grads": True}),
    (FLOAT16, {"master": "float32", "max_grad_norm": 0.1}),
    (FLOAT16, {"rounding": "stochastic", "state_format": "8bit"}),
    (BFLOAT16, {"master": "float32", "maximize": True}),
    (BFLOAT16, {"master": "split", "state_format": "8bit", "ema_decay": 0.9}),
    (BFLOAT16, {"rounding": "stochastic", "state_format": "bfloat16", "skip_nonfinite": True}),
)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("dtype", "options"), STORAGE, ids=str)
def test_formats(dtype: Any, options: dict[str, Any], threads: int) -> None:
    """Everything that a step can do beside the rule, as the reference has it."""
    params = arrays(dtype, 0)
    with running(None, threads):
        opt = fs.Muon(params, lr=0.02, reshape="batch", min_quantized_size=100, **options)
        twin = Twin(opt)
        for step in range(4):
            grads: list[Any] = arrays(dtype, 10 * step)
            assert opt.step([g.copy() for g in grads], grad_scale=2.0) and twin.step(grads, 2.0)
            twin.check(f"step {step}")


def test_some_gradients() -> None:
    """Matrices without a gradient stay as they are, whichever of the equal ones they are."""
    params = arrays(FLOAT32, 0, [(12, 20)] * 5)
    opt = fs.Muon(params, lr=0.1)
    twin = Twin(opt)
    for present in ((0, 1, 2, 3, 4), (1, 2, 4), (0,), (4,), (0, 2, 3), ()):
        grads: list[Any] = [numbers((12, 20), FLOAT32, i) if i in present else None for i in range(5)]
        assert opt.step(grads) and twin.step(grads)
        twin.check(str(present))


def test_many_at_once_or_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many matrices are worked on together changes nothing."""
    left = []
    for together in (1, 700, 1 << 22):
        monkeypatch.setattr(_directions.Directions, "together", together)
        params = arrays(FLOAT32, 0)
        opt = fs.Muon(params, lr=0.1, reshape="batch")
        for step in range(3):
            opt.step(arrays(FLOAT32, 10 * step))
        left.append(params)
    assert_same(left[0], left[1])
    assert_same(left[0], left[2])


def test_schedules() -> None:
    opt = fs.Muon(arrays(FLOAT32, 0), lr=lambda t: 0.1 / (t + 1), ns_steps=lambda t: 5 - t, reshape="batch")  # type: ignore[arg-type]
    twin = Twin(opt)
    for step in range(3):
        grads: list[Any] = arrays(FLOAT32, 10 * step)
        assert twin.step(grads) and opt.step(grads)  # both at the same count
        twin.check()


# ------------------------------------------------------------------------------------------- what it is to compute


def test_singular_values() -> None:
    for shape in ((3, 40, 60), (3, 60, 40), (2, 30, 30)):
        x = numbers(shape, FLOAT64, 3)
        u, _, v = np.linalg.svd(x, full_matrices=False)
        newton_schulz(x, steps=25, coefficients=(1.875, -1.25, 0.375), factor=2.0, lowest=np.zeros(shape[0]))
        # With these coefficients it converges: all singular values become 1.
        np.testing.assert_allclose(x, 2.0 * u @ v, atol=1e-10)


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_torch(adjust: str | None, nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.optim.Muon over 100 steps. Its products are in bfloat16; in float32 both agree to 1e-4 of the change."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("torch.optim._muon")

    def in_float32(grad: Any, coefficients: Any, steps: int, eps: float) -> Any:
        a, b, c = coefficients
        x = grad.T.clone() if grad.size(0) > grad.size(1) else grad.clone()
        x.div_(x.norm().clamp(min=eps))
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if grad.size(0) > grad.size(1) else x

    shapes = ((20, 50), (50, 20), (16, 16))
    mine = arrays(FLOAT32, 0, shapes)
    begun = copy.deepcopy(mine)
    options: dict[str, Any] = {"lr": 0.02, "nesterov": nesterov, "adjust_lr_fn": adjust}
    theirs = {kind: [torch.nn.Parameter(torch.tensor(p)) for p in mine] for kind in ("float32", "bfloat16")}
    opt, others = fs.Muon(mine, **options), {k: torch.optim.Muon(ps, **options) for k, ps in theirs.items()}
    own = module._zeropower_via_newtonschulz
    for step in range(100):
        grads = arrays(FLOAT32, 10 * step, shapes)
        assert opt.step(grads)
        for kind, params in theirs.items():
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.tensor(g)
            monkeypatch.setattr(module, "_zeropower_via_newtonschulz", in_float32 if kind == "float32" else own)
            others[kind].step()
    for i, p in enumerate(mine):
        change = np.abs(p - begun[i]).max()
        np.testing.assert_allclose(p, theirs["float32"][i].detach().numpy(), rtol=0, atol=1e-4 * change)
        np.testing.assert_allclose(p, theirs["bfloat16"][i].detach().numpy(), rtol=0, atol=0.05 * change)


def test_batches_and_convolutions() -> None:
    """Experts are stepped as matrices alone, a convolution as the matrix that it is."""
    experts, grads = numbers((4, 10, 6), FLOAT64, 0), numbers((4, 10, 6), FLOAT64, 1)
    grads[2] *= 1e-3  # every matrix is divided by a norm of its own
    alone, conv, flat = [e.copy() for e in experts], experts.reshape(4, 10, 3, 2).copy(), experts.reshape(4, 60).copy()
    opts = (fs.Muon(experts, reshape="batch"), fs.Muon(alone), fs.Muon(conv), fs.Muon(flat))
    for given, opt in zip((grads, list(grads), grads.reshape(conv.shape), grads.reshape(4, 60)), opts, strict=True):
        assert opt.step(given)
    np.testing.assert_allclose(experts, alone, rtol=1e-9)
    assert_same(conv.reshape(4, 60), flat)


def test_which_parameters_are_matrices() -> None:
    for shape in ((), (3,), (3, 2, 2)):
        assert as_matrices(shape, None) is None
    for reshape, found in ((None, (1, 6, 12)), ("flatten", (1, 6, 12)), ("batch", (18, 2, 2))):
        assert as_matrices((6, 3, 2, 2), reshape) == found
    opt = fs.Muon(model())
    assert [group["rule"] for group in opt.param_groups] == ["muon", "adamw"]
    assert [len(group["params"]) for group in opt.param_groups] == [3, 3]
    assert [view.keys() - {"step"} for view in opt.state][:2] == [{"momentum_buffer"}, {"exp_avg", "exp_avg_sq"}]


# ------------------------------------------------------------------------------------------------------- the rest

REST: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 3e-4, "betas": (0.8, 0.9), "amsgrad": True},
    {"rule": "lion", "lr": 1e-4},
    {"rule": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"rule": "lamb", "lr": 0.1},
    {"rule": "nadam"},
)


@pytest.mark.parametrize(
    "options", [{}, {"max_grad_norm": 0.5, "skip_nonfinite": True}, {"state_format": "8bit"}], ids=str
)
@pytest.mark.parametrize("rest", REST, ids=str)
def test_rest(rest: dict[str, Any], options: dict[str, Any]) -> None:
    """The rest is what its own optimizer makes of it: with one clip, and one skip, for all parameters."""
    kinds = {"adamw": fs.AdamW, "lion": fs.Lion, "sgd": fs.SGD, "lamb": fs.LAMB}
    kinds |= {"nadam": fs.NAdam}
    kind: Any = kinds[rest.get("rule", "adamw")]
    mine, theirs = model(), model()
    opt = fs.Muon(mine, min_quantized_size=50, rest=rest, **options)
    given = {name: value for name, value in rest.items() if name != "rule"}
    other = kind(theirs, min_quantized_size=50, **given, **options)  # matrices as well, for the norm of all
    for step in range(5):
        grads = model(seed=10 * step)
        if step == 2 and "skip_nonfinite" in options:
            grads["W"][3, 4] = np.inf
            before = snapshot(opt)
            assert not opt.step(grads) and not other.step(grads)
            assert_same(snapshot(opt), before)
        else:
            assert opt.step(grads) and other.step(grads)
        assert opt.grad_norm == other.grad_norm
    for i, slot in enumerate(opt._slots):
        if slot.group == 1:
            assert_same(slot.param, other._slots[i].param, slot.path)
            assert_same(slot.states, other._slots[i].states, slot.path)
        else:
            assert not np.array_equal(slot.param, other._slots[i].param)
    assert opt.skipped_steps == other.skipped_steps == ("skip_nonfinite" in options)


def test_only_the_rest() -> None:
    mine, theirs = numbers(30, FLOAT32, 0), numbers(30, FLOAT32, 0)
    opt, other = fs.Muon(mine), fs.AdamW(theirs)
    assert opt.step(np.ones(30, FLOAT32)) and other.step(np.ones(30, FLOAT32))
    assert_same(mine, theirs)


def test_groups() -> None:
    """A group with a rule stays one; others are divided, and gradients have the structure that was given."""
    given: list[Any] = [model(), model(seed=5), numbers((4, 4), FLOAT32, 0)]
    opt = fs.Muon(
        [
            {"params": given[0], "lr": 0.5, "ema_decay": 0.9},
            {"params": given[1], "rule": "adamw", "lr": 0.25},
            {"params": given[2], "rule": "muon"},
        ],
        lr=0.02,
        rest={"lr": 3e-4, "betas": (0.5, 0.5)},
    )
    assert [(g["rule"], g["lr"], g["ema_decay"]) for g in opt.param_groups] == [
        ("muon", 0.5, 0.9),
        ("adamw", 3e-4, 0.9),
        ("adamw", 0.25, None),
        ("muon", 0.02, None),
    ]
    assert opt.param_groups[2]["betas"] == (0.5, 0.5)
    opt.param_groups[0]["lr"] = 0.0
    opt.param_groups[0]["weight_decay"] = 0.0
    before = copy.deepcopy(given)
    assert opt.step([model(seed=1), model(seed=2), np.ones((4, 4), FLOAT32)])
    assert_same(given[0]["W"], before[0]["W"])
    assert not np.array_equal(given[0]["b"], before[0]["b"])
    with pytest.raises(ValueError, match="got matrices and others, needs one kind"):
        opt.add_param_group({"params": {"more": np.ones((3, 2), FLOAT32), "c": np.ones(2, FLOAT32)}})
    more = [np.ones((3, 2), FLOAT32), np.ones(2, FLOAT32)]
    for one in more:
        opt.add_param_group({"params": one.copy()})
    assert [g["rule"] for g in opt.param_groups[4:]] == ["muon", "adamw"]
    assert [slot.path for slot in opt._slots[-3:]] == ["[2]", "[3]", "[4]"]
    assert opt.step([model(seed=1), model(seed=2), np.ones((4, 4), FLOAT32), *more])
    opt.lr = 0.125  # of all groups
    assert {g["lr"] for g in opt.param_groups} == {0.125}
    opt.momentum = 0.5  # of those that have it
    assert [g.get("momentum") for g in opt.param_groups] == [0.5, None, None, 0.5, 0.5, None]
    assert "momentum" not in opt.param_groups[1]
    with pytest.raises(ValueError, match="has no average"):
        opt.ema_params()


def test_groups_by_a_condition() -> None:
    """What `fs.groups` chose is divided further; a rule among its options is kept."""
    params, other = model(), model()
    given = fs.groups(params, where=lambda path, p: "V" in path, rule="adamw", lr=0.125)
    opt = fs.Muon(given, lr=0.02, grads=model(seed=3))
    rules = [(g["rule"], len(g["params"])) for g in opt.param_groups]
    assert rules == [("muon", 2), ("adamw", 3), ("adamw", 1)]
    plain = fs.AdamW(other["V"], lr=0.125)
    assert opt.step() and plain.step(model(seed=3)["V"])
    assert_same(params["V"], other["V"])
    again = pickle.loads(pickle.dumps(opt))
    assert opt.step() and again.step()
    assert_same(snapshot(again), snapshot(opt))


def test_averages() -> None:
    params = model()
    opt = fs.Muon(params, lr=0.1, ema_decay=0.5, rest={"lr": 0.1})
    begun = copy.deepcopy(params)
    opt.step(model(seed=3))
    averages = opt.ema_params()
    for name, average in averages.items():
        np.testing.assert_allclose(average, 0.5 * begun[name] + 0.5 * params[name], rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------------------------ saving and copying


@pytest.mark.parametrize("state_format", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy"])
def test_resume(way: str, state_format: Any) -> None:
    """A run that is saved and resumed goes on with the same bits."""
    options: dict[str, Any] = {"state_format": state_format, "min_quantized_size": 50, "rounding": "stochastic"}
    params = model(BFLOAT16)
    opt = fs.Muon(params, lr=0.1, max_grad_norm=1.0, rest={"lr": 0.01}, **options)
    for step in range(3):
        opt.step(model(BFLOAT16, 10 * step))
    if way == "state_dict":
        other = fs.Muon(copy.deepcopy(params), lr=0.5, max_grad_norm=None, **options)
        other.load_state_dict(opt.state_dict())
    else:
        other = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
    for step in range(3, 6):
        assert opt.step(model(BFLOAT16, 10 * step)) and other.step(model(BFLOAT16, 10 * step))
    assert_same(snapshot(other), snapshot(opt))
    assert [dict(g, params=0) for g in other.param_groups] == [dict(g, params=0) for g in opt.param_groups]


def test_loading_by_name() -> None:
    """States go to the parameters of the same name, in whatever order they are."""
    params = model()
    opt = fs.Muon(params, lr=0.1)
    opt.step(model(seed=1))
    turned = dict(reversed(list(copy.deepcopy(params).items())))
    other = fs.Muon(turned)
    other.load_state_dict(opt.state_dict())
    assert opt.step(model(seed=2)) and other.step(dict(reversed(list(model(seed=2).items()))))
    assert_same(turned, dict(reversed(list(params.items()))))


def test_loading_torchs() -> None:
    """A state dict of torch.optim.Muon is one of the matrices."""
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim has no Muon before torch 2.9")
    params = [torch.nn.Parameter(torch.tensor(p)) for p in arrays(FLOAT32, 0, [(8, 6), (6, 8)])]
    theirs = torch.optim.Muon(params, lr=0.125, momentum=0.5, adjust_lr_fn="match_rms_adamw")
    for p in params:
        p.grad = torch.ones_like(p)
    theirs.step()
    mine = fs.Muon([p.detach().numpy().copy() for p in params])
    mine.load_state_dict(theirs.state_dict())
    group = mine.param_groups[0]
    assert (group["lr"], group["momentum"], group["adjust_lr_fn"]) == (0.125, 0.5, "match_rms_adamw")
    for view, p in zip(mine.state, params, strict=True):
        assert_same(view["momentum_buffer"], theirs.state[p]["momentum_buffer"].numpy())


def test_loading_errors() -> None:
    opt, other = fs.Muon(model()), fs.Muon(model(), rest={"rule": "lion"})
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r"\"rule\"\]: got 'lion', needs 'adamw'"):
        opt.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="got one of adamw, needs one of muon"):
        opt.load_state_dict(fs.AdamW(model()).state_dict())
    assert_same(snapshot(opt), before)


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, "momentum: got 1.0, needs >= 0 and < 1"),
        ({"eps": 0.0}, ValueError, "eps: got 0.0, needs > 0 and finite"),
        ({"ns_steps": 0}, ValueError, "ns_steps: got 0, needs >= 1 and <= 99"),
        ({"ns_steps": 2.0}, TypeError, r"ns_steps: got 2.0 \(float\), needs an integer"),
        ({"ns_coefficients": (1, 2)}, ValueError, "ns_coefficients: got 2 numbers, needs 3 real numbers"),
        ({"ns_coefficients": (1, 2, np.nan)}, ValueError, r"ns_coefficients\[2\]: got nan, needs finite"),
        ({"adjust_lr_fn": "rms"}, ValueError, "adjust_lr_fn: got 'rms', needs one of None, 'original'"),
        ({"reshape": "rows"}, ValueError, "reshape: got 'rows', needs one of None, 'flatten', 'batch'"),
        ({"reshape": []}, ValueError, r"reshape: got \[\], needs one of"),
        ({"rest": 3}, TypeError, "rest: got int, needs a dict"),
        ({"rest": {"lrr": 3}}, ValueError, "rest: got an unknown option 'lrr', did you mean lr"),
        ({"rest": {"lr": -1}}, ValueError, "rest.*lr"),
        ({"rest": {"rule": "adagrad"}}, ValueError, r"rest\[\"rule\"\]: got 'adagrad', needs one of 'adabelief'"),
        ({"betas": (0.9, 0.99)}, TypeError, "unexpected keyword argument 'betas'"),
        ({"reshape": np.ones(2)}, ValueError, r"reshape: got array\(.*\), needs one of None, 'flatten'"),
        ({"rest": {"rule": np.ones(2)}}, ValueError, r"rest\[\"rule\"\]: got array\(.*\), needs one of"),
        ({"master": "split"}, TypeError, "got float32 with master='split', needs bfloat16"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fs.Muon(model(), **options)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            {"params": {"b": np.ones(3)}, "rule": "muon"},
            r"params\[0\]\[\"b\"\]: got shape \(3,\), needs a matrix",
        ),
        ({"params": np.ones((3, 2, 2)), "rule": "muon"}, "needs a matrix; reshape='batch' takes"),
        ({"params": np.ones(3), "rule": "muons"}, r"param_groups\[0\]\[\"rule\"\]: got 'muons', needs one of 'muon', "),
        (
            {"params": np.ones(3), "rule": "adamw", "ns_steps": 3},
            r"param_groups\[0\]: got an unknown option 'ns_steps'",
        ),
    ],
    ids=str,
)
def test_wrong_groups(group: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fs.Muon([group])


def test_a_group_without_matrices() -> None:
    """What it gives is its own: nothing is left out in silence."""
    params = {"W": np.ones((2, 2)), "b": np.ones(2)}
    opt = fs.Muon(fs.groups(params, where=lambda path, array: array.ndim < 2, lr=0.0), lr=0.1)
    assert opt.step({"W": np.ones((2, 2)), "b": np.ones(2)})
    assert (params["b"] == 1).all() and (params["W"] != 1).all()
    with pytest.raises(ValueError, match=r"param_groups\[0\]: got an unknown option 'momentum'"):
        fs.Muon([{"params": np.ones(3), "momentum": 0.5}])


@pytest.mark.parametrize("module", [fs.functional, fs.reference], ids=["native", "reference"])
def test_vectors(module: Any) -> None:
    """A rule of matrices says which parameter is none, and changes nothing."""
    params = [np.ones((2, 2)), np.ones(3)]
    with pytest.raises(ValueError, match=r"param\[1\]: got shape \(3,\), needs a matrix"):
        module.muon(params, copy.deepcopy(params), copy.deepcopy(params), step=1)
    assert all((p == 1).all() for p in params)


def test_wrong_steps() -> None:
    params = model()
    opt = fs.Muon(params)
    opt.step(model(seed=1))
    before = snapshot(opt)
    grads = model(seed=2)
    for wrong, error, message in (
        (grads | {"K": np.ones((6, 12), FLOAT32)}, ValueError, "shape"),
        (grads | {"W": np.ones((64, 96))}, TypeError, "float64"),
        (grads | {"W": fs.SparseRows(np.arange(2), np.ones((2, 96), FLOAT32))}, TypeError, "SparseRows"),
    ):
        with pytest.raises(error, match=message):
            opt.step(wrong)
        assert_same(snapshot(opt), before)
    for name, value, message in (
        ("ns_steps", 100, r"param_groups\[0\]\[\"ns_steps\"\]: got 100, needs"),
        ("adjust_lr_fn", "x", r"param_groups\[0\]\[\"adjust_lr_fn\"\]: got 'x', needs"),
        ("momentum", 1.5, r"param_groups\[0\]\[\"momentum\"\]: got 1.5, needs"),
    ):
        kept = opt.param_groups[0][name]
        with pytest.raises(ValueError, match=message):
            opt.param_groups[0][name] = value
            opt.step(grads)
        opt.param_groups[0][name] = kept
        assert_same(snapshot(opt), before)
    for name, value in (("rule", "adamw"), ("reshape", "batch"), ("state_format", "8bit")):
        with pytest.raises(ValueError, match=r"needs .* as the optimizer was made with"):
            opt.param_groups[0][name] = value
    assert opt.step(grads)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_interrupted_product(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of a step leaves everything as it was, step counts included."""
    opt = fs.Muon(model(), max_grad_norm=1.0)
    opt.step(model(seed=1))
    before = snapshot(opt)
    calls = itertools.count()

    def fails(*args: Any, **kwargs: Any) -> None:
        if next(calls) == 1:
            raise error

    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(_directions, "newton_schulz", fails)
        opt.step(model(seed=2))
    assert_same(snapshot(opt), before)
    assert opt.steps_taken == 1
    other = fs.Muon(model(), max_grad_norm=1.0)
    for seed in (1, 2):
        assert other.step(model(seed=seed))
    assert opt.step(model(seed=2))
    assert_same(snapshot(opt), snapshot(other))


def test_step_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = fs.Muon(model())
    before = snapshot(opt)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="step"):
        patched.setattr(_directions, "newton_schulz", lambda *args, **kwargs: opt.step(model(seed=2)))
        opt.step(model(seed=1))
    assert_same(snapshot(opt), before)


def test_array_changed_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that runs in the middle of a step cannot take the memory away that is written next."""
    params = [np.ones((40, 30), FLOAT32)]
    opt = fs.Muon(params)
    with monkeypatch.context() as patched, pytest.raises(ValueError, match="was changed in place"):
        patched.setattr(_directions, "newton_schulz", lambda *args, **kwargs: params[0].resize((2, 2), refcheck=False))
        opt.step([np.ones((40, 30), FLOAT32)])


def test_float16_overflow() -> None:
    params = [np.full((4, 4), 60000, FLOAT16), np.ones((3, 3), FLOAT16)]
    opt = fs.Muon(params, lr=60000.0, weight_decay=0.0, maximize=True)
    before = snapshot(opt)
    with pytest.raises(OverflowError, match=r"params\[0\]: the step would take an element beyond 65504"):
        opt.step([np.ones((4, 4), FLOAT16), np.ones((3, 3), FLOAT16)])
    assert_same(snapshot(opt), before)


@pytest.mark.filterwarnings("ignore:.*hold an infinity or NaN:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-40, 0.0])
def test_odd_gradients(value: float) -> None:
    """Gradients that are zero, tiny, huge or no number: the same as the reference has, and no warning of NumPy's."""
    params = arrays(FLOAT32, 0, [(6, 5), (5, 6), (3, 4, 4)])
    opt = fs.Muon(params, reshape="batch")
    twin = Twin(opt)
    for _ in range(2):
        grads: list[Any] = [np.full(p.shape, value, FLOAT32) for p in params]
        assert opt.step(grads) and twin.step(grads)
        twin.check()
    if value in (0.0, 1e-40):
        assert all(np.isfinite(p).all() for p in params)


# -------------------------------------------------------------------------------------------------------- memory


def test_nothing_big_is_allocated() -> None:
    """All memory for directions and products is kept from step to step."""
    params = [np.ones((256, 512), FLOAT32) for _ in range(4)]
    grads = [np.ones((256, 512), FLOAT32) for _ in range(4)]
    opt = fs.Muon(params, max_grad_norm=1.0)
    opt.step(grads)
    tracemalloc.start()
    try:
        opt.step(grads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < params[0].nbytes / 8


def test_memory() -> None:
    held = fs.Muon({"W": np.zeros((100, 90), FLOAT32), "b": np.zeros(1000, FLOAT32)}).memory()
    assert held["directions"] == pytest.approx(3.6) and held["momentum_buffer"] == pytest.approx(3.6)
    assert held["total"] == pytest.approx(4 + 3.6 * 2 + 0.1 * 8)
