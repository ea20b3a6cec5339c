"""The optimizers for JAX on the CPU: a step is one native call for the whole model, in the memory of donated arrays.

>>> import jax.numpy as jnp
>>> import fusedstep.jax as fj
>>> opt = fj.adamw(lr=1e-3, mask=lambda params: {"W": True, "b": False})
>>> params = {"W": jnp.ones((2, 3)), "b": jnp.zeros(3)}
>>> state = opt.init(params)
>>> grads = {"W": jnp.ones((2, 3)), "b": jnp.ones(3)}
>>> params, state = opt.step(params, grads, state)
>>> int(state.step), params["b"].round(4)
(1, Array([-0.001, -0.001, -0.001], dtype=float32))

Hyper-parameters have the names and defaults of the classes in `fusedstep`. Each may be

- a number, which is part of the compiled program;
- an array without dimensions, such as a traced argument of the function that is compiled;
- an array with a value for each step, of which the last holds on; or
- a function of the steps taken, such as a schedule of optax.

Traced values are float32 (float64 with ``jax_enable_x64``) and are checked while the program runs.

Options of every optimizer, by keyword: ``mask`` says which parameters ``weight_decay`` is for, ``trainable`` which ones
are stepped at all: True or False for every parameter or branch of the structure, or a function of the parameters.
``maximize``, ``state_format``, ``min_quantized_size``, ``master``, ``rounding``, ``max_grad_norm``, ``clip_value``,
``skip_nonfinite``, ``ema_decay``, ``cautious`` and ``seed`` are those of `fusedstep.Optimizer`.
"""

from __future__ import annotations

from . import _backend as _backend  # first: says what is missing
from . import optimizers
from ._optimizer import Optimizer, State
from .optimizers import *  # noqa: F403  (optimizers.__all__ is the list of every optimizer)

__all__ = ["Optimizer", "State"]
__all__ += optimizers.__all__
