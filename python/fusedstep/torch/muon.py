"""Muon for the matrices of a model, with another rule for all other parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._hyper import check_hyper
from .._step_options import GROUP_OPTIONS
from ..optimizers.muon import complete_rest
from ..reference import RULES
from ..reference._newton_schulz import as_matrices
from ._base import FusedOptimizer
from ._directions import TensorDirections, check_matrix, make_directions, product_dtype
from ._options import Options, plain
from ._parts import check_placements
from ._slots import TensorSlot, check_initialized
from ._states import local

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizers import Params

__all__ = ["Muon"]

NS_DTYPES = (None, torch.float32, torch.bfloat16)

if TYPE_CHECKING:
    Base = torch.optim.Optimizer
else:
    Base = getattr(torch.optim, "Muon", torch.optim.Optimizer)  # torch has it since 2.9


class Muon(FusedOptimizer, Base):
    """Muon for matrices: ``torch.optim.Muon``, faster, and AdamW or another rule for the rest.

    The formula is that of `fusedstep.Muon`. All matrices of one shape go through the Newton-Schulz iterations together.

    Parameters
    ----------
    params
        As in ``torch.optim``. Unlike there, parameters need not be matrices. Each group that is given becomes up to two
        in ``param_groups``, one of matrices and one of the rest, with an entry ``"rule"``. A group with an entry
        ``"rule"`` stays one: ``{"params": embedding, "rule": "adamw", "lr": 3e-4}``; `fusedstep.torch.groups` makes
        such groups by a condition.
    lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn
        As in ``torch.optim.Muon``, for matrices.
    reshape
        Which parameters of more than two axes are matrices (see `fusedstep.Muon`): None, ``"flatten"`` or ``"batch"``.
    rest
        Options of the rest: those of AdamW, or of the rule under ``"rule"``, such as ``{"rule": "lion", "lr": 1e-4}``.
        What it does not say has the defaults of that rule in `fusedstep`.
    ns_dtype
        Of the matrix products: ``torch.bfloat16``, as in ``torch.optim.Muon``, or ``torch.float32``, in which
        parameters of float64 have theirs in float64. None is bfloat16 where the CPU has instructions for it, but for
        parameters of float64.
    **options
        See `Options`, for the rest too.

    Notes
    -----
    The matrix products are torch's. Their bits depend on the machine and its libraries; all else is exact.

    Between steps, a direction per matrix element is kept in memory, in the dtype of the products.

    A distributed matrix (``DTensor``) is made orthogonal whole, by one of the processes that have parts of it.

    Complex parameters belong to the rest.

    Examples
    --------
    >>> import torch
    >>> from fusedstep.torch import Muon
    >>> model = torch.nn.Linear(3, 2)
    >>> opt = Muon(model.parameters(), lr=0.02, rest={"lr": 3e-4})
    >>> model(torch.ones(4, 3)).sum().backward()
    >>> opt.step()
    >>> [(group["rule"], group["lr"]) for group in opt.param_groups]
    [('muon', 0.02), ('adamw', 0.0003)]
    """

    rule = "muon"
    counts_steps = False
    kept_options = (*FusedOptimizer.kept_options, "rule", "reshape")
    _rest: dict[str, Any]
    _ns_dtype: torch.dtype | None
    _pickled = (*FusedOptimizer._pickled, "_rest", "_ns_dtype")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        reshape: str | None = None,
        rest: Mapping[str, Any] | None = None,
        ns_dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "reshape": reshape,
        }
        if rest is not None and not isinstance(rest, Mapping):
            raise TypeError(f"rest: got {type(rest).__name__}, needs a dict of options")
        _check_ns_dtype(ns_dtype)
        shared = {name: options.get(name, value) for name, value in GROUP_OPTIONS.items()}
        self.__dict__["_rest"] = _with_rest(shared, rest or {}, "rest")
        self.__dict__["_ns_dtype"] = ns_dtype
        super().__init__(params, hypers, options)

    @classmethod
    def _arguments(cls) -> tuple[list[inspect.Parameter], str]:
        return [parameter for parameter in RULES["muon"].arguments if parameter.name != "reshape"], "Options"

    def _make(self, params: Params, hypers: dict[str, Any]) -> None:
        groups = [params] if isinstance(params, Tensor) else list(params)
        if groups and not isinstance(params, Tensor):
            whole = groups if isinstance(groups[0], dict) else [{"params": groups}]
            groups = [part for group in whole for part in self._divided(group)]
        torch.optim.Optimizer.__init__(self, params if isinstance(params, Tensor) else groups, hypers)

    # ---- rules ----

    def _rule_of(self, group: Mapping[str, Any]) -> str:
        return str(group.get("rule", "muon"))

    def _has_count(self, group: Mapping[str, Any]) -> bool:
        return self._rule_of(group) != "muon"

    def _own_of(self, group: Mapping[str, Any]) -> dict[str, Any]:
        if self._rule_of(group) == "muon":
            return self._own
        return {name: value for name, value in self._own.items() if name in GROUP_OPTIONS}

    def _defaults_of(self, group: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The options of a group that does not give its own."""
        rule = group.get("rule", "muon")
        if rule == "muon":
            defaults = {name: self.defaults[name] for name in RULES["muon"].hypers if name in self.defaults}
            return {**defaults, **self._own, "rule": "muon"}
        if rule == self._rest["rule"]:
            return self._rest
        return _with_rest({name: self._own[name] for name in GROUP_OPTIONS}, {"rule": rule}, where, ("muon",))

    def _divided(self, given: Any) -> list[dict[str, Any]]:
        """A group that gives no rule, in two: matrices, and the rest."""
        params = given.get("params") if isinstance(given, dict) else None
        if isinstance(params, Tensor):
            params = [params]
        if isinstance(params, set) or not isinstance(params, Iterable):
            return [given]  # torch says what is wrong with it
        params = list(params)
        reshape = given.get("reshape", self._own["reshape"])
        if "rule" in given:
            return [{**given, "params": params}]
        matrices, others = list[Any](), list[Any]()
        for entry in params:
            param = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
            check_initialized(param, f"params[{len(matrices) + len(others)}]")
            shape = tuple(param.shape) if isinstance(param, Tensor) and not param.is_complex() else ()
            (others if as_matrices(shape, reshape) is None else matrices).append(entry)
        of_matrices = {*RULES["muon"].hypers, "initial_lr"}  # which a scheduler puts beside "lr"
        rest = {name: value for name, value in given.items() if name not in of_matrices}
        divided = [{**given, "params": matrices, "rule": "muon"}] * bool(matrices or not others)
        return divided + [{**rest, "params": others, "rule": self._rest["rule"]}] * bool(others)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own (see `FusedOptimizer.add_param_group`): matrices, or others.

        Raises
        ------
        TypeError, ValueError
            It holds both, and no ``"rule"`` for all of them, or one with the rule ``"muon"`` that is no matrix.
        """
        number = len(self.param_groups)
        where = f"param_groups[{number}]"
        divided = self._divided(param_group)
        if len(divided) > 1:
            raise ValueError(
                f'{where}["params"]: got matrices and others, needs one kind; add two groups, or give it a "rule"'
            )
        group = divided[0]
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            super().add_param_group(group)  # torch says what is wrong with it
            return
        defaults = self._defaults_of(group, where)
        self._check_matrices({**defaults, **group}, number)
        before, self.defaults = self.defaults, defaults
        try:
            super().add_param_group(group)
        finally:
            self.defaults = before

    def _fill_in(self, group: dict[str, Any], where: str) -> None:
        for name, value in self._defaults_of(group, where).items():
            group.setdefault(name, value)
        super()._fill_in(group, where)
        states, kept = self._all_states(), {state.name for state in RULES[group["rule"]].states}
        for param in group["params"]:
            held = states.get(param, {}).keys()
            if not held & kept and (of_another := sorted(held & OTHER_STATES)):
                raise ValueError(
                    f'{where}["rule"]: got {group["rule"]!r}, needs the rule whose states the parameters have '
                    f"({', '.join(of_another)}); delete optimizer.state[parameter] first"
                )

    def _check_matrices(self, group: Mapping[str, Any], number: int) -> None:
        """Check that all parameters of a group with the rule ``"muon"`` are matrices."""
        names = group.get("param_names") or ()
        for i, entry in enumerate(group["params"] if group["rule"] == "muon" else ()):
            name, param = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry)
            if isinstance(param, Tensor):
                name = names[i] if i < len(names) else name
                where = "params" + (f"[{number}][{i}]" if name is None else f'["{name}"]')
                if local(param) is not param:
                    check_placements("muon", param, where)
                check_matrix(param, group["reshape"], where)

    # ---- directions ----

    @property
    def ns_dtype(self) -> torch.dtype | None:
        """The dtype of the matrix products that was given."""
        return self._ns_dtype

    def _directions(self, slots: Sequence[TensorSlot]) -> TensorDirections:
        this = self._itself

        def agree(error: BaseException | None) -> None:
            this()._parts.agree(error, [])

        return make_directions(self.param_groups, slots, self._ns_dtype, agree)

    def _facts(self) -> list[tuple[str, str]]:
        products = product_dtype(torch.float32, self._ns_dtype)  # of None, the processor's choice
        return [*super()._facts(), ("ns_dtype", f"{self._ns_dtype} (products in {products})")]

    def _restore(self, state: dict[str, Any], loaded: bool) -> None:
        if not loaded:
            rest = _with_rest(GROUP_OPTIONS, state["_rest"], "_rest")
            _check_ns_dtype(state["_ns_dtype"])
            check_hyper("reshape", state["_own"]["reshape"])
            state = {**state, "_rest": rest}
            self.__dict__["_rest"] = rest  # which says what the groups lack
        super()._restore(state, loaded)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_rest": self._rest, "_ns_dtype": self._ns_dtype}


OTHER_STATES = frozenset(state.name for rule in RULES.values() for state in rule.states)


def _check_ns_dtype(dtype: Any) -> None:
    if dtype not in NS_DTYPES:
        raise ValueError(f"ns_dtype: got {dtype!r}, needs one of {', '.join(map(str, NS_DTYPES))}")


def _with_rest(
    shared: Mapping[str, Any], given: Mapping[str, Any], where: str, others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Options of a rule for the rest, checked, with defaults for those that are not given."""
    plain_ones = {name: value if name == "rule" else plain(value) for name, value in given.items()}
    return complete_rest({n: plain(v) for n, v in shared.items()}, plain_ones, where, others) | dict(given)
