"""Making, saving, loading and converting hold the result, and a few MB beside it, however large the arrays are."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64

import fusedstep
from fusedstep import formats

fs: Any = fusedstep
SIZE = 2_000_000  # a float32 array of it is 8 MB
ROOM = 3 << 20  # bytes for the pieces that are being converted
CHOICES: list[tuple[Any, dict[str, Any]]] = [
    (FLOAT32, {}),
    (FLOAT32, {"state_format": "bfloat16"}),
    (FLOAT32, {"state_format": "8bit"}),
    (FLOAT32, {"state_format": "8bit", "ema_decay": 0.9, "amsgrad": True}),
    (FLOAT64, {}),
    (BFLOAT16, {"state_format": "8bit", "master": "float32"}),
    (BFLOAT16, {"state_format": "8bit", "master": "split"}),
    (FLOAT16, {"master": "float32", "state_format": "bfloat16"}),
]


def peak_beside(make: Callable[[], Any], held: Callable[[Any], int]) -> int:
    """Bytes that were held at the worst moment, beside the result's."""
    tracemalloc.start()
    try:
        result = make()
        return tracemalloc.get_traced_memory()[1] - held(result)
    finally:
        tracemalloc.stop()


def states_of(optimizer: Any) -> int:
    return sum(array.nbytes for slot in optimizer._slots for _, array in slot.items())


def arrays_in(saved: Any) -> int:
    return sum(v.nbytes for entry in saved["state"].values() for v in entry.values() if isinstance(v, np.ndarray))


@pytest.mark.parametrize(("dtype", "options"), CHOICES, ids=str)
def test_making_and_saving(dtype: Any, options: dict[str, Any]) -> None:
    param = np.ones(SIZE, dtype)
    assert peak_beside(lambda: fs.Adam(param, **options), states_of) < ROOM
    optimizer = fs.Adam(param, **options)
    for state_format in (None, "float32", "bfloat16", "8bit"):
        assert peak_beside(lambda f=state_format: optimizer.state_dict(state_format=f), arrays_in) < ROOM  # type: ignore[misc]


@pytest.mark.parametrize("cls", [fs.Adagrad, fs.Rprop, fs.ScheduleFreeSGD, fs.ScheduleFreeAdamW, fs.NAdam])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
def test_making_with_other_first_values(cls: Any, dtype: Any) -> None:
    param = np.ones(SIZE, dtype)
    assert peak_beside(lambda: cls(param), states_of) < ROOM
    optimizer = cls(np.ones(5, dtype))
    assert peak_beside(lambda: optimizer.add_param_group({"params": param}), lambda _: states_of(optimizer)) < ROOM


@pytest.mark.parametrize(
    ("one", "two"),
    [pair for pair in itertools.permutations(range(len(CHOICES)), 2) if CHOICES[pair[0]][0] == CHOICES[pair[1]][0]],
)
def test_loading(one: int, two: int) -> None:
    dtype, options = CHOICES[one]
    saved = fs.Adam(np.ones(SIZE, dtype), **options).state_dict()
    optimizer = fs.Adam(np.ones(SIZE, dtype), **CHOICES[two][1])
    before = states_of(optimizer)
    assert peak_beside(lambda: optimizer.load_state_dict(saved), lambda _: states_of(optimizer) - before) < ROOM


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_formats(dtype: Any) -> None:
    values = np.ones(SIZE, dtype)
    codes, scales = formats.encode_8bit(values, True)
    bits, remainder = formats.split(values)
    master = values.astype(np.float32)
    calls: list[Callable[[], Any]] = [
        lambda: formats.encode_bfloat16(values),
        lambda: formats.encode_bfloat16(values[::2]),
        lambda: formats.encode_float16(values),
        lambda: formats.split(values),
        lambda: formats.encode_8bit(values, True),
        lambda: formats.encode_8bit(values, False),
        lambda: formats.decode_8bit(codes, scales, True),
        lambda: formats.decode_8bit(codes, scales, signed=False),
        lambda: formats.decode_bfloat16(bits),
        lambda: formats.decode_float16(bits),
        lambda: formats.join(bits, remainder),
        lambda: formats.master_values(bits.view(np.float16), master),
    ]

    def held(made: Any) -> int:
        return sum(array.nbytes for array in (made if isinstance(made, tuple) else (made,)))

    for call in calls:
        assert peak_beside(call, held) < ROOM


@pytest.mark.parametrize("size", [65535, 65536, 65537, 65792, 131073])
def test_pieces_are_joined_without_a_seam(size: int) -> None:
    """Encoded a block at a time, the numbers are what they are in one call."""
    values = (np.random.default_rng(size).normal(size=size) ** 5).astype(np.float32)
    for signed in (True, False):
        given = values if signed else np.abs(values)
        codes, scales = formats.encode_8bit(given, signed)
        some = [formats.encode_8bit(given[k : k + 2560], signed) for k in range(0, size, 2560)]
        np.testing.assert_array_equal(codes, np.concatenate([c for c, _ in some]))
        np.testing.assert_array_equal(scales, np.concatenate([s for _, s in some]))
        parts = [formats.decode_8bit(c, s, signed) for c, s in some]
        np.testing.assert_array_equal(formats.decode_8bit(codes, scales, signed), np.concatenate(parts))
    noise = formats.noise(3, size)
    for encode in (formats.encode_bfloat16, formats.encode_float16):
        bits = encode(values, noise)
        cut = [encode(values[k : k + 1000], noise[k : k + 1000]) for k in range(0, size, 1000)]
        np.testing.assert_array_equal(bits, np.concatenate(cut))
        table = encode(values[: size // 3 * 3].reshape(3, -1), noise=noise[: size // 3 * 3].reshape(3, -1))
        np.testing.assert_array_equal(table.reshape(-1), bits[: size // 3 * 3])
