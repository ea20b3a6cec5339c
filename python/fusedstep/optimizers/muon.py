"""Muon for matrices, with another rule for all other parameters."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arguments import choice, same
from .._base import Number, Optimizer, Options, Structure, is_group
from .._directions import Matrices, NumPyDirections
from .._group_options import check_group
from .._groups import unknown_option
from .._hyper import check_hyper
from .._option_trees import is_tree
from .._slots import Slot
from .._step_options import GROUP_OPTIONS
from .._structures import tree
from ..grouping import Grouping
from ..reference import RULES
from ..reference._newton_schulz import as_matrices, check_matrices

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Muon"]


class Muon(Optimizer):
    r"""Momentum made orthogonal, for matrices, as ``torch.optim.Muon``; AdamW or another rule for the rest.

    .. math::
        m &\leftarrow \mu m + (1 - \mu) g \\
        u &= m \quad ((1 - \mu) g + \mu m \text{ with nesterov}) \\
        O &= \mathrm{NewtonSchulz}(u / \max(\|u\|, \epsilon)) \\
        p &\leftarrow (1 - \eta \lambda) p - \eta f O

    Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks", with the decay and the factor
    :math:`f` of Liu et al. (2025), "Muon is scalable for LLM training", equation 4.

    Matrices are the parameters of two axes, and of four or five, a convolution's, taken as a matrix with the first axis
    as its rows. All others are the rest. Each group that is given becomes up to two in `param_groups`, one of matrices
    and one of the rest, with an entry ``"rule"``. Gradients keep the structure of what was given. A group with an entry
    ``"rule"`` stays one: ``{"params": embedding, "rule": "adamw", "lr": 3e-4}``.

    Parameters
    ----------
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta` of matrices.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    momentum
        Weight :math:`\mu` of the old average, in [0, 1).
    nesterov
        Look ahead along the average.
    ns_coefficients, ns_steps
        Coefficients and number, 1 to 99, of the Newton-Schulz iterations.
    eps
        Least norm by which the direction is divided.
    adjust_lr_fn
        Factor :math:`f`: ``"original"`` or None is :math:`\sqrt{\max(1, rows / columns)}`, ``"match_rms_adamw"``
        :math:`0.2 \sqrt{\max(rows, columns)}`, with which rate and decay of AdamW fit.
    reshape
        ``"flatten"`` takes all parameters of three axes or more as a matrix with the first axis as its rows,
        ``"batch"`` as a batch of matrices of the last two axes, such as the weights of experts.
    rest
        Options of the rest: those of AdamW, or of the rule under ``"rule"``, such as ``{"rule": "lion", "lr": 1e-4}``.
        What it does not say has the defaults of that rule.
    **options
        Options of every optimizer (see `Optimizer`), for the rest too.

    Notes
    -----
    The matrix products are NumPy's. Their bits depend on the machine and its BLAS library; all else is exact.

    Between steps, a direction per matrix element is kept in memory: 4 bytes, 8 for float64.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> params = {"W": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    >>> opt = fs.Muon(params, lr=0.02, rest={"lr": 3e-4})
    >>> opt.step({name: np.ones_like(p) for name, p in params.items()})
    True
    >>> [(group["rule"], group["lr"]) for group in opt.param_groups]
    [('muon', 0.02), ('adamw', 0.0003)]
    """

    rule = "muon"
    _rest: dict[str, Any]
    _reshape: str | None

    def __init__(
        self,
        params: Structure,
        lr: Number = 1e-3,
        weight_decay: Number = 0.1,
        momentum: Number = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: Number = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        reshape: str | None = None,
        *,
        rest: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "rule": "muon",
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
        given = {name: options.get(name, value) for name, value in GROUP_OPTIONS.items()}
        # A tree's values come with the groups that it makes.
        shared = {name: GROUP_OPTIONS[name] if is_tree(name, value) else value for name, value in given.items()}
        self._rest = complete_rest(shared, rest or {}, "rest")
        self._reshape = reshape
        super().__init__(self._grouping(params), defaults, options)
        if _has_groups(params) and not isinstance(params, Grouping):  # gradients are a list of theirs
            self._grouped, self._structures = True, list(self._structures[0])

    def _rule_of(self, group: Mapping[str, Any]) -> str:
        return str(group["rule"])

    def _defaults_of(self, group: Mapping[str, Any], number: int) -> dict[str, Any]:
        rule = group.get("rule", "muon")
        if same(rule, "muon"):
            return self.defaults
        if same(rule, self._rest["rule"]):
            return self._rest
        shared = {name: self.defaults[name] for name in GROUP_OPTIONS}
        return complete_rest(shared, {"rule": rule}, f"param_groups[{number}]", ("muon",))

    _pickled = (*Optimizer._pickled, "_rest", "_reshape")

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._rest = complete_rest(GROUP_OPTIONS, state["_rest"], "_rest")
        self._reshape = check_hyper("reshape", state["_reshape"])

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own (see `Optimizer.add_param_group`): matrices, or others.

        Raises
        ------
        ValueError
            It holds both, and no ``"rule"`` for all of them.
        """
        if isinstance(group, Mapping) and "params" in group:
            added = Grouping([group["params"]], [], [])
            members = [list(range(len(added.leaves)))]
            options = [{name: value for name, value in group.items() if name != "params"}]
            divided = self._divided(added.leaves, added.paths, members, options)
            if len(divided) > 1:
                raise ValueError(
                    'group["params"]: got matrices and others, needs one kind; add two groups, or give it a "rule"'
                )
            group = {**group, **(divided[0][1] if divided else {})}
        super().add_param_group(group)

    def _grouping(self, params: Structure) -> Grouping:
        """Groups of one rule each, over the structure that was given."""
        if isinstance(params, Grouping):
            structure, members, options = params.structure, params.checked().members, params.options
        elif _has_groups(params):
            structure, options = [group["params"] for group in params], []
            members, count = [], 0
            for i, group in enumerate(params):
                size = len(tree(group["params"], f'params[{i}]["params"]').leaves)
                if size == 0:
                    raise ValueError(f'params[{i}]["params"]: holds no arrays, needs at least one')
                members.append(list(range(count, count + size)))
                options.append({name: value for name, value in group.items() if name != "params"})
                count += size
        else:
            structure, options = params, [{}]
            members = [list(range(len(tree(params, "params").leaves)))]
        found = Grouping(structure, members, options)
        divided = self._divided(found.leaves, found.paths, members, options)
        return Grouping(structure, [places for places, _ in divided], [own for _, own in divided])

    def _divided(
        self,
        leaves: Sequence[Any],
        paths: Sequence[str],
        members: Sequence[list[int]],
        options: Sequence[Mapping[str, Any]],
    ) -> list[tuple[list[int], dict[str, Any]]]:
        """Groups that give no rule are divided: matrices, and the rest."""
        shapes = [leaf.shape if isinstance(leaf, np.ndarray) else () for leaf in leaves]
        divided = []
        for places, given in zip(members, options, strict=True):
            reshape = check_hyper("reshape", given.get("reshape", self._reshape))
            if "rule" in given:
                for k in places if same(given["rule"], "muon") else ():
                    if isinstance(leaves[k], np.ndarray):
                        check_matrices(shapes[k], reshape, "params" + paths[k])
                divided.append((places, dict(given)))
                continue
            matrices = [k for k in places if as_matrices(shapes[k], reshape) is not None]
            others = [k for k in places if as_matrices(shapes[k], reshape) is None]
            rest = {name: value for name, value in given.items() if name in GROUP_OPTIONS or not matrices}
            divided += [(matrices, dict(given))] * bool(matrices)
            divided += [(others, rest | {"rule": self._rest["rule"]})] * bool(others)
        return divided

    def _directions(self, groups: Sequence[Mapping[str, Any]], slots: Sequence[Slot], first: int) -> NumPyDirections:
        matrices = [
            Matrices.of(i, slot.group, slot.array, group["reshape"], "params" + slot.path)
            for i, slot in enumerate(slots)
            if (group := groups[slot.group - first])["rule"] == "muon"
        ]
        this = weakref.ref(self)  # the model must not keep its optimizer alive

        def options(number: int) -> dict[str, Any]:
            optimizer = this()
            assert optimizer is not None
            group = groups[number - first]
            return {name: optimizer._now(group[name]) for name in ("eps", *RULES["muon"].outside)}

        return NumPyDirections(matrices, options, 'param_groups[{}]["{}"]')

    def memory(self) -> dict[str, float]:
        """Bytes held per parameter (see `Optimizer.memory`), with those of the matrices' ``"directions"``."""
        held = super().memory()
        matrices = [slot for slot in self._slots if self._rule_of(self._groups[slot.group]) == "muon"]
        size = sum(slot.param.size * slot.compute.itemsize for slot in matrices)
        held["directions"] = size / (sum(slot.param.size for slot in self._slots) or 1)
        held["total"] = held.pop("total") + held["directions"]
        return held


def _has_groups(params: Structure) -> bool:
    return isinstance(params, (list, tuple)) and bool(params) and all(map(is_group, params))


def complete_rest(
    shared: Mapping[str, Any], given: Mapping[str, Any], where: str, others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Options of a rule for the rest, checked, with defaults for those that are not given."""
    rule = given.get("rule", "adamw")
    choice(f'{where}["rule"]', rule, (*others, *_rest_rules()))
    known = {"rule": rule, **RULES[rule].hypers, **shared}
    unknown = sorted(given.keys() - known.keys(), key=str)
    if unknown:
        raise unknown_option(where, unknown[0], known)
    options = known | dict(given)
    check_group(rule, options, f'{where}["{{}}"]')
    return options


def _rest_rules() -> tuple[str, ...]:
    """Rules that need nothing of their class."""
    from .. import optimizers

    found = set()
    for name in optimizers.__all__:
        kind = getattr(optimizers, name)
        if kind is Optimizer or kind.step is not Optimizer.step or RULES[kind.rule].matrices:
            continue
        rule = RULES[kind.rule]
        initial = (*(state.initial for state in rule.states), *rule.initial_scalars.values())
        if all(not isinstance(first, str) or first in rule.hypers for first in initial):
            found.add(kind.rule)
    return tuple(sorted(found - {"sparse_adam"}))  # which needs rows
