"""Cautious steps: the bytes of the reference everywhere, the authors' formula, and errors before anything is made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CAUTIOUS,
    CLASSES,
    FLOAT32,
    FLOAT64,
    ROWS,
    Options,
    Twin,
    assert_same,
    copied,
    functional_arrays,
    label,
    numbers,
    packed,
    running,
    snapshot,
)
from test_parity import (
    BEST,
    COMBINED,
    EVERYWHERE,
    ISAS,
    STORAGE,
    TEAM_SIZES,
    compare,
    model,
    some_grads,
    steps,
    storable,
)

import fusedstep as fs
from fusedstep import reference

LAST = {rule: options[-1] for rule, options in CAUTIOUS.items()}
OTHERS = sorted(ROWS.keys() - CAUTIOUS.keys())
LARGE = [16383, 2049, 32768 + 2049, 70001]

# --------------------------------------------------------------------------------------- the bytes of the reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=label)
@pytest.mark.parametrize(("rule", "options"), LAST.items(), ids=label)
def test_any_number_of_threads(rule: str, options: Options, dtype: Any) -> None:
    """The count is of the whole tensor, in whatever pieces it is stepped."""
    params = packed(LARGE, dtype, 1)
    grads = [packed(LARGE, dtype, step, special=0.001) for step in (2, 3)]
    given = functional_arrays(rule, options, params, 5)
    extra: Options = {"clip_value": 0.5, "max_grad_norm": 1e9}
    expected = steps(rule, params, grads, given, options | extra, fs.reference)
    for place in (*TEAM_SIZES, (ISAS[0], 2)):
        with running(*place):
            actual = steps(rule, params, grads, given, options | extra, fs.functional)
        assert_same(actual, expected, f"{rule} {place}")


@pytest.mark.parametrize("storage", STORAGE, ids=lambda s: label((s[0].name, s[1].name, s[2])))
@pytest.mark.parametrize("rule", sorted(CAUTIOUS))
def test_storage_formats(rule: str, storage: tuple[Any, Any, Options]) -> None:
    dtype, grad_dtype, options = storage
    if not storable(rule, options):
        options = {k: v for k, v in options.items() if k != "state_format"}
    number = STORAGE.index(storage)
    chosen = CAUTIOUS[rule][number % len(CAUTIOUS[rule])] | ({"ema_decay": 0.5} if number % 3 == 0 else {})
    # See test_parity: with sums over the model, the noise is of consecutive tensors.
    missing = number % 2 == 1 and not (reference.RULES[rule].whole and options.get("rounding") == "stochastic")
    compare(
        lambda: CLASSES[rule](model(dtype), **chosen, **options),
        lambda t: some_grads(grad_dtype, t + 1, missing=missing),
        3,
        EVERYWHERE,
    )


@pytest.mark.parametrize("step_options", COMBINED, ids=label)
def test_step_options(step_options: Options) -> None:
    for number, (rule, options) in enumerate(LAST.items()):
        dtype = (FLOAT32, FLOAT64, BFLOAT16)[number % 3]
        compare(
            lambda rule=rule, options=options, dtype=dtype: CLASSES[rule](model(dtype), **options, **step_options),
            lambda t, dtype=dtype: some_grads(dtype, t + 1, special=0.01 * (t == 1), missing=True),
            3,
            [(BEST, 1), (ISAS[number % len(ISAS)], 2)],
            scales=(1.0, 1024.0, 3.0),
        )


@pytest.mark.parametrize(
    ("rule", "options"), [(r, o) for r, o in LAST.items() if not reference.RULES[r].whole], ids=label
)
def test_groups_of_their_own_and_changes_between_steps(rule: str, options: Options) -> None:
    def make() -> Any:
        groups = [{"params": model(FLOAT32)[:4]}, {"params": model(FLOAT64, 3)[3:5], "cautious": False}]
        return CLASSES[rule](groups, **options)

    optimizer, twin = make(), Twin(make())
    twin.optimizer = optimizer
    for t in range(5):
        grads: list[Any] = [
            numbers(np.shape(slot.param), slot.param.dtype, 9 * t + i) for i, slot in enumerate(optimizer._slots)
        ]
        if t == 2:
            optimizer.param_groups[1]["cautious"] = True
        if t == 3:
            optimizer.cautious = False
        twin.step(grads)
        optimizer.step([grads[:4], grads[4:]])
        twin.check(f"step {t + 1}")


def test_a_float16_parameter_that_would_overflow_stays() -> None:
    param = np.full(3000, 65000.0, np.float16)
    grad = np.where(np.arange(3000) % 2, -1.0, 0.0).astype(np.float16)  # half of the elements step: twice as far
    optimizer = fs.Lion([param], lr=400.0, weight_decay=0.0, cautious=True)
    before = snapshot(optimizer)
    with pytest.raises(OverflowError, match=r"params\[0\]: the step would take an element beyond 65504"):
        optimizer.step([grad])
    assert_same(snapshot(optimizer), before)
    optimizer.lr = 200.0
    optimizer.step([grad])
    assert param.max() > 65000


@pytest.mark.parametrize("cls", [fs.AdamW, fs.SGD])
def test_accumulated_gradients(cls: Any) -> None:
    options: Options = {"momentum": 0.9} if cls is fs.SGD else {}
    ours, theirs = np.ones(3000, np.float32), np.ones(3000, np.float32)
    summed = cls([ours], lr=0.1, cautious=True, accumulate_steps=2, **options)
    single = cls([theirs], lr=0.1, cautious=True, **options)
    for t in range(3):
        a, b = (numbers(3000, np.float32, 2 * t + i) for i in range(2))
        summed.step([a])
        summed.step([b])
        single.step([a + b], grad_scale=2.0)
        assert_same(ours, theirs)


def test_saved_and_loaded() -> None:
    params = model(FLOAT32)
    optimizer = fs.AdamW(params, cautious=True)
    optimizer.step(some_grads(FLOAT32, 1))
    other = fs.AdamW(copied(params))
    other.load_state_dict(optimizer.state_dict())
    assert other.cautious is True
    for each in (optimizer, other):
        each.step(some_grads(FLOAT32, 2))
    assert_same(snapshot(other), snapshot(optimizer))


def test_muon_may_be_cautious_with_the_rest() -> None:
    """The vector is stepped as AdamW does, the matrix as Muon does."""
    matrix, vector = numbers((8, 6), np.float32, 1), numbers(900, np.float32, 2)
    alone, plain = vector.copy(), matrix.copy()
    rest: Options = {"cautious": True, "lr": 0.01}
    optimizer = fs.Muon([matrix, vector], rest=rest)
    adamw, muon = fs.AdamW([alone], **rest), fs.Muon([plain])
    for t in range(3):
        grads = [numbers((8, 6), np.float32, 10 + t), numbers(900, np.float32, 20 + t)]
        optimizer.step(grads)
        adamw.step(grads[1:])
        muon.step(grads[:1])
    assert_same([matrix, vector], [plain, alone])


# ------------------------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=label)
def test_elements_that_disagree_wait(where: Any) -> None:
    """One element of four disagrees: the others go 4/3 as far, and the decay shrinks all four."""
    param, velocity = np.full(4, 10.0), np.array([1.0, 1.0, 1.0, -1.0])
    where.momentum(param, np.ones(4), velocity, step=1, lr=0.3, beta=0.5, cautious=True)
    np.testing.assert_allclose(param, 10 - 0.3 * 4 / 3 * np.array([1, 1, 1, 0]), rtol=1e-15)
    np.testing.assert_allclose(velocity, [1, 1, 1, 0])  # the states advance as ever

    param, average = np.full(4, 10.0), np.array([1.0, 1.0, 1.0, -9.0])
    where.lion(param, np.ones(4), average, step=1, lr=0.3, weight_decay=0.5, cautious=True)
    np.testing.assert_allclose(param, 10 * (1 - 0.15) - 0.3 * 4 / 3 * np.array([1, 1, 1, 0]), rtol=1e-15)


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=label)
def test_an_l2_penalty_counts_as_gradient(where: Any) -> None:
    """With the penalty, the gradient of the second element points the other way, and its momentum agrees with it."""
    param, velocity = np.array([1.0, 1.0]), np.array([1.0, 1.0])
    where.sgd(param, np.array([0.5, -0.5]), velocity, step=2, lr=0.1, momentum=0.9, weight_decay=1.0, cautious=True)
    np.testing.assert_allclose(velocity, [0.9 + 1.5, 0.9 + 0.5])
    np.testing.assert_allclose(param, 1 - 0.1 * velocity)


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=label)
@pytest.mark.parametrize("agreeing", [0, 1, 3])
def test_the_scale_ends_at_a_thousand(where: Any, agreeing: int) -> None:
    size = 2000
    param, velocity = np.zeros(size), np.full(size, -1.0)
    velocity[:agreeing] = 1.0
    where.momentum(param, np.full(size, 1e-9), velocity, step=1, lr=1.0, beta=0.5, cautious=True)
    assert np.count_nonzero(param) == agreeing
    np.testing.assert_allclose(param[:agreeing], -0.5 * min(1000, size / max(agreeing, 1)), rtol=1e-6)


@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=label)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=label)
def test_numbers_at_the_ends_of_the_range(where: Any, dtype: Any) -> None:
    """Products of steps and gradients would underflow here; NaN and infinity are not hidden by the mask."""
    tiny = float(np.finfo(dtype).tiny)
    param = np.zeros(8, dtype)
    grad = np.array([tiny, tiny, -tiny, 0.0, -0.0, math.nan, math.inf, -math.inf], dtype)
    velocity = np.array([4 * tiny, -4 * tiny, -4 * tiny, 1.0, 1.0, 1.0, 1.0, 1.0], dtype)
    where.momentum(param, grad, velocity, step=1, lr=1.0, beta=0.5, cautious=True)
    assert param[0] < 0 and param[2] > 0 and param[1] == param[3] == param[4] == 0
    assert np.isnan(param[5]) and param[6] == -math.inf and param[7] == math.inf


def test_an_empty_tensor() -> None:
    params = [np.zeros(0, np.float32), np.ones(2, np.float32)]
    fs.AdamW(params, cautious=True).step([np.zeros(0, np.float32), np.ones(2, np.float32)])


def test_nothing_changes_where_all_agree() -> None:
    """With constant gradients the mask is one and the scale is one: the bytes of a step without it, but for the order
    of the decay's and the step's rounding, which are apart here."""
    for rule, options in LAST.items():
        if rule in ("adan", "stable_adamw", "lion", "mars", "mars_lion"):  # they round decay and step together
            continue
        plain = {name: value for name, value in options.items() if name != "cautious"} | {"weight_decay": 0.0}
        left, right = np.full(3000, 0.5, np.float32), np.full(3000, 0.5, np.float32)
        one, other = CLASSES[rule]([left], **plain, cautious=True), CLASSES[rule]([right], **plain)
        for _ in range(3):
            for each in (one, other):
                each.step([np.full(3000, 0.25, np.float32)])
        assert_same(left, right, rule)


# ---------------------------------------------------------------------------------------------------- independent code

SIZE, STEPS = 500, 100


def data() -> tuple[Any, list[Any]]:
    """Gradients whose signs change often: about half of the steps disagree."""
    rng = np.random.default_rng(7)
    drift = 0.2 * rng.standard_normal(SIZE)
    return rng.uniform(5, 10, SIZE), [drift + rng.standard_normal(SIZE) for _ in range(STEPS)]


def masked(torch: Any, update: Any, grad: Any) -> Any:
    """The authors' lines (github.com/kyleliang919/C-Optim, c_adamw.py, AdamW.step)."""
    mask = (update * grad > 0).to(grad.dtype)
    mask.div_(mask.mean().clamp_(min=1e-3))
    return update * mask


