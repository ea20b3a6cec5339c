"""One class per optimizer: Keras's own, and how its formula reads in the hyper-parameters of the update rule."""

from __future__ import annotations

import math
from typing import Any

import keras

from ..reference._arithmetic import power
from ._optimizer import FusedStep

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Nadam", "RMSprop"]

_register = keras.saving.register_keras_serializable(package="fusedstep")


@_register
class SGD(FusedStep, keras.optimizers.SGD):
    r"""Gradient descent with momentum, as ``keras.optimizers.SGD``.

    .. math::
        v \leftarrow \mu v - \eta g, \qquad p \leftarrow p + v
        \quad \text{or with Nesterov } p + \mu v - \eta g

    Unlike torch's, the velocity holds changes: a new learning rate leaves what was gathered so far as it is.
    Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning", equations 1 to 4.
    """

    _rule = "sgd"
    _rule_hypers = ("momentum", "nesterov")
    _rule_states = ("momentums",)

    @property
    def _rule_decays(self) -> bool:  # type: ignore[override]
        """Without momentum, a gradient with the weight added is a step on the decayed weight."""
        return not self.momentum

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """Keras's velocity is the rule's with the learning rate inside."""
        return {"momentum": given["momentum"], "nesterov": given["nesterov"], "lr_in_momentum": True}


@_register
class RMSprop(FusedStep, keras.optimizers.RMSprop):
    r"""The gradient over the root of its running mean square, as ``keras.optimizers.RMSprop``.

    .. math::
        s \leftarrow \rho s + (1 - \rho) g^2, \qquad
        b \leftarrow \mu b + \eta g / \sqrt{s + \epsilon}, \qquad p \leftarrow p - b

    Centred, :math:`s` less the square of the mean gradient takes its place; it is kept from falling below zero, where
    Keras can take the root of a negative number. Tieleman and Hinton (2012), lecture 6.5; Graves (2013), "Generating
    sequences with recurrent neural networks", equations 38 to 41.
    """

    _rule = "rmsprop"
    _rule_hypers = ("rho", "momentum", "epsilon", "centered")
    _rule_states = ("_velocities", "_momentums", "_average_gradients")

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """Keras's epsilon is inside the root, and its velocity has the learning rate inside."""
        return {
            "alpha": given["rho"],
            "eps": 0.0,
            "eps_root": given["epsilon"],
            "momentum": given["momentum"],
            "centered": given["centered"],
            "lr_in_momentum": True,
        }


class _AdamStep(FusedStep):
    """Adam's formula, which is that of AdamW too: every weight decay of Keras is decoupled."""

    _rule = "adamw"
    _rule_hypers = ("beta_1", "beta_2", "epsilon", "amsgrad")
    _rule_states = ("_momentums", "_velocities", "_velocity_hats")
    _rule_decays = True

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """Keras adds epsilon to the root of the uncorrected moment, the rule to that of the corrected one."""
        beta_1, beta_2 = given["beta_1"], given["beta_2"]
        return {
            "betas": (beta_1, beta_2),
            "eps": given["epsilon"] / math.sqrt(1.0 - power(beta_2, step)),
            "amsgrad": given["amsgrad"],
        }


@_register
class Adam(_AdamStep, keras.optimizers.Adam):
    r"""The average gradient over the root of the average square, as ``keras.optimizers.Adam``.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
        p \leftarrow p - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \, m / (\sqrt v + \epsilon)

    Kingma and Ba (2015), "Adam: a method for stochastic optimization", section 2, last paragraph (its
    :math:`\hat\epsilon`); AMSGrad: Reddi et al. (2018), "On the convergence of Adam and beyond", algorithm 2.
    """


@_register
class AdamW(_AdamStep, keras.optimizers.AdamW):
    r"""Adam with decoupled weight decay, as ``keras.optimizers.AdamW``.

    :math:`p \leftarrow (1 - \eta \lambda) p` before the step of `Adam`. Loshchilov and Hutter (2019), "Decoupled weight
    decay regularization", algorithm 2, with the decay scaled by the learning rate.
    """


