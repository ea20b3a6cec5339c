"""What torch's data-parallel modules do to parameters and gradients: what would go wrong with them is refused."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..reference import RULES
from ._states import local

__all__ = ["check_flat", "check_gradients_final"]


def check_gradients_final(params: Sequence[Tensor]) -> None:
    """Check that gradients are what a step needs as soon as they arrive.

    DistributedDataParallel averages them over the processes later: each process would step with its own. A module that
    is wrapped leaves no trace on its parameters, so this looks for the wrapper.

    Raises
    ------
    ValueError
        They are not.
    """
    if not params or not _processes():
        return
    given = {id(param) for param in params}
    for module in gc.get_objects():
        if not issubclass(type(module), DistributedDataParallel) or "module" not in vars(module).get("_modules", ()):
            continue
        ignored = module.parameters_to_ignore
        if any(id(p) in given for name, p in module.module.named_parameters() if name not in ignored):
            raise ValueError(
                "params: got those of DistributedDataParallel, which averages gradients after they have arrived, "
                "needs step() after backward(); leave out apply_in_backward or free_gradients"
            )
    if any(getattr(param, "_is_flat_param", False) for param in params):
        raise ValueError(
            "params: got flat ones of FullyShardedDataParallel, which reads gradients after they have arrived, "
            "needs use_orig_params=True or step() after backward(), without apply_in_backward or free_gradients"
        )


def check_flat(groups: Sequence[dict[str, Any]], rules: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Check that nothing needs norms or whole matrices of what FullyShardedDataParallel has cut up.

    Its parts are plain tensors that do not say where they belong, so that their sums cannot be added up.

    Raises
    ------
    ValueError
        An option or rule that needs them.
    """
    flat = [any(_is_flat(param) for param in group["params"]) for group in groups]
    if not any(flat) or _processes() < 2:
        return
    parts = "with parameters of FullyShardedDataParallel, parts that do not say where they belong,"
    mend = "those of fully_shard (FSDP2) do"
    if settings["max_grad_norm"] is not None:
        raise ValueError(
            f"max_grad_norm: got {settings['max_grad_norm']!r} {parts} needs None; the module's clip_grad_norm_() "
            f"clips; {mend}"
        )
    if settings["skip_nonfinite"]:
        raise ValueError(f"skip_nonfinite: got True {parts} needs False; {mend}")
    for number, (group, name) in enumerate(zip(groups, rules, strict=True)):
        rule = RULES[name]
        if flat[number] and (rule.norms or rule.matrices or rule.factored):
            raise ValueError(f'param_groups[{number}]["params"]: got {name} {parts} needs an element-wise rule; {mend}')
        if flat[number] and group["cautious"]:
            raise ValueError(f'param_groups[{number}]["cautious"]: got True {parts} needs False; {mend}')


def _is_flat(param: Tensor) -> bool:
    """Whether a parameter is a flat one of FullyShardedDataParallel, or a view of such."""
    flat = getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False)
    return bool(flat) and local(param) is param


def _processes() -> int:
    """How many processes there are; 0 where none have been joined."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 0
