"""The data sets of the commands: bundled ones, files of the user's own, and what is wrong with bad ones."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from fusedstep import __main__
from fusedstep.demo import data


def save(folder: Path, **arrays: NDArray[Any]) -> str:
    path = folder / "set.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def blobs(classes: int = 3, examples: int = 90, features: int = 4) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    y = np.arange(examples) % classes
    return {"X": rng.standard_normal((examples, features)) + 3 * y[:, None], "y": y}


# data


@pytest.mark.parametrize("name", data.BUNDLED)
def test_bundled_sets(name: str) -> None:
    dataset = data.load(name)
    examples = dataset.y_train.size + dataset.y_test.size
    assert dataset.x_train.shape == (dataset.features, dataset.y_train.size)
    assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
    assert dataset.y_test.size == pytest.approx(data.TEST_SHARE * examples, abs=len(dataset.labels))
    np.testing.assert_allclose(dataset.x_train.mean(axis=1), 0, atol=1e-5)
    assert dataset.image == ((8, 8) if name == "digits" else None)
    if name == "digits":  # one scale for all pixels
        assert dataset.x_train.std(axis=1).max() < 3
    else:
        np.testing.assert_allclose(dataset.x_train.std(axis=1), 1, atol=1e-5)
    for part in (dataset.y_train, dataset.y_test):
        assert set(part) == set(range(len(dataset.labels)))
    assert dataset.outputs == (1 if len(dataset.labels) == 2 else len(dataset.labels))


def test_the_split_loses_and_repeats_nothing() -> None:
    x = np.arange(200.0).reshape(100, 2)
    dataset = data.split("numbers", x, np.arange(100) % 4)
    seen = np.concatenate([dataset.x_train, dataset.x_test], axis=1)[0]
    order = np.argsort(seen)
    assert np.allclose(np.diff(seen[order]), np.diff(seen[order])[0], rtol=1e-3)
    assert (np.concatenate([dataset.y_train, dataset.y_test])[order] == np.arange(100) % 4).all()


@pytest.mark.parametrize(
    "y", [np.array(["cat", "dog"] * 10), np.array([1.0, 5.0] * 10)[:, None], np.array([True, False] * 10)]
)
def test_what_may_be_a_class(y: NDArray[Any], tmp_path: Path) -> None:
    dataset = data.load(save(tmp_path, X=np.arange(60).reshape(20, 3), y=y))
    assert dataset.labels in {("cat", "dog"), ("1", "5"), ("False", "True")}
    assert dataset.outputs == 1


def test_images_are_flattened(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (40, 5, 6), dtype=np.uint8)
    dataset = data.load(save(tmp_path, X=pictures, y=np.arange(40) % 4))
    assert (dataset.features, dataset.image) == (30, (5, 6))
    coloured = data.load(save(tmp_path, X=np.stack([pictures] * 3, axis=-1), y=np.arange(40) % 4))
    assert (coloured.features, coloured.image) == (90, (5, 6, 3))


def mnist(folder: Path, *, in_parts: bool) -> str:
    """A file of MNIST's shapes and dtypes: 70,000 images of 28 x 28 bytes, a bright band for each class."""
    y = (np.arange(70_000) * 7 % 10).astype(np.uint8)
    images = np.zeros((70_000, 28, 28), np.uint8)
    for value in range(10):
        images[y == value, 2 * value + 4 : 2 * value + 6, 4:24] = 200
    parts = {"x_train": images[:60_000], "y_train": y[:60_000], "x_test": images[60_000:], "y_test": y[60_000:]}
    np.savez_compressed(folder / "mnist.npz", **(parts if in_parts else {"X": images, "y": y.astype(np.int64)}))
    return str(folder / "mnist.npz")


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_file_of_the_size_of_mnist(in_parts: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mnist(tmp_path, in_parts=in_parts)
    tracemalloc.start()
    dataset = data.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.image == (28, 28) and dataset.labels == tuple("0123456789")
    assert dataset.x_train.shape == ((784, 60_000) if in_parts else (784, 56_000))
    assert peak < 2 * (dataset.x_train.nbytes + dataset.x_test.nbytes)  # in float64 at once, it was more than five
    assert abs(float(dataset.x_train.mean())) < 1e-4 and abs(float(dataset.x_train.std()) - 1) < 1e-3
    options = ["--model", "dense", "--hidden", "16", "--epochs", "1", "--seeds", "1", "--optimizer", "adam", "--plain"]
    assert __main__.main(["compare", path, *options, "--output", str(tmp_path)]) == 0
    assert "accuracy 100.0%" in capsys.readouterr().out


def test_a_file_in_parts_keeps_its_test(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), np.arange(30) % 3
    dataset = data.load(save(tmp_path, x_train=x[:24], y_train=y[:24], x_test=x[24:], y_test=y[24:]))
    np.testing.assert_array_equal(np.bincount(dataset.y_train), [8, 8, 8])
    np.testing.assert_array_equal(dataset.y_test, y[24:])
    expected = (x[24:] - x[:24].mean(axis=0)) / x[:24].std(axis=0)
    np.testing.assert_allclose(dataset.x_test, expected.T, rtol=1e-5, atol=1e-6)


SOUND = blobs()
PARTS = {"x_train": SOUND["X"][:60], "y_train": SOUND["y"][:60], "x_test": SOUND["X"][60:], "y_test": SOUND["y"][60:]}
BAD_SETS: list[tuple[dict[str, NDArray[Any]], str]] = [
    ({"X": SOUND["X"]}, "holds no y; it holds X"),
    ({"images": SOUND["X"], "labels": SOUND["y"]}, "holds no X and no y; it holds images, labels"),
    ({}, "holds no X and no y; it holds nothing"),
    ({**SOUND, "X": SOUND["X"][:, 0]}, r"X: got shape \(90,\), needs \(examples, features\)"),
    ({**SOUND, "X": SOUND["X"][:, :0]}, r"X: got shape \(90, 0\), needs \(examples, features\)"),
    ({**SOUND, "X": SOUND["X"].astype(str)}, "X: got dtype <U.*, needs real numbers"),
    ({**SOUND, "X": SOUND["X"] + 1j}, "X: got dtype complex128, needs real numbers"),
    (
        {**SOUND, "X": np.where(np.arange(90)[:, None] == 7, np.nan, SOUND["X"])},
        "NaN or an infinity, first in example 7",
    ),
    (
        {**SOUND, "y": SOUND["y"][:-1]},
        r"y: got shape \(89,\), needs one class for each of the 90 examples of X",
    ),
    ({**SOUND, "y": np.eye(3)[SOUND["y"]]}, r"y: got shape \(90, 3\), needs one class"),
    ({**SOUND, "y": SOUND["y"] + 0.5}, "whole numbers or strings"),
    ({**SOUND, "y": SOUND["y"] * 1j}, "y: got dtype complex128, needs classes"),
    ({**SOUND, "y": SOUND["y"] * 0}, "y: got 0 for all 90 examples, needs at least two classes"),
    ({**SOUND, "y": np.arange(90)}, "90 different values for 90 examples"),
    ({"X": SOUND["X"][:6], "y": SOUND["y"][:6]}, "got 6 examples, needs at least 10"),
    ({"X": SOUND["X"][:10], "y": np.arange(10) % 5}, "too few examples of each class"),
    ({**PARTS, "y_test": SOUND["y"]}, r"y_test: got shape \(90,\), needs one class for each example of x_test"),
    ({**PARTS, "y_train": np.int64(3)}, r"y_train: got shape \(\), needs one class for each example of x_train"),
    ({**PARTS, "x_test": SOUND["X"][:0], "y_test": SOUND["y"][:0]}, r"y_test: got shape \(0,\), needs one class"),
    ({**PARTS, "x_test": SOUND["X"][60:, :3]}, r"x_test: got shape \(30, 3\) and dtype float64, needs what x_train"),
    ({**PARTS, "y_test": SOUND["y"][60:].astype(str)}, "y_test: got shape .* and dtype <U.*, needs what y_train has"),
    ({name: PARTS[name] for name in ("x_train", "y_train")}, "holds no X and no y; it holds x_train, y_train"),
    ({**SOUND, "X": np.array([None] * 90)[:, None]}, "got Python objects, needs X and y as plain arrays"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD_SETS)
def test_unusable_sets(
    arrays: dict[str, NDArray[Any]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(data.DataError, match=message):
        data.load(path)
    assert __main__.main(["compare", path, "--plain", "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert path in told.err
    assert "Traceback" not in told.err + told.out


def test_unreadable_files(tmp_path: Path) -> None:
    text = tmp_path / "notes.npz"
    text.write_text("not an archive")
    single = tmp_path / "single.npy"
    np.save(single, np.ones(3))
    whole = Path(save(tmp_path, **blobs()))
    content = bytearray(whole.read_bytes())
    content[200:2000] = bytes(1800)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(content)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:1000])
    for path, message in (
        (tmp_path / "absent.npz", "no such file"),
        (tmp_path, "got a folder, needs a .npz file"),
        (text, "no .npz file"),
        (single, "no .npz file"),
        (cut, "no .npz file"),
        (damaged, "cannot be read"),
    ):
        with pytest.raises(data.DataError, match=message):
            data.load(str(path))
