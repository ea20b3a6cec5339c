"""The reference against independent sources: torch.optim, optax and the authors' formulas, over 100 steps.

float64: parameters within 1e-12 relative after 100 steps, element by element (they are kept away from zero), and states
within 1e-12 of the largest in the tensor. float32: each step starts from the same numbers as torch's, or as the same
rule in float64, and ends within ULPS units in the last place of the largest update of the tensor, and as many of the
parameter as the rule rounds it times. The worst of all rules is 2.0 such units against torch, 1.7 against float64.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from cases import CLASSES, first_number
from independent import OptaxPeer, TorchPeer
from numpy.typing import NDArray

from fusedstep import reference

Array = NDArray[Any]
STEPS, SIZE, ULPS = 100, 257, 3


def grid(**options: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Every combination of the options given."""
    rows: list[dict[str, Any]] = [{}]
    for name, values in options.items():
        rows = [row | {name: value} for row in rows for value in values]
    return rows


DECAY = (0.0, 0.02)
SWITCH = (False, True)
# rule: torch's class, and the options tried in both
TORCH: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "sgd": (
        "SGD",
        grid(weight_decay=DECAY, momentum=(0.0, 0.9), maximize=SWITCH)
        + grid(weight_decay=DECAY, momentum=(0.9,), dampening=(0.3,))
        + grid(weight_decay=DECAY, momentum=(0.9,), nesterov=(True,), maximize=SWITCH),
    ),
    "rmsprop": (
        "RMSprop",
        grid(weight_decay=DECAY, momentum=(0.0, 0.9), centered=SWITCH, maximize=SWITCH)
        + grid(alpha=(0.9,), eps=(1e-3,)),
    ),
    "adam": (
        "Adam",
        grid(weight_decay=DECAY, amsgrad=SWITCH, maximize=SWITCH) + grid(betas=((0.8, 0.95),), eps=(1e-3,)),
    ),
    "adamw": (
        "AdamW",
        grid(weight_decay=DECAY, amsgrad=SWITCH, maximize=SWITCH) + grid(betas=((0.8, 0.95),), eps=(1e-3,)),
    ),
    "adagrad": ("Adagrad", grid(weight_decay=DECAY, lr_decay=(0.0, 0.1), maximize=SWITCH)),
    "adadelta": ("Adadelta", grid(weight_decay=DECAY, rho=(0.9, 0.7), maximize=SWITCH)),
    "adamax": ("Adamax", grid(weight_decay=DECAY, eps=(1e-8, 1e-2), maximize=SWITCH)),
    "nadam": (
        "NAdam",
        grid(weight_decay=DECAY, decoupled_weight_decay=SWITCH, maximize=SWITCH)
        + grid(momentum_decay=(0.1,), betas=((0.8, 0.95),)),
    ),
    "radam": (
        "RAdam",
        grid(weight_decay=DECAY, decoupled_weight_decay=SWITCH, maximize=SWITCH) + grid(betas=((0.8, 0.7),)),
    ),
    "asgd": (
        "ASGD",
        grid(weight_decay=DECAY, t0=(1e6, 20.0), maximize=SWITCH) + grid(lambd=(0.05,), alpha=(0.6,)),
    ),
    "rprop": ("Rprop", grid(etas=((0.5, 1.2), (0.3, 1.7)), step_sizes=((1e-6, 50.0), (5e-3, 2e-2)))),
}
# rule, our options, optax's optimizer
OPTAX: list[tuple[str, dict[str, Any], Any]] = [
    ("sgd", {"momentum": 0.9}, lambda o: o.sgd(1e-3, momentum=0.9)),
    ("sgd", {"momentum": 0.9, "nesterov": True}, lambda o: o.sgd(1e-3, momentum=0.9, nesterov=True)),
    ("momentum", {}, lambda o: o.chain(o.ema(0.9, debias=False), o.scale(-1e-3))),
    ("momentum", {"bias_correction": True}, lambda o: o.chain(o.ema(0.9, debias=True), o.scale(-1e-3))),
    (
        "momentum",
        {"weight_decay": 0.02},
        lambda o: o.chain(o.add_decayed_weights(0.02), o.ema(0.9, debias=False), o.scale(-1e-3)),
    ),
    (
        "rmsprop",
        {"alpha": 0.9, "eps": 0.0, "eps_root": 1e-4},
        lambda o: o.rmsprop(1e-2, decay=0.9, eps=1e-4, eps_in_sqrt=True),
    ),
    (
        "rmsprop",
        {"alpha": 0.9, "eps": 0.0, "eps_root": 1e-4, "centered": True, "momentum": 0.8},
        lambda o: o.rmsprop(1e-2, decay=0.9, eps=1e-4, eps_in_sqrt=True, centered=True, momentum=0.8),
    ),
    ("adam", {"eps_root": 1e-4}, lambda o: o.adam(1e-3, eps_root=1e-4)),
    (
        "adamw",
        {"eps_root": 1e-4, "weight_decay": 0.02},
        lambda o: o.adamw(1e-3, eps_root=1e-4, weight_decay=0.02),
    ),
    ("adadelta", {"rho": 0.8}, lambda o: o.adadelta(1.0, rho=0.8, eps=1e-6)),
    ("radam", {"eps": 0.0}, lambda o: o.radam(1e-3, eps=0.0)),  # optax adds eps after its bias correction
    ("lion", {}, lambda o: o.lion(1e-4, weight_decay=0.0)),
    (
        "lion",
        {"betas": (0.8, 0.9), "weight_decay": 0.02},
        lambda o: o.lion(1e-4, 0.8, 0.9, weight_decay=0.02),
    ),
    ("lamb", {}, lambda o: o.lamb(1e-3)),
    (
        "lamb",
        {"eps_root": 1e-4, "weight_decay": 0.02},
        lambda o: o.lamb(1e-3, eps_root=1e-4, weight_decay=0.02),
    ),
    ("lars", {}, lambda o: o.lars(1e-3)),
    (
        "lars",
        {"nesterov": True, "trust_coefficient": 0.1},
        lambda o: o.lars(1e-3, trust_coefficient=0.1, nesterov=True),
    ),
    ("adabelief", {}, lambda o: o.adabelief(1e-3)),
    (
        "adabelief",
        {"eps": 1e-3, "eps_root": 1e-4, "weight_decay": 0.02},
        lambda o: o.chain(
            o.scale_by_belief(eps=1e-3, eps_root=1e-4),
            o.add_decayed_weights(0.02),
            o.scale_by_learning_rate(1e-3),
        ),
    ),
    ("ademamix", {}, lambda o: o.contrib.ademamix(1e-3)),
    (
        "ademamix",
        {"betas": (0.8, 0.95, 0.99), "alpha": 8.0, "weight_decay": 0.02},
        lambda o: o.contrib.ademamix(1e-3, 0.8, 0.95, 0.99, 8.0, weight_decay=0.02),
    ),
    ("adopt", {}, lambda o: o.contrib.adopt(1e-3)),
    (
        "adopt",
        {"betas": (0.8, 0.95), "clipping": False},
        lambda o: o.contrib.adopt(1e-3, 0.8, 0.95, use_clipping=False),
    ),
    ("yogi", {}, lambda o: o.yogi(1e-2)),
    (
        "yogi",
        {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.02},
        lambda o: o.chain(
            o.scale_by_yogi(0.8, 0.95, 1e-4), o.add_decayed_weights(0.02), o.scale_by_learning_rate(1e-2)
        ),
    ),
    ("novograd", {}, lambda o: o.novograd(1e-3, 0.95, 0.98, 1e-8)),
    (
        "novograd",
        {"betas": (0.9, 0.25), "eps": 1e-2, "weight_decay": 0.02},
        lambda o: o.novograd(1e-3, 0.9, 0.25, 1e-2, weight_decay=0.02),
    ),
    ("prodigy", {"bias_correction": True}, lambda o: o.contrib.prodigy()),
    (
        "prodigy",
        {"bias_correction": True, "safeguard_warmup": True, "d0": 1e-3, "d_coef": 0.5, "lr": 0.5, "weight_decay": 0.02},
        lambda o: o.contrib.prodigy(0.5, estim_lr0=1e-3, estim_lr_coef=0.5, weight_decay=0.02, safeguard_warmup=True),
    ),
    ("schedule_free_sgd", {"lr": 0.1}, lambda o: o.contrib.schedule_free_sgd(0.1)),
    (
        "schedule_free_sgd",
        {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.02},
        lambda o: o.contrib.schedule_free_sgd(0.1, b1=0.7, weight_decay=0.02),
    ),
    ("schedule_free_adamw", {}, lambda o: o.contrib.schedule_free_adamw(2.5e-3)),
    (
        "schedule_free_adamw",
        {"betas": (0.7, 0.99), "weight_decay": 0.02},
        lambda o: o.contrib.schedule_free_adamw(2.5e-3, b1=0.7, b2=0.99, weight_decay=0.02),
    ),
]
# rule: pytorch_optimizer's class, and what its options are called where they have other names
DECOUPLED = {"weight_decouple": True}
MARS_LION = {"optimize_1d": True, "mars_type": "lion"}
PYTORCH_OPTIMIZER: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("adan", "Adan", {}, {}),
    ("adan", "Adan", {"weight_decay": 0.02}, {}),
    ("adan", "Adan", {"weight_decay": 0.02, "betas": (0.9, 0.8, 0.95), "no_prox": True}, DECOUPLED),
    ("ademamix", "AdEMAMix", {"weight_decay": 0.02}, DECOUPLED),
    ("ademamix", "AdEMAMix", {"alpha_warmup": 70.0, "beta3_warmup": 70.0, "alpha": 8.0}, {"t_alpha_beta3": 70.0}),
    ("ademamix", "AdEMAMix", {"alpha_warmup": 1e3, "beta3_warmup": 1e3}, {"t_alpha_beta3": 1e3}),
    ("yogi", "Yogi", {"weight_decay": 0.02}, DECOUPLED),
    ("stable_adamw", "StableAdamW", {}, {}),
    ("stable_adamw", "StableAdamW", {"weight_decay": 0.0, "betas": (0.8, 0.9), "eps": 1e-3}, {}),
    ("novograd", "NovoGrad", {"weight_decay": 0.02, "grad_averaging": True}, {}),
    ("novograd", "NovoGrad", {"betas": (0.8, 0.5), "weight_decay": 0.02}, {}),
    ("mars_lion", "MARS", {"lr": 1e-3, "weight_decay": 0.02}, MARS_LION),
    ("mars_lion", "MARS", {"lr": 1e-3, "beta": 0.8, "gamma": 0.2}, {**MARS_LION, "betas": (0.8, 0.99)}),
]
# compared below with the authors' code, written out: no package has the same formula
AUTHORS: list[tuple[str, dict[str, Any]]] = [
    ("mars", {"weight_decay": 0.02}),  # pytorch_optimizer adds 1e-15 to the second moment
    ("mars", {"gamma": 0.0, "clipping": False}),
]
# compared in another file, or below with the paper's own recursion
OTHERS = {"sparse_adam": "test_reference_rows.py"}
COMPARED = {*TORCH, *(rule for rule, *_ in [*OPTAX, *PYTORCH_OPTIMIZER, *AUTHORS]), *OTHERS}
"""Every rule that is compared with an independent source (`test_completeness` asks)."""
# rules that round the parameter more than once: a decoupled decay or an interpolation, and the step
TWICE = {"adamw", "nadam", "radam", "asgd", "lion", "adabelief", "schedule_free_sgd", "schedule_free_adamw"}
TWICE |= {"adan", "ademamix", "adopt", "yogi", "stable_adamw", "mars", "mars_lion", "prodigy"}