@_register
class Adagrad(FusedStep, keras.optimizers.Adagrad):
    r"""Gradients divided by the root of the sum of all their squares, as ``keras.optimizers.Adagrad``.

    .. math:: s \leftarrow s + g^2, \qquad p \leftarrow p - \eta g / \sqrt{s + \epsilon}

    The sum begins at `initial_accumulator_value`. Duchi, Hazan and Singer (2011), "Adaptive subgradient methods for
    online learning and stochastic optimization", figure 1.
    """

    _rule = "adagrad"
    _rule_hypers = ("epsilon",)
    _rule_states = ("_accumulators",)

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """Keras's epsilon is inside the root."""
        return {"eps": 0.0, "eps_root": given["epsilon"]}


@_register
class Adadelta(FusedStep, keras.optimizers.Adadelta):
    r"""Gradients scaled by the root mean square of past steps over that of gradients, as ``keras.optimizers.Adadelta``.

    .. math::
        s \leftarrow \rho s + (1 - \rho) g^2, \quad d = \sqrt{u + \epsilon} / \sqrt{s + \epsilon} \cdot g, \quad
        u \leftarrow \rho u + (1 - \rho) d^2, \quad p \leftarrow p - \eta d

    Zeiler (2012), "ADADELTA: an adaptive learning rate method", algorithm 1. The paper has no learning rate, in
    Keras it is 0.001.
    """

    _rule = "adadelta"
    _rule_hypers = ("rho", "epsilon")
    _rule_states = ("_accumulated_grads", "_accumulated_delta_vars")

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """The formulas are the same."""
        return {"rho": given["rho"], "eps": given["epsilon"]}


@_register
class Adamax(FusedStep, keras.optimizers.Adamax):
    r"""Adam that divides by the largest of recent gradients, as ``keras.optimizers.Adamax``.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad u \leftarrow \max(\beta_2 u, |g|), \qquad
        p \leftarrow p - \frac{\eta}{1 - \beta_1^t} \, m / (u + \epsilon)

    Kingma and Ba (2015), "Adam: a method for stochastic optimization", algorithm 2, with an epsilon of Keras's own.
    """

    _rule = "adamax"
    _rule_hypers = ("beta_1", "beta_2", "epsilon")
    _rule_states = ("_m", "_u")

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """Keras adds epsilon to the norm, torch to the gradient that enters it."""
        return {"betas": (given["beta_1"], given["beta_2"]), "eps": 0.0, "eps_norm": given["epsilon"]}


@_register
class Nadam(FusedStep, keras.optimizers.Nadam):
    r"""Adam with Nesterov momentum, as ``keras.optimizers.Nadam``.

    With :math:`\mu_t = \beta_1 (1 - 0.96^t / 2)` and the moments of `Adam`,

    .. math::
        p \leftarrow p - \eta \left(\frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} + \frac{(1 - \mu_t) g}{1 -
        \prod_{i \le t} \mu_i}\right) / \left(\sqrt{v / (1 - \beta_2^t)} + \epsilon\right)

    Dozat (2016), "Incorporating Nesterov momentum into Adam", algorithm 2.
    """

    _rule = "nadam"
    _rule_hypers = ("beta_1", "beta_2", "epsilon")
    _rule_states = ("_momentums", "_velocities")
    _rule_decays = True

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """Keras's momentum rises to beta_1 as 0.96**t, torch's as 0.96**(0.004 t)."""
        return {
            "betas": (given["beta_1"], given["beta_2"]),
            "eps": given["epsilon"],
            "momentum_decay": 1.0,
            "decoupled_weight_decay": True,
        }

    def _rule_scalar(self, after: float | None = None) -> float | None:
        if after is not None:
            self._u_product.value.fill_(after)
        return float(self._u_product.value)


@_register
class Lion(FusedStep, keras.optimizers.Lion):
    r"""The sign of an interpolated momentum, as ``keras.optimizers.Lion``.

    .. math::
        p \leftarrow p - \eta \operatorname{sign}(\beta_1 m + (1 - \beta_1) g), \qquad
        m \leftarrow \beta_2 m + (1 - \beta_2) g

    Chen et al. (2023), "Symbolic discovery of optimization algorithms", algorithm 2.
    """

    _rule = "lion"
    _rule_hypers = ("beta_1", "beta_2")
    _rule_states = ("_momentums",)
    _rule_decays = True

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """The formulas are the same."""
        return {"betas": (given["beta_1"], given["beta_2"])}
