"""Bad arguments of the reference: the error names them, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same, copied
from fuzz.garbage import Lying
from numpy.typing import NDArray

import fusedstep as fs
from fusedstep import reference

Array = NDArray[Any]


def arguments() -> dict[str, Any]:
    """Good arguments of two tensors."""
    rng = np.random.default_rng(0)
    names = ("param", "grad", "exp_avg", "exp_avg_sq")
    return {name: [rng.random((2, 3), dtype=np.float32), rng.random(5, dtype=np.float32)] for name in names}


def replaced(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(given: dict[str, Any]) -> None:
        given[name][1] = value(given) if callable(value) else value

    return change


def read_only(given: dict[str, Any]) -> Array:
    array = np.zeros(5, dtype=np.float32)
    array.flags.writeable = False
    return array


def misaligned(given: dict[str, Any]) -> Array:
    return np.zeros(21, dtype=np.uint8)[1:].view(np.float32)


CASES: list[tuple[str, Callable[[dict[str, Any]], None], type[Exception], str]] = [
    ("a list is no array", replaced("param", [1.0]), TypeError, r"param\[1\]: got .*, needs a NumPy array"),
    ("integers", replaced("param", np.zeros(5, dtype=int)), TypeError, r"param\[1\]: got int64, needs float32"),
    (
        "masked",
        replaced("param", np.ma.MaskedArray(np.zeros(5, dtype=np.float32))),
        TypeError,
        r"param\[1\]: got MaskedArray, needs a NumPy array",
    ),
    ("None", replaced("grad", None), TypeError, r"grad\[1\]: got NoneType, needs a NumPy array"),
    ("wide gradient", replaced("grad", np.zeros(5)), TypeError, r"grad\[1\]: got float64, needs float32"),
    ("wide state", replaced("exp_avg", np.zeros(5)), TypeError, r"exp_avg\[1\]: got float64, needs float32"),
    (
        "byte order",
        replaced("param", np.zeros(5, dtype=np.dtype(np.float32).newbyteorder())),
        TypeError,
        r"param\[1\]: got .*, needs native byte order.*astype\('float32'\)",
    ),
    (
        "shape",
        replaced("grad", np.zeros(6, dtype=np.float32)),
        ValueError,
        r"grad\[1\]: got shape \(6,\), needs \(5,\)",
    ),
    (
        "layout",
        replaced("exp_avg", np.zeros(10, dtype=np.float32)[::2]),
        ValueError,
        r"exp_avg\[1\]: got .*, needs a C-contiguous one.*ascontiguousarray",
    ),
    ("alignment", replaced("param", misaligned), ValueError, r"param\[1\]: got .*, needs one aligned"),
    ("read-only", replaced("param", read_only), ValueError, r"param\[1\]: got .*, needs a writeable one"),
    (
        "a parameter twice",
        lambda given: given.update(
            param=[given["param"][1]] * 2,
            grad=[given["grad"][1]] * 2,
            exp_avg=[np.zeros(5, dtype=np.float32) for _ in range(2)],
            exp_avg_sq=[np.zeros(5, dtype=np.float32) for _ in range(2)],
        ),
        ValueError,
        r"param\[1\]: got memory that overlaps param\[0\]",
    ),
    (
        "a state on a gradient",
        replaced("exp_avg_sq", lambda given: given["grad"][1]),
        ValueError,
        r"got memory that overlaps (exp_avg_sq|grad)\[1\]",
    ),
    (
        "half an overlap",
        replaced("exp_avg", lambda given: given["param"][0].reshape(-1)[1:]),
        ValueError,
        r"(exp_avg\[1\]|param\[0\]): got memory that overlaps",
    ),
    ("too few", lambda given: given["grad"].pop(), ValueError, r"grad: got 1 arrays, needs 2, as many as param"),
    ("a single state", lambda given: given.update(exp_avg=given["exp_avg"][0]), TypeError, r"exp_avg: got .* a list"),
    ("no state", lambda given: given.update(exp_avg=None), TypeError, r"^exp_avg: got None, needs an array"),
    (
        "state of an option",
        lambda given: given.update(amsgrad=True),
        TypeError,
        r"^max_exp_avg_sq: got None, needs an array with amsgrad",
    ),
    ("steps", lambda given: given.update(step=[1]), ValueError, r"step: got .*, needs 2"),
    ("step 0", lambda given: given.update(step=[1, 0]), ValueError, r"step\[1\]: got .*, needs an integer from 1"),
    ("step", lambda given: given.update(step=1.5), TypeError, r"step(\[0\])?: got .*, needs an integer"),
    ("hyper-parameter", lambda given: given.update(lr=-1.0), ValueError, r"lr: got .*, needs >= 0"),
    ("betas", lambda given: given.update(betas=(0.9, 1.0)), ValueError, r"betas\[1\]: got .*, needs"),
    ("rounding", lambda given: given.update(rounding="up"), ValueError, r"rounding: got .*, needs 'nearest' or"),
    ("seed", lambda given: given.update(seed=1.5), TypeError, r"seed: got .*, needs an integer"),
    ("negative seed", lambda given: given.update(seed=-1), ValueError, r"seed: got .*, needs an integer from 0"),
    ("decay without average", lambda given: given.update(ema_decay=0.9), ValueError, r"ema: got one of"),
    (
        "master of float32",
        lambda given: given.update(master=[np.zeros((2, 3), dtype=np.float32), np.zeros(5, dtype=np.float32)]),
        TypeError,
        r"master\[0\]: got a master for a float32 param",
    ),
    (
        "8-bit scales",
        replaced("exp_avg", (np.zeros(5, dtype=np.uint8), np.zeros(2, dtype=np.float32))),
        ValueError,
        r"exp_avg\[1\] scales: got shape .*, needs \(1,\)",
    ),
    (
        "unknown",
        lambda given: given.update(learning_rate=0.1),
        TypeError,
        r"unexpected keyword argument 'learning_rate'",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_errors_change_nothing(change: Callable[[dict[str, Any]], Any], error: type[Exception], message: str) -> None:
    given = arguments()
    change(given)
    every = [a for value in given.values() if isinstance(value, list) for a in value if isinstance(a, np.ndarray)]
    before = [array.copy() for array in every]
    with pytest.raises(error, match=message):
        reference.adam(**({"step": 1} | given))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(every, before, strict=True))


def test_a_missing_step() -> None:
    with pytest.raises(TypeError, match="step"):
        reference.sgd(np.zeros(2), np.zeros(2))  # type: ignore[call-arg]


def test_a_state_that_must_be_exact() -> None:
    param, grad = np.zeros(300, dtype=np.float32), np.zeros(300, dtype=np.float32)
    codes = (np.zeros(300, dtype=np.uint8), np.zeros(2, dtype=np.float32))
    with pytest.raises(TypeError, match="sum: got 8-bit codes, needs float32: this state has no 8-bit form"):
        reference.adagrad(param, grad, codes, step=1)
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    with pytest.raises(TypeError, match="sum: got bfloat16, needs float32"):
        reference.adagrad(param, grad, np.zeros(300, dtype=bfloat16), step=1)


def test_gradients_may_share_memory() -> None:
    params = [np.zeros(4), np.ones(4)]
    grad = np.ones(4)
    reference.sgd(params, [grad, grad], step=1, lr=1.0)
    np.testing.assert_array_equal(params, [[-1] * 4, [0] * 4])
    with pytest.raises(ValueError, match=r"grad\[1\]: got memory that overlaps grad\[0\]"):
        reference.sgd(params, [grad, grad], step=1, zero_grads=True)


@pytest.mark.parametrize("where", [fs.reference, fs.functional], ids=["reference", "functional"])
@pytest.mark.parametrize("name", ["param", "grad", "exp_avg"])
def test_a_list_that_says_another_length(where: Any, name: str) -> None:
    """What it holds counts."""
    given = {key: [np.ones(3), np.ones(4)] for key in ("param", "grad", "exp_avg")}
    given[name] = Lying(given[name])
    assert where.momentum(**given, step=1)
    given[name].pop()
    with pytest.raises(ValueError, match=r"got [12] arrays, needs [12], as many as param"):
        where.momentum(**given, step=2)


@pytest.mark.parametrize("where", [fs.reference, fs.functional], ids=["reference", "functional"])
@pytest.mark.parametrize("name", ["d", "d_max", "d_numerator"])
@pytest.mark.parametrize("other", ["d", "param", "grad", "s"])
def test_a_number_in_other_memory(where: Any, name: str, other: str) -> None:
    """They are written after the step, the last of those that share memory."""
    given: dict[str, list[Any]] = {
        key: [np.ones(3), np.ones(4)] for key in ("param", "grad", "exp_avg", "exp_avg_sq", "s", "p0")
    }
    given |= {key: [np.array(1e-6), np.array(1e-6)] for key in ("d", "d_max", "d_numerator")}
    given[name][1] = given[other][0] if other == "d" else given[other][1][3:].reshape(())
    before = copied(given)
    with pytest.raises(ValueError, match=r"got memory that overlaps .*, needs memory of its own"):
        where.prodigy(**given, step=1)
    assert_same(given, before)


def test_neighbours_do_not_overlap() -> None:
    block = np.zeros(30)
    reference.sgd([block[:10], block[20:]], [block[10:20]] * 2, step=1)