class Run:
    """A parameter under one of our rules, with the states and scalars it needs."""

    def __init__(self, rule: str, param: Array, options: dict[str, Any]) -> None:
        facts = reference.RULES[rule]
        self.function, self.options, self.steps = getattr(reference, rule), options, 0
        defaults = {name: given.default for name, given in inspect.signature(CLASSES[rule]).parameters.items()}
        values = defaults | options
        self.param = param.copy()
        self.states: dict[str, Array | None] = {s.name: None for s in facts.states}
        for state in facts.used(values):
            first = state.initial
            begin = param.copy() if first == "param" else np.full_like(param, first_number(first, values))
            self.states[state.name] = begin
        self.scalars = {name: np.array(first_number(first, values)) for name, first in facts.initial_scalars.items()}

    def step(self, grad: Array) -> None:
        self.steps += 1
        self.function(self.param, grad, *self.states.values(), *self.scalars.values(), step=self.steps, **self.options)

    def copy(self, dtype: Any) -> Run:
        """The same run with parameter and states in another dtype."""
        other = object.__new__(Run)
        other.function, other.options, other.steps = self.function, self.options, self.steps
        other.param = self.param.astype(dtype)
        other.states = {name: None if value is None else value.astype(dtype) for name, value in self.states.items()}
        other.scalars = {name: value.copy() for name, value in self.scalars.items()}
        return other