def authors_adamw(torch: Any, param: Any, grads: list[Any], decay: float) -> Any:
    """The rest of their step, with eps added after the bias correction, as in torch."""
    exp_avg, exp_avg_sq, lr, (beta1, beta2) = torch.zeros_like(param), torch.zeros_like(param), 1e-3, (0.9, 0.999)
    for step, grad in enumerate(grads, 1):
        param.add_(param, alpha=-lr * decay)
        exp_avg.mul_(beta1).add_(grad, alpha=1.0 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        denom = (exp_avg_sq / (1.0 - beta2**step)).sqrt().add_(1e-8)
        param.add_(masked(torch, exp_avg, grad) / denom, alpha=-lr / (1.0 - beta1**step))
    return param


def authors_lion(torch: Any, param: Any, grads: list[Any], decay: float) -> Any:
    """``c_lion.py``, update_fn, with the scale of ``c_adamw.py``."""
    exp_avg = torch.zeros_like(param)
    for grad in grads:
        param.mul_(1 - 1e-3 * decay)
        update = exp_avg.clone().mul_(0.9).add(grad, alpha=1 - 0.9).sign_()
        param.add_(masked(torch, update, grad), alpha=-1e-3)
        exp_avg.mul_(0.99).add_(grad, alpha=1 - 0.99)
    return param


def ours(rule: str, options: Options) -> Any:
    param, grads = data()
    optimizer = CLASSES[rule]([param], lr=1e-3, cautious=True, **options)
    for grad in grads:
        optimizer.step([grad])
    return param


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("rule", "authors"), [("adamw", authors_adamw), ("lion", authors_lion)])
def test_against_the_authors(rule: str, authors: Any, decay: float) -> None:
    torch = pytest.importorskip("torch")
    param, grads = data()
    theirs = authors(torch, torch.from_numpy(param), [torch.from_numpy(grad) for grad in grads], decay)
    np.testing.assert_allclose(ours(rule, {"weight_decay": decay}), theirs.numpy(), rtol=1e-12, atol=0)


