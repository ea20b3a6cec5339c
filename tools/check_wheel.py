"""Checks an installed package without test tools: versions, errors, saving, parity, and a digest of every rule.

Prints one line, ``digest HEX``, that must be the same for every wheel, Python, NumPy and machine.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import sys
from typing import Any

import numpy as np

import fusedstep as fs
from fusedstep.reference import RULES

SIZES = (1, 257, 4099, 40000)  # a vector's rest, a block's rest, several blocks, several threads


def arrays(dtype: Any, seed: int) -> list[Any]:
    """Arrays whose values are the same for every version of NumPy: no generator of its own is used."""
    out = []
    for number, size in enumerate(SIZES):
        bits = (np.arange(size, dtype=np.uint64) + np.uint64(1 + seed * 1000003 + number)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        out.append(((bits >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5).astype(dtype))
    return out


def classes() -> dict[str, Any]:
    """Every optimizer class by its rule."""
    found = [getattr(fs, name) for name in fs.optimizers.__all__ if name != "Optimizer"]
    return {cls.rule: cls for cls in found}


def formats(rule: str) -> list[str]:
    """The state formats that a rule can have."""
    rounds = any(state.kind != "exact" for state in RULES[rule].states)
    return ["float32", "8bit"] if rounds else ["float32"]


def steps(cls: Any, dtype: Any, state_format: str) -> bytes:
    """What five steps leave: parameters and states."""
    params = arrays(dtype, 0)
    opt = cls(params, state_format=state_format, min_quantized_size=0, max_grad_norm=50.0, ema_decay=0.9)
    for number in range(5):
        opt.step(arrays(dtype, 1 + number))
        if number == 2:  # saved, and gone on with
            again = cls(params, state_format=state_format, min_quantized_size=0, max_grad_norm=50.0, ema_decay=0.9)
            again.load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
            opt = again
    left = [p.tobytes() for p in params]
    for state in opt.state:
        left += [state[key].tobytes() for key in sorted(state) if isinstance(state[key], np.ndarray)]
    return b"".join(left)


def parity() -> None:
    """The native step of Adam and its definition leave the same bytes."""
    for dtype in (np.float32, np.float64):
        native, definition = arrays(dtype, 3), arrays(dtype, 3)
        states = [[[np.zeros_like(p) for p in native] for _ in range(2)] for _ in range(2)]
        for step in range(1, 4):
            grads = arrays(dtype, 10 + step)
            fs.functional.adam(native, grads, *states[0], step=step)
            fs.reference.adam(definition, grads, *states[1], step=step)
        for mine, its in zip([*native, *states[0][0]], [*definition, *states[1][0]]):  # noqa: B905  (Python 3.9 reads it)
            assert mine.tobytes() == its.tobytes(), f"{dtype.__name__}: the native step differs from its definition"


def errors() -> None:
    """Wrong input is refused and changes nothing."""
    param = np.ones(3, np.float32)
    opt = fs.Adam({"w": param})
    for wrong in ({"w": np.ones(4, np.float32)}, {"w": np.ones(3)}, {"v": param}, {"w": [1.0]}):
        try:
            opt.step(wrong)
        except (TypeError, ValueError) as error:
            assert "grads" in str(error), error
        else:
            raise AssertionError(f"{wrong} was accepted")
    assert (param == 1).all()


def main() -> None:
    """Run all checks and print the digest."""
    parity()
    errors()
    digest = hashlib.sha256()
    isas, before = fs.available_isas(), (fs.isa(), fs.get_num_threads())
    for rule, cls in sorted(classes().items()):
        for dtype, state_format in itertools.product((np.float32, np.float64, np.float16), formats(rule)):
            left = set()
            for isa, threads in itertools.product(isas, (1, 2)):
                fs.set_isa(isa)
                fs.set_num_threads(threads)
                left.add(steps(cls, dtype, state_format))
            assert len(left) == 1, f"{rule}, {dtype.__name__}, {state_format}: the bits depend on ISA or threads"
            digest.update(left.pop())
    fs.set_isa(before[0])
    fs.set_num_threads(before[1])
    print(f"fusedstep {fs.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}, {', '.join(isas)}")
    print(f"digest {digest.hexdigest()}")


if __name__ == "__main__":
    main()
