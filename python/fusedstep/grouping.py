"""Parameter groups by a condition: no decay for biases, smaller rates for lower layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ._arguments import real, whole
from ._group_options import Structure
from ._structures import tree

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Grouping", "Made", "as_grouping", "groups", "layer_decay"]


class Made(list[dict[str, Any]]):
    """Groups that were made of the leaves of something whole.

    The options of a group may be changed. What is taken out, put in or reordered is a ValueError when it is used.

    Attributes
    ----------
    leaves
        All parameters.
    members
        For each group, the places of its parameters among the leaves.
    """

    def __init__(self, leaves: Sequence[Any], members: Sequence[list[int]], options: Sequence[dict[str, Any]]) -> None:
        self.leaves, self.members = leaves, list(members)
        chosen = zip(members, options, strict=True)
        super().__init__({"params": [leaves[i] for i in places], **given} for places, given in chosen)

    @property
    def options(self) -> list[dict[str, Any]]:
        """What each group gives beside its parameters."""
        return [{name: value for name, value in group.items() if name != "params"} for group in self]

    def checked(self) -> Self:
        """The groups themselves.

        Raises
        ------
        ValueError
            They are not the ones that were made, with the same parameters in the same order.
        """
        whole = len(self) == len(self.members)
        for group, places in zip(self, self.members, strict=False):
            own = group.get("params") if isinstance(group, dict) else None
            whole = whole and isinstance(own, list) and len(own) == len(places)
            whole = whole and all(a is self.leaves[i] for a, i in zip(own or (), places, strict=True))
        if not whole:
            raise ValueError(
                "params: got groups that were changed since they were made, needs all of them with their parameters in "
                "order (their options may change); make new ones"
            )
        return self


class Grouping(Made):
    """Groups of the leaves of one structure: what an optimizer takes, with gradients of that structure.

    Attributes
    ----------
    structure
        The parameters as they were given.
    paths
        Of every parameter, in the structure's order.
    """

    def __init__(self, structure: Structure, members: Sequence[list[int]], options: Sequence[dict[str, Any]]) -> None:
        found, count = tree(structure, "params"), sum(map(len, members))
        if members and len(found.leaves) != count:
            raise ValueError(f"params: got {len(found.leaves)} arrays, needs the {count} that there were a moment ago")
        self.structure, self.paths = structure, found.paths
        super().__init__(found.leaves, members, options)


def as_grouping(params: Structure) -> Grouping:
    """A structure as one group of all its leaves; groups as they are."""
    if isinstance(params, Grouping):
        return params.checked()
    count = len(tree(params, "params").leaves)
    if count == 0:
        raise ValueError("params: holds no arrays, needs at least one")
    return Grouping(params, [list(range(count))], [{}])


def groups(params: Structure, *, where: Callable[[str, Any], Any], **options: Any) -> Grouping:
    """Split parameters into groups: those of which `where` is true get these options.

    Gradients keep the structure of the parameters, and checkpoints their names.

    Parameters
    ----------
    params
        The parameters, or what this function returned: its groups are split further.
    where
        Called with the path of every parameter, as messages and state dicts show it (``'["layer1"]["W"]'``), and with
        the array.
    **options
        Hyper-parameters and group options of the chosen parameters.

    Returns
    -------
    Grouping
        A list of groups for an optimizer. Those that were not chosen come first.

    Raises
    ------
    TypeError
        `where` is no function.
    ValueError
        `where` chose no parameter, or there are no `options` to give them.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> params = {"W": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    >>> opt = fs.AdamW(fs.groups(params, where=lambda path, p: p.ndim < 2, weight_decay=0.0), weight_decay=0.1)
    >>> opt.step({"W": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)})
    True
    >>> params["W"][0, 0] < 1, params["b"][0]
    (np.True_, np.float32(1.0))
    """
    given = as_grouping(params)
    members, of_each = split(given.paths, given.leaves, given.members, given.options, where, options)
    return Grouping(given.structure, members, of_each)


def layer_decay(params: Structure, *, lr: float, decay: float, layer: Callable[[str, Any], int]) -> Grouping:
    """Split parameters by layer, each with `decay` times the learning rate of the layer above it.

    The layer with the highest number keeps `lr`; layer ``l`` has ``lr * decay**(highest - l)``. Howard and Ruder
    (2018), "Universal language model fine-tuning for text classification"; Clark et al. (2020), "ELECTRA".

    Parameters
    ----------
    params
        The parameters, or what `groups` returned.
    lr
        Learning rate of the highest layer, finite and >= 0.
    decay
        Factor from a layer to the one below it, above 0 and at most 1.
    layer
        Called as `groups` calls `where`; returns the number of the parameter's layer, >= 0.

    Raises
    ------
    TypeError
        `layer` is no function, or does not return integers.
    ValueError
        A number is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> params = [np.ones(3, np.float32) for _ in range(3)]
    >>> layers = fs.layer_decay(params, lr=1.0, decay=0.5, layer=lambda path, p: int(path[1]))
    >>> [group["lr"] for group in layers]
    [0.25, 0.5, 1.0]
    """
    given = as_grouping(params)
    members, of_each = by_layer(given.paths, given.leaves, given.members, given.options, lr, decay, layer)
    return Grouping(given.structure, members, of_each)


# ---- what the faces share: groups as lists of places among the parameters, and the options of each


def split(
    paths: Sequence[str],
    leaves: Sequence[Any],
    members: Sequence[list[int]],
    before: Sequence[dict[str, Any]],
    where: Callable[[str, Any], Any],
    options: dict[str, Any],
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Split every group in two; those that were not chosen come first."""
    if not callable(where):
        raise TypeError(f"where: got {type(where).__name__}, needs a function of a path and an array")
    if not options:
        raise ValueError("groups: got no options, needs at least one, such as weight_decay=0.0")
    left: list[tuple[list[int], dict[str, Any]]] = []
    chosen: list[tuple[list[int], dict[str, Any]]] = []
    for places, old in zip(members, before, strict=True):
        found: list[int] = []
        rest: list[int] = []
        for i in places:
            answer = where(paths[i], leaves[i])
            try:
                (found if answer else rest).append(i)
            except ValueError:  # an array of more than one element
                raise TypeError(f"where({paths[i]}): got {type(answer).__name__}, needs True or False") from None
        left += [(rest, old)] * bool(rest)
        chosen += [(found, old | options)] * bool(found)
    if not chosen:
        raise ValueError(
            f"where: got true for none of the {len(leaves)} parameters, needs one; paths look like {paths[0]}"
        )
    return [places for places, _ in left + chosen], [of_each for _, of_each in left + chosen]


def by_layer(
    paths: Sequence[str],
    leaves: Sequence[Any],
    members: Sequence[list[int]],
    before: Sequence[dict[str, Any]],
    lr: float,
    decay: float,
    layer: Callable[[str, Any], int],
) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Split every group by layer, from the lowest."""
    if not callable(layer):
        raise TypeError(f"layer: got {type(layer).__name__}, needs a function of a path and an array")
    top, factor = real("lr", lr, low=0.0), real("decay", decay, above=0.0, high=1.0)
    found: dict[tuple[int, int], list[int]] = {}
    for number, places in enumerate(members):
        for i in places:
            at = whole(f"layer({paths[i]})", layer(paths[i], leaves[i]))
            found.setdefault((at, number), []).append(i)
    highest = max(at for at, _ in found)
    rates = [before[number] | {"lr": top * factor ** (highest - at)} for at, number in sorted(found)]
    return [found[key] for key in sorted(found)], rates
