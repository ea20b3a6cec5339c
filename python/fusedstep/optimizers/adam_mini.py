"""Adam-mini."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["AdamMini"]


class AdamMini(Optimizer):
    r"""AdamW with one second moment for every block of a parameter.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v_b &\leftarrow \beta_2 v_b + (1 - \beta_2) \, \mathrm{mean}(g_b^2) \text{ for each block } b \\
        p_b &\leftarrow (1 - \eta \lambda) p_b
            - \eta \frac{m_b / (1 - \beta_1^t)}{\sqrt{v_b / (1 - \beta_2^t)} + \epsilon}

    Zhang et al. (2024), "Adam-mini: use fewer learning rates to gain more", algorithms 1 and 2, with the decay of the
    authors' code. A parameter of two axes or more has one block for each index of its first axis: the weights of one
    output neuron, or of one token of an embedding. Any other parameter is one block. `blocks` says it otherwise.

    Parameters
    ----------
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter.
    blocks
        Number of equal blocks that each parameter, flattened in C order, is cut into: that of the heads for the queries
        and keys of attention. It must divide the number of elements, and stays as the optimizer was made with it. 0 is
        the partition above.

    Examples
    --------
    Four heads, of eight rows each, beside a matrix with a block for each row:

    >>> import numpy as np
    >>> import fusedstep as fs
    >>> params = {"query": np.ones((32, 16)), "W": np.ones((32, 16))}
    >>> opt = fs.AdamMini(params, blocks={"query": 4, "W": 0})
    >>> [state["exp_avg_sq"].shape for state in opt.state]
    [(4,), (32,)]
    """

    rule = "adam_mini"
