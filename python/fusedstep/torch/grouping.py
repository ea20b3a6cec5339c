"""Parameter groups of a module by a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ..grouping import Made, by_layer, split

__all__ = ["NamedGroups", "groups", "layer_decay"]

Named = nn.Module | Iterable[tuple[str, Tensor]]


class NamedGroups(Made):
    """Groups for any optimizer of torch, which still know the parameters' names."""

    def __init__(
        self,
        names: Sequence[str],
        params: Sequence[Tensor],
        members: Sequence[list[int]],
        options: Sequence[dict[str, Any]],
    ) -> None:
        self.names = names
        super().__init__(params, members, options)


def _as_groups(params: Named | NamedGroups) -> NamedGroups:
    if isinstance(params, NamedGroups):
        return params.checked()
    named = list(params.named_parameters() if isinstance(params, nn.Module) else params)
    for entry in named:
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], Tensor)):
            raise TypeError(
                f"params: got {type(entry).__name__}, needs a module, or pairs such as named_parameters() has"
            )
    if not named:
        raise ValueError("params: holds no parameters, needs at least one")
    return NamedGroups([str(n) for n, _ in named], [p for _, p in named], [list(range(len(named)))], [{}])


def groups(params: Named | NamedGroups, *, where: Callable[[str, Tensor], Any], **options: Any) -> NamedGroups:
    """Split a module's parameters into groups, as `fusedstep.groups` does arrays.

    Parameters
    ----------
    params
        A module, its ``named_parameters()``, or what this function returned.
    where
        Called with the name of every parameter (``"layer1.weight"``), and with the parameter.
    **options
        Options of the chosen parameters.

    Returns
    -------
    NamedGroups
        A list of groups for any optimizer of torch. Those that were not chosen come first.

    Raises
    ------
    TypeError
        `where` is no function, or `params` holds something else.
    ValueError
        `where` chose no parameter, or there are no `options` to give them.
    """
    given = _as_groups(params)
    members, of_each = split(given.names, given.leaves, given.members, given.options, where, options)
    return NamedGroups(given.names, given.leaves, members, of_each)


def layer_decay(
    params: Named | NamedGroups, *, lr: float, decay: float, layer: Callable[[str, Tensor], int]
) -> NamedGroups:
    """Split by layer, each with `decay` times the learning rate of the layer above it, as `fusedstep.layer_decay`.

    Parameters
    ----------
    params
        As for `groups`.
    lr
        Learning rate of the highest layer, finite and >= 0.
    decay
        Factor from a layer to the one below it, above 0 and at most 1.
    layer
        Called with a parameter's name and the parameter; returns the number of its layer, >= 0.

    Raises
    ------
    TypeError
        `layer` is no function, or does not return integers.
    ValueError
        A number is out of its range.
    """
    given = _as_groups(params)
    members, of_each = by_layer(given.names, given.leaves, given.members, given.options, lr, decay, layer)
    return NamedGroups(given.names, given.leaves, members, of_each)
