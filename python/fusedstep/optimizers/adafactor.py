"""Adafactor."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    r"""Gradients over a second moment that matrices keep as row and column means, as ``torch.optim.Adafactor``.

    .. math::
        R &\leftarrow (1 - t^\tau) R + t^\tau \, \mathrm{mean}_{columns}(g^2), \quad
        C \leftarrow (1 - t^\tau) C + t^\tau \, \mathrm{mean}_{rows}(g^2) \\
        v &= \frac{R C}{\max(\mathrm{mean}(R), \epsilon_1)}, \quad
        u = \frac{g}{\max(\sqrt v, \epsilon_1)} \\
        \alpha &= \max(\epsilon_2, \mathrm{RMS}(p)) \min(\eta, 1 / \sqrt t) \\
        p &\leftarrow (1 - \eta \lambda) p - \alpha \frac{u}{\max(1, \mathrm{RMS}(u) / d)}

    Shazeer and Stern (2018), "Adafactor: adaptive learning rates with sublinear memory cost", algorithms 4 to 6. A
    parameter of more than two axes is a batch of matrices of the last two. One of less has a second moment :math:`v` of
    its own shape, an average of :math:`g^2`. RMS is the root of the mean square of a whole tensor.

    Parameters
    ----------
    lr
        Greatest relative step :math:`\eta`.
    beta2_decay
        Exponent :math:`\tau`, at most 0, of the weight of a new square.
    eps
        :math:`\epsilon_1`, by which a gradient is divided at least, and the least size :math:`\epsilon_2` of a
        parameter. None in the first place is the machine epsilon of the compute type.
    d
        RMS :math:`d` of the update above which it is clipped, 1 at least.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    relative_step
        Whether the step falls with :math:`1 / \sqrt t`; without, it is `lr`.
    scale_parameter
        Whether the step is a fraction of the RMS of the parameter.
    like_transformers
        Take :math:`\epsilon_1` and the decay as ``transformers.Adafactor``: :math:`\epsilon_1` is added to the squares
        alone, and the decay is multiplied by :math:`\alpha`. Give ``eps=(1e-30, 1e-3)`` with it.

    Notes
    -----
    The states of a matrix of n rows and m columns are n + m numbers. A step holds as many again, and for matrices of
    more than 64 rows a sum for every 64 elements.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> W = np.ones((4, 3), np.float32)
    >>> opt = fs.Adafactor(W)
    >>> opt.step(np.ones_like(W))
    True
    >>> {name: value.shape for name, value in opt.state[0].items() if name != "step"}
    {'row_var': (4, 1), 'col_var': (1, 3)}
    """

    rule = "adafactor"