def test_against_pytorch_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Lion, with the scale of the authors' AdamW in the place of ``numel / (sum + 1)``."""
    torch, peer = pytest.importorskip("torch"), pytest.importorskip("pytorch_optimizer")

    def mask(update: Any, grad: Any) -> None:
        update.copy_(masked(torch, update, grad))

    monkeypatch.setattr(peer.Lion, "apply_cautious", staticmethod(mask), raising=True)
    param, grads = data()
    parameter = torch.nn.Parameter(torch.from_numpy(param))
    options: Options = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1, "weight_decouple": True}
    theirs = peer.Lion([parameter], cautious=True, **options)
    for grad in grads:
        parameter.grad = torch.from_numpy(grad)
        theirs.step()
    np.testing.assert_allclose(ours("lion", {"weight_decay": 0.1}), parameter.detach().numpy(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("rule", "options"), [(r, o) for r, rows in CAUTIOUS.items() for o in rows], ids=label)
def test_every_rule_is_its_plain_step_masked(rule: str, options: Options, decay: float) -> None:
    """The steps of the rule without decay, which other tests compare with other libraries, masked in NumPy."""
    if "lr_in_momentum" in options:
        pytest.skip("the same steps")
    lr, options = 1e-3, options | {"lr": 1e-3, "weight_decay": decay}
    plain = {name: value for name, value in options.items() if name != "cautious"} | {"weight_decay": 0.0}
    in_gradient = rule in ("sgd", "momentum", "rmsprop", "adam", "adamax") or (
        rule in ("nadam", "radam", "adopt", "prodigy")
        and not options.get("decoupled_weight_decay", reference.RULES[rule].hypers["decoupled_weight_decay"])
    )
    divided = rule == "adan" and not options.get("no_prox")
    if rule == "prodigy":  # whose estimate depends on the parameters, and stays as it is with this
        options, plain = options | {"d_coef": 1e-30}, plain | {"d_coef": 1e-30}
    param, grads = data()
    expected, follower, waited = param.copy(), param.copy(), 0
    ours, other = CLASSES[rule]([param], **options), CLASSES[rule]([follower], **plain)
    for t, grad in enumerate(grads):
        full = grad + decay * expected if in_gradient else grad
        follower[...] = 0.0
        other.step([full])
        mask = (follower * full < 0).astype(float)
        step = follower * mask / max(mask.mean(), 1e-3)
        rate = lr
        if rule == "prodigy":
            rate *= options.get("d0", 1e-6)
            if options.get("bias_correction"):
                rate *= math.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        waited += SIZE - np.count_nonzero(mask)
        if rule == "stable_adamw":  # whose decay goes with its learning rate
            rate = lr / max(1.0, math.sqrt(np.mean(grad**2 / np.maximum(other.state[0]["exp_avg_sq"], 1e-16))))
            expected = expected * (1 - rate * decay) + step
        elif in_gradient or (rule == "adopt" and t == 0):
            expected = expected + step
        else:
            expected = (expected + step) / (1 + rate * decay) if divided else expected * (1 - rate * decay) + step
        ours.step([grad])
    np.testing.assert_allclose(param, expected, rtol=1e-12, atol=0)
    assert waited > SIZE or 0.0 in (options.get("beta"), options.get("betas", (1,))[0])


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("rule", OTHERS)
def test_rules_that_cannot(rule: str) -> None:
    """In the constructor, in a group, between steps and in the functions; nothing has changed."""
    message = f"got True, needs False with {rule}; rules that can be cautious: adabelief, adam, "
    param = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=f"^cautious: {message}"):
        CLASSES[rule]([param], cautious=True)
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["cautious"\]: ' + message):
        CLASSES[rule]([{"params": [param], "cautious": True}])
    optimizer = CLASSES[rule]([param])
    with pytest.raises(ValueError, match=f"^cautious: {message}"):
        optimizer.cautious = True
    optimizer.param_groups[0]["cautious"] = True
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["cautious"\]: ' + message):
        optimizer.step([np.ones(3, np.float32)])
    assert_same(snapshot(optimizer), before)
    optimizer.param_groups[0]["cautious"] = False
    if rule != "sparse_adam":
        optimizer.step([np.ones(3, np.float32)])
    for where in (fs.functional, reference):
        given = functional_arrays(rule, {}, [np.ones(3)], 1)
        with pytest.raises(ValueError, match=f"^cautious: {message}"):
            getattr(where, rule)([np.ones(3)], [np.ones(3)], step=1, cautious=True, **given)


