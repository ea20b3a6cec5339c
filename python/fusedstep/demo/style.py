"""How every picture of the project looks: its style, a colour for each optimizer and each library, plain ticks.

The commands, the lessons, the pages and the benchmarks draw with it. matplotlib is imported only when something is
drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

INK, FAINT = "#22262b", "#6d747d"
CLASSES = ("#6a51a3", "#1b8a6b")
"""Of the two classes in pictures of the moons."""

OPTIMIZERS = {
    "SGD": "#8a9099",
    "SGD momentum": "#17a2b8",
    "Momentum": "#2f7ebc",
    "RMSprop": "#e39b1d",
    "Adam": "#c8324f",
    "AdamW": "#7a5ea8",
    "Adagrad": "#4b9f6b",
    "Adadelta": "#8c564b",
    "NAdam": "#d573b0",
    "RAdam": "#f08a5d",
    "Adamax": "#a3b12a",
    "Lion": "#3d4a5c",
    "LAMB": "#00897b",
    "LARS": "#5c6bc0",
    "Rprop": "#b8a400",
    "AdaBelief": "#9c2f6d",
    "ASGD": "#5f7a3c",
    "ScheduleFreeAdamW": "#b39ddb",
    "ScheduleFreeSGD": "#90a4ae",
    "SparseAdam": "#e57373",
    "Adan": "#0b7285",
    "AdEMAMix": "#e8590c",
    "ADOPT": "#495057",
    "Yogi": "#74b816",
    "StableAdamW": "#862e9c",
    "NovoGrad": "#846358",
    "Prodigy": "#087f5b",
    "MARS": "#c2255c",
    "MARSLion": "#5c940d",
    "Adafactor": "#c49a6c",
    "AdamMini": "#364fc7",
    "Muon": "#0aa2c0",
}
"""By class, and SGD with its option momentum apart. Told apart also by people who do not see red and green alike."""

LIBRARIES = {
    "fusedstep": "#c1121f",
    "fusedstep (passed)": "#f28482",
    "fusedstep reference": "#780000",
    "torch fused": "#1d6fa5",
    "torch foreach": "#5fa8d3",
    "torch single": "#a9cfe8",
    "numba": "#2a9d8f",
    "numba serial": "#8fd0c8",
    "optax": "#7b5ea7",
    "deepspeed": "#e09f3e",
    "numpy": "#6c757d",
    "scikit-learn": "#b5838d",
    "thinc": "#588157",
    "keras": "#3d405b",
    "torchao": "#bc6c25",
    "bitsandbytes": "#606c38",
}
"""By library and, where a library has several ways to step, by the way."""

OTHERS = ("#4b9f6b", "#7a5ea8", "#8c564b", "#d573b0", "#3d4a5c", "#a3b12a", "#f08a5d", "#5c6bc0", "#00897b", "#9c2f6d")
"""For whatever has no colour of its own, or shares it with something drawn before."""

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": "#b7bcc3",
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef0",
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 80,
    "savefig.dpi": 110,
}


def use() -> None:
    """Draw everything that follows with pyplot in this style; the lessons begin with it."""
    import matplotlib

    matplotlib.rcParams.update(RC)


def own_colour(name: str) -> str | None:
    """The fixed colour of an optimizer or a library, None if it has none.

    Examples
    --------
    >>> own_colour("Adam"), own_colour("SGD momentum=0.9"), own_colour("gradient descent")
    ('#c8324f', '#17a2b8', '#8a9099')
    >>> own_colour("optax jit") == LIBRARIES["optax"]
    True
    """
    plain = name.lower().replace("gradient descent", "sgd").replace(",", "")
    known = {key.lower(): colour for key, colour in {**OPTIMIZERS, **LIBRARIES}.items()}
    # the longest name that the words begin with: "sgd momentum=0.9" is not "sgd"
    found = [key for key in known if plain == key or plain.startswith((key + " ", key + "="))]
    return known[max(found, key=len)] if found else None


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for every name: its own unless that is taken already, else another.

    Examples
    --------
    >>> colours(["Adam lr=0.1", "Adam lr=0.01"])
    {'Adam lr=0.1': '#c8324f', 'Adam lr=0.01': '#4b9f6b'}
    """
    chosen: dict[str, str] = {}
    unique = list(dict.fromkeys(names))
    reserved = {own_colour(name) for name in unique}
    others = [colour for colour in OTHERS if colour not in reserved] or list(OTHERS)
    spare = 0
    for name in unique:
        own = own_colour(name)
        if own is None or own in chosen.values():
            own, spare = others[spare % len(others)], spare + 1
        chosen[name] = own
    return chosen


def surface() -> Any:
    """The colour map of a probability, from the first of `CLASSES` to the second."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("surface", ["#c9bfe3", "#ece8f4", "#fcfcfa", "#e3f1ec", "#b3dccd"])


def plain_log(axes: Any, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic, its ticks plain numbers, enough of them also when it spans less than a decade.

    Call it when everything is drawn: the ticks are those of the limits at that time.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    steps: tuple[float, ...] = (1,)
    if high < 5 * low:
        steps = (1, 1.5, 2, 3, 4, 6, 8)
    elif high < 60 * low:
        steps = (1, 2, 5)
    elif high < 1000 * low:
        steps = (1, 3)
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    ticks = [step * 10.0**decade for decade in range(first, last + 1, 1 + (last - first) // 12) for step in steps]
    if high < 2 * low:
        ticks = [float(tick) for tick in MaxNLocator(5).tick_values(low, high)]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_locator(NullLocator())


def by_error(axes: Any, floor: float, which: Literal["x", "y"] = "y") -> None:
    """Scale accuracies in per cent by the logarithm of the error: 97 and 99 are as far apart as 70 and 90.

    `floor` is the error, in per cent, drawn for a run without any.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    def forward(accuracy: Any) -> Any:
        return -np.log10(np.maximum(100 - np.asarray(accuracy, float), floor))

    def back(height: Any) -> Any:
        return 100 - 10.0 ** -np.asarray(height, float)

    (axes.set_yscale if which == "y" else axes.set_xscale)("function", functions=(forward, back))
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(FixedLocator([0, 50, 80, 90, 95, 98, 99, 99.5, 99.8]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def number(value: float, _: object = None) -> str:
    """A tick's number, without a power of ten where it is short.

    Examples
    --------
    >>> number(0.6), number(1e-5), number(20000.0), number(1e-9)
    ('0.6', '0.00001', '20,000', '$10^{-9}$')
    """
    if 1e-6 < value < 1e6:
        return f"{value:,.0f}" if value >= 10000 else f"{value:.7f}".rstrip("0").rstrip(".")
    return f"$10^{{{round(np.log10(value))}}}$"


def keep(figure: Any, name: str) -> None:
    """Write a lesson's picture into the folder that FUSEDSTEP_PICTURES names; without it, show it only."""
    folder = os.environ.get("FUSEDSTEP_PICTURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(folder) / f"{name}.png")
