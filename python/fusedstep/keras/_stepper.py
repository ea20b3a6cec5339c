"""A Keras model's variables as the native engine takes them: the memory of torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from keras import Variable, ops
from torch import Tensor

from .._arguments import escaped
from .._core import Memory, Model
from .._held import check_storage
from ..torch._reading import memory, quiet
from ..torch._states import check_mode, increment_versions

__all__ = ["NARROW", "Row", "Stepper", "check_variable"]

NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
NARROW = ("float16", "bfloat16")


def check_variable(variable: Any) -> None:
    """Check that a variable's memory can be stepped on.

    Parameters
    ----------
    variable
        A ``keras.Variable``.

    Raises
    ------
    TypeError
        Its dtype, or the kind of its tensor, is another.
    ValueError
        It lies on another device than the CPU.
    """
    if not isinstance(variable, Variable):
        raise TypeError(f"variables: got {type(variable).__name__} among them, needs keras.Variable")
    name, value = f'variables["{variable.path}"]', variable.value
    if value.device.type != "cpu":
        raise ValueError(
            f"{name}: got a tensor on {value.device}, needs one on the CPU; set the environment variable "
            'KERAS_TORCH_DEVICE=cpu, or make the model inside keras.device("cpu")'
        )
    if hasattr(value, "_local_tensor") or not _is_plain(value):
        raise TypeError(f"{name}: got {type(value).__name__} ({value.layout}), needs a dense tensor of this process")
    if value.dtype not in NAMES:
        raise TypeError(f"{name}: got {value.dtype}, needs {', '.join(NAMES.values())}")


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's elements are what lies in its memory, with nothing else."""
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized


@dataclass
class Row:
    """A variable and what goes with it: its optimizer variables in the order of the rule's states (None where the
    options do not use one), the variable of its moving average, and the number of its group, 0 if its weights decay.
    """

    variable: Any
    states: list[Any]
    average: Any
    group: int