@pytest.mark.parametrize("cls", [fs.SGD, fs.RMSprop])
def test_a_momentum_is_needed(cls: Any) -> None:
    message = r"got True with momentum=0\.0, needs a momentum above 0"
    with pytest.raises(ValueError, match=f"^cautious: {message}"):
        cls([np.ones(3)], cautious=True)
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["cautious"\]: ' + message):
        cls([{"params": [np.ones(3)], "cautious": True}])
    param = np.ones(3)
    optimizer = cls([param], momentum=lambda t: 0.5 if t == 0 else 0.0, cautious=True)
    optimizer.step([np.ones(3)])
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["cautious"\]: ' + message):
        optimizer.step([np.ones(3)])
    assert_same(snapshot(optimizer), before)
    plain = cls([param], momentum=0.5)
    plain.param_groups[0]["momentum"], plain.param_groups[0]["cautious"] = 0.0, True
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["cautious"\]: ' + message):
        plain.step([np.ones(3)])
    rule = cls.rule
    for where in (fs.functional, reference):
        given = functional_arrays(rule, {}, [np.ones(3)], 1)
        with pytest.raises(ValueError, match=f"^cautious: {message}"):
            getattr(where, rule)([np.ones(3)], [np.ones(3)], step=1, cautious=True, **given)


