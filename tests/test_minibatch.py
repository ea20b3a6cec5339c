"""Mini-batches: every example once, all arrays in step, the same order for the same seed."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedstep.minibatch import minibatches


def course_data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """148 examples in columns of 12288 features, as the course's test case makes them."""
    legacy = np.random.RandomState(1)
    return legacy.randn(12288, 148), legacy.randn(1, 148) < 0.5


def test_the_shapes_of_the_course() -> None:
    X, Y = course_data()
    batches = minibatches(X, Y, batch_size=64, rng=0, axis=1)
    assert len(batches) == 3
    assert [x.shape for x, _ in batches] == [(12288, 64), (12288, 64), (12288, 20)]
    assert [y.shape for _, y in batches] == [(1, 64), (1, 64), (1, 20)]


def test_the_numbers_of_the_course() -> None:
    # with the generator of those days the first batch starts with the three numbers the course prints
    X, Y = course_data()
    first, _ = next(iter(minibatches(X, Y, rng=np.random.RandomState(0), axis=1)))
    np.testing.assert_allclose(first[0, :3], [0.90085595, -0.7612069, 0.2344157], atol=5e-9)


@settings(deadline=None)
@given(
    examples=st.integers(0, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**64),
    axis=st.sampled_from([0, 1]),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_every_example_once_and_in_step(
    examples: int, batch_size: int, seed: int, axis: int, shuffle: bool, drop_last: bool
) -> None:
    ids = np.arange(examples)
    rows = (
        ids[:, None] * 10 + np.arange(3),
        ids[:, None],
        (ids[:, None] * np.ones((1, 2))).astype(np.float32),
    )
    arrays = rows if axis == 0 else tuple(np.ascontiguousarray(a.T) for a in rows)
    batches = minibatches(*arrays, batch_size=batch_size, rng=seed, axis=axis, shuffle=shuffle, drop_last=drop_last)
    taken = [tuple(a if axis == 0 else a.T for a in batch) for batch in batches]
    assert len(taken) == len(batches)
    sizes = [len(b) for _, b, _ in taken]
    assert all(size == batch_size for size in sizes[:-1])
    order = np.concatenate([b[:, 0] for _, b, _ in taken]) if taken else np.empty(0, int)
    kept = examples - examples % batch_size if drop_last else examples
    assert len(order) == kept and len(set(order)) == kept
    if not shuffle:
        assert order.tolist() == list(range(kept))
    for a, b, c in taken:
        np.testing.assert_array_equal(a, b * 10 + np.arange(3))
        np.testing.assert_array_equal(c, b * np.ones((1, 2)))
        assert c.dtype == np.float32
        assert len(b) > 0


def orders(batches: minibatches, epochs: int) -> list[list[int]]:
    return [[int(i) for (x,) in batches for i in x] for _ in range(epochs)]


def test_the_same_seed_gives_the_same_epochs() -> None:
    data = np.arange(50)
    first, second = (orders(minibatches(data, batch_size=7, rng=3), 3) for _ in range(2))
    assert first == second
    assert first[0] != first[1] != first[2]
    assert first != orders(minibatches(data, batch_size=7, rng=4), 3)
    assert first[0] == orders(minibatches(data, batch_size=50, rng=3), 1)[0]  # the size has no say in the order


def test_a_generator_is_used_and_advanced() -> None:
    data = np.arange(50)
    shared = np.random.default_rng(3)
    drawn = [orders(minibatches(data, rng=shared), 1)[0] for _ in range(3)]
    assert drawn == orders(minibatches(data, rng=3), 3)
    still = np.random.default_rng(3)
    orders(minibatches(data, rng=still, shuffle=False), 2)
    assert still.random() == np.random.default_rng(3).random()


def test_without_a_seed_orders_differ() -> None:
    data = np.arange(100)
    assert orders(minibatches(data), 1) != orders(minibatches(data), 1)


def test_two_epochs_at_once_do_not_disturb_each_other() -> None:
    data = np.arange(20)
    batches = minibatches(data, batch_size=5, rng=0)
    one, two = iter(batches), iter(batches)
    mixed = list(zip(one, two, strict=True))
    assert [[int(i) for pair in mixed for i in pair[k][0]] for k in (0, 1)] == orders(
        minibatches(data, batch_size=5, rng=0), 2
    )


def test_batches_are_new_contiguous_arrays() -> None:
    data = np.arange(24.0).reshape(4, 6)
    for shuffle in (True, False):
        for (batch,) in minibatches(data, batch_size=4, axis=1, rng=0, shuffle=shuffle):
            assert batch.flags.c_contiguous and batch.flags.writeable and not np.shares_memory(batch, data)
            batch[:] = -1
    np.testing.assert_array_equal(data, np.arange(24.0).reshape(4, 6))


def _misaligned(rows: int, columns: int) -> np.ndarray:
    return np.zeros(8 * rows * columns + 1, np.uint8)[1:].view(np.float64).reshape(rows, columns)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "layout",
    [
        lambda: np.zeros((2000, 2000)),
        lambda: np.zeros((2000, 2000)).T,
        lambda: np.zeros((2000, 4000))[:, ::2],
        lambda: np.zeros((4000, 2000))[::-2],
        lambda: np.zeros((2000, 2000), ">f8"),
        lambda: _misaligned(2000, 2000),
        lambda: np.broadcast_to(np.zeros(2000), (2000, 2000)),
    ],
    ids=["rows", "transposed", "strided columns", "reversed rows", "other byte order", "misaligned", "broadcast"],
)
def test_the_data_set_is_not_copied(layout: Callable[[], np.ndarray], axis: int) -> None:
    data = layout()
    tracemalloc.start()
    for (_batch,) in minibatches(data, batch_size=20, axis=axis, rng=0):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.05 * data.nbytes


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_of_a_view_are_those_of_its_copy(axis: int, shuffle: bool) -> None:
    data = np.arange(5 * 6 * 7.0).reshape(5, 6, 7)
    flat = np.zeros(data.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(data.shape)
    flat[...] = data
    for view in (data.transpose(2, 1, 0), data[::-1, 1::2, ::2], np.asfortranarray(data), data.astype(">f8"), flat):
        copy = np.array(view, order="C")
        pair = [minibatches(data, batch_size=2, axis=axis, rng=3, shuffle=shuffle) for data in (view, copy)]
        for (mine,), (theirs,) in zip(*pair, strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == view.dtype and mine.flags.c_contiguous and mine.flags.writeable
            assert not np.shares_memory(mine, view)


def test_memory_mapped_data(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(30).reshape(10, 3))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    taken = np.concatenate([x for (x,) in minibatches(mapped, batch_size=4, rng=0)])
    np.testing.assert_array_equal(taken[np.argsort(taken[:, 0])], mapped)


def test_axes_per_array_and_from_the_end() -> None:
    X, labels = np.arange(12).reshape(2, 6), np.arange(6)
    for axis in (-1, (1, 0), [1, -1]):
        for x, y in minibatches(X, labels, batch_size=4, axis=axis, rng=0):
            np.testing.assert_array_equal(x[0], y)


def test_says_what_it_is() -> None:
    assert repr(minibatches(np.zeros((148, 2)))) == "<minibatches: 3 of 64 out of 148 examples>"


ODD = [np.ones(3), np.zeros(0), np.zeros(2, [("a", "f4")]), np.ma.masked_array([1], [True]), [1], "x"]


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("place", ["examples", "batch_size", "bit_generator", "has_uint32", "state"])
def test_a_state_with_odd_entries_is_refused_by_name(place: str, value: Any) -> None:
    batches = minibatches(np.zeros(9), batch_size=2, rng=1)
    next(iter(batches))
    before, state = copy.deepcopy(batches.state_dict()), copy.deepcopy(batches.state_dict())
    (state if place in state else state["rng"])[place] = value
    with pytest.raises((TypeError, ValueError), match=r"(?s)^state.*: got .*, needs "):
        batches.load_state_dict(state)
    assert batches.state_dict() == before


X = np.zeros((6, 3))


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((), {}, ValueError, "arrays: got none, needs at least one"),
        (([1, 2],), {}, TypeError, r"arrays\[0\]: got list, needs a NumPy array"),
        ((np.ma.masked_array(X, X == 0),), {}, TypeError, r"arrays\[0\]: got a masked array, .* needs a plain"),
        ((X, np.zeros(5)), {}, ValueError, r"arrays\[1\]: got 5 examples along axis 0 \(shape \(5,\)\), needs 6"),
        ((X, np.zeros(6)), {"axis": 1}, ValueError, r"axis: got 1, needs an axis of arrays\[1\]"),
        ((X,), {"axis": -3}, ValueError, r"axis: got -3, needs an axis of arrays\[0\]"),
        ((X,), {"axis": 0.0}, TypeError, "axis: got .*, needs an integer"),
        ((X, X), {"axis": (0,)}, ValueError, r"axis: got 1 integers, needs one integer or one per array \(2\)"),
        ((np.array(3.0),), {}, ValueError, "axis: got 0, needs an axis"),
        ((X,), {"batch_size": 0}, ValueError, "batch_size: got 0, needs >= 1"),
        ((X,), {"batch_size": 2.0}, TypeError, "batch_size: got float, needs an integer"),
        ((X,), {"batch_size": np.ma.masked_array(3, True)}, TypeError, "batch_size: got .*, needs an integer"),
        ((X,), {"batch_size": np.array([3])}, TypeError, "batch_size: got ndarray, needs an integer"),
        ((X,), {"rng": -1}, ValueError, "rng: got .*, needs >= 0"),
        ((X,), {"rng": "seed"}, TypeError, "rng: got str, needs None, an integer seed or a NumPy generator"),
        ((X,), {"rng": True}, TypeError, "rng: got .*, needs None"),
        ((X,), {"shuffle": 1}, TypeError, "shuffle: got .*, needs a bool"),
        ((X,), {"drop_last": "no"}, TypeError, "drop_last: got .*, needs a bool"),
    ],
)
def test_bad_arguments(arrays: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        minibatches(*arrays, **options)