class Stepper:
    """One native model over all rows.

    Parameters
    ----------
    rule
        The update rule.
    rows
        What it steps; read once, see `moved`.
    groups
        Hyper-parameters of the rule; the dicts are read again at every step.
    inference
        The path of a variable, of the optimizer or among the rows, that was made in inference mode, if there is one.

    Raises
    ------
    TypeError, ValueError
        A variable that cannot be stepped on, or options whose states are missing.
    """

    def __init__(
        self, rule: str, rows: Sequence[Row], groups: list[dict[str, Any]], inference: str | None = None
    ) -> None:
        self.groups, self._inference = groups, inference
        self.numbers = {id(row.variable): i for i, row in enumerate(rows)}
        self.paths = [escaped(row.variable.path) for row in rows]
        self._step: int | None = 0  # the native count of every row; None when they differ
        self._seen: list[tuple[Any, Tensor, int, torch.dtype, int]] = []
        self.model = Model(rule)
        self.model.clip_exactly = True
        self._max_norm = 0.0
        for group in groups:
            self.model.add_group(group)
        for row in rows:
            check_variable(row.variable)
            self.model.add(
                row.group,
                self._memory(row.variable),
                [None if state is None else self._memory(state) for state in row.states],
                path=f'["{escaped(row.variable.path)}"]',
                ema=None if row.average is None else self._memory(row.average),
            )
        self._params = [row.variable.value for row in rows]
        self._decays = [row.group == 0 for row in rows]
        self.model.finish()

    def _memory(self, variable: Any) -> Memory:
        value = variable.value
        check_storage(value, f'variables["{variable.path}"]')
        if _is_plain(value) and not value.is_contiguous():
            value.data = value.contiguous()
        self._seen.append((variable, value, value.data_ptr(), value.dtype, value.nbytes))
        return memory(value, f'variables["{escaped(variable.path)}"]')

    def moved(self) -> bool:
        """Whether a variable has another tensor, or its tensor other elements, than when this was made."""
        for variable, value, at, dtype, nbytes in self._seen:
            if variable._value is not value or value.data_ptr() != at:
                return True
            if value.dtype is not dtype or value.nbytes != nbytes or not value.is_contiguous():
                return True
        return False

    def check_mode(self) -> None:
        """Raise RuntimeError where autograd would, after the step: torch writes before it finds that it must not."""
        if self._inference is not None:
            check_mode(f'variables["{self._inference}"]')

    def check_memory(self) -> None:
        """Raise RuntimeError where a variable's memory is no longer there."""
        for variable, value, at, _, _ in self._seen:
            if value.data_ptr() != at or value.untyped_storage().nbytes() < value.nbytes:
                raise RuntimeError(f'variables["{variable.path}"]: was moved while a step was taken')

    def fit(
        self, numbers: Sequence[int], grads: Sequence[Any], what: str = "grads", *, read: bool = False
    ) -> list[Tensor]:
        """Gradients as contiguous tensors of their variables' dtype (or float32 for those of 16 bits), as Keras casts.

        Parameters
        ----------
        numbers, grads
            Which rows, and their gradients.
        what
            Their name in messages.
        read
            Whether torch's operations will read them, which do not look whether their memory is there.

        Raises
        ------
        TypeError, ValueError
            A gradient of another shape than its variable, on another device, or of another kind.
        """
        return [self._fitting(i, grad, what, read) for i, grad in zip(numbers, grads, strict=True)]

    def shrink(self, numbers: Sequence[int], factor: float, grads: Sequence[Tensor], scale: float) -> list[Tensor]:
        """Multiply the variables of the first group among these rows by a number, once no option is in the way of a
        step; return the gradients, copied where they lie in memory that a step writes.
        """
        self.model.prepare(scale)
        written = {value.untyped_storage().data_ptr() for _, value, _, _, _ in self._seen}
        apart = [grad.clone() if grad.untyped_storage().data_ptr() in written else grad for grad in grads]
        if decaying := [self._params[i] for i in numbers if self._decays[i]]:
            torch._foreach_mul_(decaying, factor)
        return apart

    def step(
        self,
        numbers: Sequence[int],
        grads: Sequence[Tensor],
        before: int,
        grad_scale: float = 1.0,
        max_norm: float = 0.0,
        scalar: float | None = None,
    ) -> float | None:
        """Take one step on some of the rows.

        Parameters
        ----------
        numbers, grads
            Which rows, and their gradients as `fit` returns them.
        before
            Steps completed before this one, the same for every row.
        grad_scale
            Gradients are divided by it.
        max_norm
            What the norm of all gradients together is then scaled down to, 0 for no limit.
        scalar
            The rule's scalar state, one for all rows, if it has any.

        Returns
        -------
        float or None
            The scalar state afterwards.
        """
        if self._step != before:
            for i in range(len(self._params)):
                self.model.set_step(i, before)
        if scalar is not None:
            for i in numbers:
                self.model.set_scalars(i, [scalar])
        if max_norm != self._max_norm:
            self.model.configure(max_norm, False, False, 0)
            self._max_norm = max_norm
        self._step = None
        flat: list[Memory | None] = [None] * len(self._params)
        with quiet():
            for i, grad in zip(numbers, grads, strict=True):
                flat[i] = memory(grad, f'grads["{self.paths[i]}"]')
            self.check_memory()  # code of others may have run in what made the gradients fit
            self.model.step_list(flat, grad_scale)
        if len(numbers) == len(flat):
            self._step = before + 1
        increment_versions([self._params[i] for i in numbers])  # so that autograd notices, as after any write in place
        self.model.warn_of_nonfinite()
        return None if scalar is None else self.model.get_scalars(numbers[0])[0]

    def _fitting(self, i: int, grad: Any, what: str, read: bool) -> Tensor:
        param, name = self._params[i], f'{what}["{self.paths[i]}"]'
        if not isinstance(grad, Tensor):
            if hasattr(grad, "mask"):
                raise TypeError(
                    f"{name}: got a masked array, whose mask would be lost, needs a plain one; array.filled(value) is"
                )
            try:
                grad = ops.convert_to_tensor(grad)
            except (TypeError, ValueError) as error:
                raise TypeError(f"{name}: got {type(grad).__name__}, needs a tensor or an array: {error}") from None
        if not grad.is_cpu or not _is_plain(grad) or grad.is_complex():
            kind = "nested" if grad.is_nested else f"{grad.dtype}, {grad.layout}"
            raise TypeError(f"{name}: got a tensor ({kind}) on {grad.device}, needs a dense one of numbers on the CPU")
        if grad.shape != param.shape:
            raise ValueError(
                f"{name}: got shape {tuple(grad.shape)}, needs {tuple(param.shape)}, the shape of its variable"
            )
        if read or grad.dtype is not param.dtype or not grad.is_contiguous() or grad.is_neg():
            check_storage(grad, name)
        if grad.dtype is not param.dtype and not (grad.dtype is torch.float32 and NAMES[param.dtype] in NARROW):
            grad = grad.to(param.dtype)
        if grad.is_neg():  # a view of the negatives of what is in memory
            grad = grad.resolve_neg()
        return grad if grad.is_contiguous() else grad.contiguous()