@pytest.mark.parametrize("wrong", [1, None, "yes", 0.0])
def test_a_flag_and_nothing_else(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^cautious: got .*, needs True or False"):
        fs.AdamW([np.ones(3)], cautious=wrong)
    optimizer = fs.AdamW([np.ones(3)])
    optimizer.param_groups[0]["cautious"] = wrong
    with pytest.raises(TypeError, match=r'^param_groups\[0\]\["cautious"\]: got .*, needs True or False'):
        optimizer.step([np.ones(3)])


def test_muon_itself_cannot() -> None:
    with pytest.raises(ValueError, match=r"^cautious: got True, needs False with muon"):
        fs.Muon([np.ones((2, 2), np.float32)], cautious=True)


def test_rules_in_numpy_cannot() -> None:
    class Own(fs.NumPyOptimizer):
        @staticmethod
        def update(param: Any, grad: Any, *, step: int, lr: float = 0.1) -> None:
            param[...] -= lr * grad

    with pytest.raises(ValueError, match=r"^cautious: got True, needs False with "):
        Own([np.ones(3)], cautious=True)
    Own([np.ones(3)]).step([np.ones(3)])


def test_sparse_rows_need_steps_that_are_not() -> None:
    optimizer = fs.SGD([np.ones((4, 2))], momentum=0.9, cautious=True)
    with pytest.raises(ValueError, match=r"got SparseRows with momentum=.*, needs momentum=0"):
        optimizer.step([fs.SparseRows(np.array([1]), np.ones((1, 2)))])
