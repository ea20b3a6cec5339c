"""The cases: shapes of the tensors that one step updates."""

from __future__ import annotations

import math
from itertools import pairwise

Shapes = tuple[tuple[int, ...], ...]


def network() -> Shapes:
    """Return the six tensors of a 400-25-15-10 network: weights and biases of three layers, 10,575
    elements."""
    layers = (400, 25, 15, 10)
    shapes: list[tuple[int, ...]] = []
    for inputs, outputs in pairwise(layers):
        shapes += [(outputs, inputs), (outputs,)]
    return tuple(shapes)


def resnet50() -> Shapes:
    """Return the parameters of ResNet-50 in order: 161 tensors, 25,557,032 elements.

    He et al. 2015, "Deep Residual Learning for Image Recognition", table 1 (stages of 3, 4, 6 and 3
    bottlenecks); biases only in the classifier, a scale and a shift for every normalisation.
    """
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            outputs = 4 * width
            for shape in ((width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)):
                shapes += [shape, (shape[0],), (shape[0],)]
            if block == 0:
                shapes += [(outputs, inputs, 1, 1), (outputs,), (outputs,)]
            inputs = outputs
    return (*shapes, (1000, inputs), (1000,))


def gpt2_small() -> Shapes:
    """Return the parameters of GPT-2 small in order: 148 tensors, 124,439,808 elements.

    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2 (12 layers, width 768,
    vocabulary 50,257, context 1,024; the output shares the token embedding).
    """
    width = 768
    block: Shapes = (
        (width,),
        (width,),
        (width, 3 * width),
        (3 * width,),
        (width, width),
        (width,),
        (width,),
        (width,),
        (width, 4 * width),
        (4 * width,),
        (4 * width, width),
        (width,),
    )
    return ((50257, width), (1024, width), *(block * 12), (width,), (width,))


SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)

CASES: dict[str, Shapes] = {
    "network": network(),
    "1e3": ((1_000,),),
    "1e4": ((10_000,),),
    "1e5": ((100_000,),),
    "1e6": ((1_000_000,),),
    "1e7": ((10_000_000,),),
    "1e8": ((100_000_000,),),
    "1000x1000": ((1_000,),) * 1_000,
    "resnet50": resnet50(),
    "gpt2": gpt2_small(),
}
"""Case name to shapes, in the order of the tables."""

MODELS = ("network", "1000x1000", "resnet50", "gpt2")
"""The cases of the bar chart; the others are one tensor each and make the curves."""


def elements(shapes: Shapes) -> int:
    """Return the number of elements of all tensors.

    Examples
    --------
    >>> elements(network()), elements(resnet50()), elements(gpt2_small())
    (10575, 25557032, 124439808)
    >>> len(resnet50()), len(gpt2_small())
    (161, 148)
    """
    return sum(math.prod(shape) for shape in shapes)