def data(dtype: Any) -> tuple[Array, list[Array]]:
    """A parameter (in float64 away from zero) and gradients with a drift, so that first moments do not vanish."""
    rng = np.random.default_rng(7)
    param = rng.uniform(5.0, 10.0, SIZE) * rng.choice((-1.0, 1.0), SIZE)
    drift, scale = rng.standard_normal(SIZE), 10.0 ** rng.uniform(-2.0, 0.0, SIZE)
    if dtype == np.float32:
        param *= 1e-3  # so small that its own rounding does not hide the update's
    return param.astype(dtype), [((drift + rng.standard_normal(SIZE)) * scale).astype(dtype) for _ in range(STEPS)]


def close(ours: Array, theirs: Array) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0.0)


def near(rule: str, ours: Array, theirs: Array, before: Array) -> None:
    """Within ULPS units in the last place of the largest update, and one or two of the parameter."""
    eps = np.finfo(np.float32).eps
    exact = np.asarray(theirs, dtype=np.float64)
    allowed = ULPS * eps * np.abs(exact - before).max() + (1 + (rule in TWICE)) * np.spacing(
        np.abs(theirs).astype(np.float32)
    )
    assert np.all(np.abs(ours.astype(np.float64) - exact) <= allowed)


TORCH_ROWS = [(rule, name, row) for rule, (name, rows) in TORCH.items() for row in rows]


def label(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={option}" for name, option in value.items()) or "default"
    return value if isinstance(value, str) else "optax"


@pytest.mark.parametrize(("rule", "name", "options"), TORCH_ROWS, ids=label)
def test_torch_float64(rule: str, name: str, options: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    param, grads = data(np.float64)
    ours, theirs = Run(rule, param, options), TorchPeer(name, param, options)
    for grad in grads:
        ours.step(grad)
        theirs.step(grad)
    close(ours.param, theirs.param)
    for state, value in ours.states.items():
        if value is not None:
            peer = theirs.state(state)
            assert np.abs(value - peer).max() <= 1e-12 * np.abs(peer).max()
    for scalar, number in ours.scalars.items():
        close(number, theirs.state(scalar))


@pytest.mark.parametrize(("rule", "name", "options"), TORCH_ROWS, ids=label)
def test_torch_float32(rule: str, name: str, options: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    param, grads = data(np.float32)
    ours, theirs = Run(rule, param, options), TorchPeer(name, param, options)
    for grad in grads:
        before = ours.param.copy()
        ours.step(grad)
        theirs.step(grad)
        near(rule, ours.param, theirs.param, before)
        theirs.follow(ours.param, {n: v for n, v in (ours.states | ours.scalars).items() if v is not None})


@pytest.mark.parametrize(("rule", "options", "make"), OPTAX, ids=label)
def test_optax_float64(rule: str, options: dict[str, Any], make: Any) -> None:
    pytest.importorskip("optax")
    param, grads = data(np.float64)
    ours, theirs = Run(rule, param, options), OptaxPeer(make, param)
    for grad in grads:
        ours.step(grad)
        theirs.step(grad)
    close(ours.param, theirs.param)


@pytest.mark.parametrize(("rule", "name", "options", "other_names"), PYTORCH_OPTIMIZER, ids=label)
def test_pytorch_optimizer_float64(rule: str, name: str, options: dict[str, Any], other_names: dict[str, Any]) -> None:
    pytest.importorskip("pytorch_optimizer")
    param, grads = data(np.float64)
    given = {n: v for n, v in options.items() if n not in ("no_prox", "alpha_warmup", "beta3_warmup", "beta")}
    ours, theirs = Run(rule, param, options), TorchPeer(name, param, given | other_names, "pytorch_optimizer")
    for grad in grads:
        ours.step(grad)
        theirs.step(grad)
    close(ours.param, theirs.param)


ALL_ROWS = [(rule, options) for rule, _, options in TORCH_ROWS] + [(rule, options) for rule, options, _ in OPTAX]
ALL_ROWS += [(rule, options) for rule, _, options, _ in PYTORCH_OPTIMIZER] + AUTHORS


@pytest.mark.parametrize(("rule", "options"), ALL_ROWS, ids=label)
def test_float32_is_the_rounded_float64(rule: str, options: dict[str, Any]) -> None:
    param, grads = data(np.float32)
    ours = Run(rule, param, options)
    for grad in grads:
        exact = ours.copy(np.float64)
        before = ours.param.copy()
        ours.step(grad)
        exact.step(grad.astype(np.float64))
        near(rule, ours.param, exact.param, before)


def authors_lars(param: Array, grads: list[Array], lr: float, momentum: float, decay: float, trust: float) -> Array:
    """Algorithm 1 of You, Gitman and Ginsburg (2017), line by line."""
    velocity = np.zeros_like(param)
    for grad in grads:
        local = trust * np.linalg.norm(param) / (np.linalg.norm(grad) + decay * np.linalg.norm(param))
        velocity = momentum * velocity + lr * local * (grad + decay * param)
        param = param - velocity
    return param


def authors_schedule_free(
    param: Array,
    grads: list[Array],
    lr: float,
    betas: tuple[float, float | None],
    decay: float,
    warmup: int,
    r: float,
) -> tuple[Array, Array]:
    """The recursions of Defazio et al. (2024) with x, y and z written out; without a second beta, SGD."""
    beta, beta2 = betas
    x, y, z, v, total, largest = param, param, param, np.zeros_like(param), 0.0, 0.0
    for t, grad in enumerate(grads, 1):
        rate = lr * min(1.0, t / warmup) if warmup else lr
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * grad**2
            grad = grad / (np.sqrt(v / (1 - beta2**t)) + 1e-8)
        largest = max(largest, rate)
        weight = t**r * largest**2
        total += weight
        z = z - rate * (grad + decay * y)
        x = (1 - weight / total) * x + weight / total * z
        y = (1 - beta) * z + beta * x
    return y, x


def authors_adopt(param: Array, grads: list[Array], decay: float, decoupled: bool) -> Array:
    """The loop of the authors' code (github.com/iShohei220/adopt, adopt.py), line by line, with its defaults."""
    exp_avg, exp_avg_sq = np.zeros_like(param), np.zeros_like(param)
    for step, given in enumerate(grads):
        grad = given if decoupled else given + decay * param
        if step == 0:
            exp_avg_sq = exp_avg_sq + grad * grad
            continue
        if decoupled:
            param = param - 1e-3 * decay * param
        normed = np.clip(grad / np.maximum(np.sqrt(exp_avg_sq), 1e-6), -(step**0.25), step**0.25)
        exp_avg = exp_avg + (1 - 0.9) * (normed - exp_avg)
        param = param - 1e-3 * exp_avg
        exp_avg_sq = 0.9999 * exp_avg_sq + (1 - 0.9999) * grad * grad
    return param


@pytest.mark.parametrize("decoupled", [False, True])
def test_adopt_against_the_authors(decoupled: bool) -> None:
    param, grads = data(np.float64)
    ours = Run("adopt", param, {"weight_decay": 0.02, "decoupled_weight_decay": decoupled})
    for grad in grads:
        ours.step(grad)
    close(ours.param, authors_adopt(param, grads, 0.02, decoupled))


def authors_mars(
    param: Array,
    grads: list[Array],
    before: list[Array] | None = None,
    *,
    lr: float,
    betas: tuple[float, float],
    decay: float,
    gamma: float,
    lion: bool,
) -> Array:
    """The function ``update_fn`` of the authors' code (github.com/AGI-Arena/MARS, mars.py), in NumPy.

    `before` has the gradients of the same batches at the parameters of the step before: the exact variant.
    """
    beta1, beta2 = betas
    exp_avg, exp_avg_sq, last_grad = np.zeros_like(param), np.zeros_like(param), np.zeros_like(param)
    for step, grad in enumerate(grads, 1):
        if before is not None:
            last_grad = before[step - 1]
        c_t = (grad - last_grad) * (gamma * (beta1 / (1.0 - beta1))) + grad
        c_t_norm = np.linalg.norm(c_t)
        if c_t_norm > 1.0:
            c_t = c_t / c_t_norm
        exp_avg = beta1 * exp_avg + (1.0 - beta1) * c_t
        if lion:
            direction = np.sign(exp_avg)
        else:
            exp_avg_sq = beta2 * exp_avg_sq + (1.0 - beta2) * c_t * c_t
            denom = (np.sqrt(exp_avg_sq) * (1 / np.sqrt(1.0 - beta2**step)) + 1e-8) * (1.0 - beta1**step)
            direction = exp_avg / denom
        param = param - lr * (decay * param + direction)
        last_grad = grad
    return param


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # all gradients are clipped, or none
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("lion", [False, True])
def test_mars_against_the_authors(scale: float, exact: bool, lion: bool) -> None:
    param, grads = data(np.float64)
    grads = [scale * grad for grad in grads]
    before = [0.9 * grad + 0.05 * scale for grad in grads] if exact else None
    shared: dict[str, Any] = {"lr": 3e-3, "gamma": 0.1}
    betas = {"beta": 0.9} if lion else {"betas": (0.9, 0.99)}
    ours = Run("mars_lion" if lion else "mars", param, {"weight_decay": 0.02, **betas, **shared})
    for step, grad in enumerate(grads):
        if before is not None:
            ours.states["last_grad"] = before[step].copy()
        ours.step(grad)
    close(ours.param, authors_mars(param, grads, before, betas=(0.9, 0.99), decay=0.02, lion=lion, **shared))


def test_mars_without_its_own_is_adamw() -> None:
    """What the authors' code does with vectors."""
    param, grads = data(np.float64)
    ours = Run("mars", param, {"gamma": 0.0, "clipping": False, "betas": (0.9, 0.95), "weight_decay": 0.1})
    theirs = Run("adamw", param, {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1})
    assert ours.states["last_grad"] is None
    for grad in grads:
        ours.step(grad)
        theirs.step(grad)
    close(ours.param, theirs.param)


def test_stable_adamw_clips_the_update() -> None:
    """The rows above would agree, too, if no gradient were ever larger than its moment says: these are."""
    param, grads = data(np.float64)
    ours = Run("stable_adamw", param, {"lr": 0.1, "weight_decay": 0.0})
    ours.step(grads[0])
    before = ours.param.copy()
    ours.step(1e3 * grads[1])
    assert np.abs(ours.param - before).max() < 0.1


@pytest.mark.parametrize("decay", [0.0, 0.02, 2.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_against_the_paper(decay: float, momentum: float) -> None:
    param, grads = data(np.float64)
    ours = Run("lars", param, {"lr": 0.1, "weight_decay": decay, "momentum": momentum, "trust_coefficient": 0.02})
    for grad in grads:
        ours.step(grad)
    close(ours.param, authors_lars(param, grads, 0.1, momentum, decay, 0.02))


@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize(("warmup", "r"), [(0, 0.0), (10, 0.0), (30, 0.5), (200, 2.0)])
@pytest.mark.parametrize("beta2", [None, 0.99])
def test_schedule_free_against_the_paper(decay: float, warmup: int, r: float, beta2: float | None) -> None:
    param, grads = data(np.float64)
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": decay, "warmup_steps": warmup, "r": r}
    rule = "schedule_free_sgd" if beta2 is None else "schedule_free_adamw"
    ours = Run(rule, param, options | ({"momentum": 0.8} if beta2 is None else {"betas": (0.8, beta2)}))
    for grad in grads:
        ours.step(grad)
    y, x = authors_schedule_free(param, grads, 0.05, (0.8, beta2), decay, warmup, r)
    close(ours.param, y)
    z = ours.states["z"]
    assert z is not None
    close(reference.schedule_free_average(ours.param, z, beta=0.8), x)
