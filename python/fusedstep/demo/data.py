"""The data sets of the commands: two moons, scikit-learn's bundled sets, and a file of the user's own.

Every set becomes the same thing, a `Dataset`: examples in columns, standardised with the mean and the spread
of the training part alone, split once so that every optimizer sees the same training and the same test
examples.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._extras import need

BUNDLED = ("moons", "digits", "iris", "wine", "breast_cancer")
TEST_SHARE = 0.2
_FEWEST = 10
_PIECE = 4096  # examples that are standardised at once, in float64: all of a file's may need more memory than there is


class DataError(ValueError):
    """A data set that cannot be read or cannot be used; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Dataset:
    """A classification task, ready for `Network`.

    Attributes
    ----------
    x_train, x_test : float32 array of shape (features, examples)
        Standardised: zero mean and unit variance over the training examples, of every feature or (images) of
        all together.
    y_train, y_test : int64 array of shape (examples,)
        Classes counted from 0.
    labels : tuple of str
        What the classes are called.
    image : tuple of int or None
        Height, width and, if there are, channels of each example if the examples are images.
    """

    name: str
    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    labels: tuple[str, ...]
    image: tuple[int, ...] | None = None

    @property
    def features(self) -> int:
        """The number of features of an example."""
        return self.x_train.shape[0]

    @property
    def outputs(self) -> int:
        """The number of outputs that a network needs: one for two classes, else one per class."""
        return 1 if len(self.labels) == 2 else len(self.labels)


def split(
    name: str,
    x: NDArray[Any],
    y: NDArray[Any],
    seed: int = 0,
    *,
    image: tuple[int, ...] | None = None,
    testing: NDArray[np.bool_] | None = None,
) -> Dataset:
    """Shuffle, keep `TEST_SHARE` of every class for the test, standardise.

    Parameters
    ----------
    x : array of shape (examples, ...)
        Numbers; everything after the first axis is flattened into features.
    y : array of shape (examples,) or (examples, 1)
        Classes: whole numbers or strings.
    image : tuple of int, optional
        The features are the pixels of an image of this shape. They have one unit, so one spread serves all. A
        spread of its own would blow up a pixel that is dark in nearly every training image: one test image where
        it is bright would then outweigh all the others in the loss.
    testing : bool array of shape (examples,), optional
        Which examples are kept for the test, in place of a share of every class.

    Raises
    ------
    DataError
        If the two do not make a classification task.
    """
    features, classes, labels = _checked(name, x, y)
    rng = np.random.default_rng(seed)
    if testing is None:
        testing = np.zeros(classes.size, bool)
        for value in range(len(labels)):
            members = rng.permutation(np.flatnonzero(classes == value))
            testing[members[: round(TEST_SHARE * members.size)]] = True
    train, test = rng.permutation(np.flatnonzero(~testing)), np.flatnonzero(testing)
    if test.size == 0:
        raise DataError(
            f"{name}: too few examples of each class to keep some for the test "
            f"({classes.size} examples, {len(labels)} classes)"
        )
    mean = sum(piece.sum(axis=0) for piece in _pieces(features, train)) / train.size
    spread = np.sqrt(sum(((piece - mean) ** 2).sum(axis=0) for piece in _pieces(features, train)) / train.size)
    if image is not None:
        spread[:] = np.sqrt(np.mean(spread**2))
    spread[spread == 0] = 1.0

    def columns(chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        filled = np.empty((features.shape[1], chosen.size), np.float32, order="F")  # an example's features together
        for at, piece in enumerate(_pieces(features, chosen)):
            filled[:, at * _PIECE : (at + 1) * _PIECE] = ((piece - mean) / spread).T
        if not np.isfinite(filled).all():
            raise DataError(f"{name}: X holds values too large to standardise in float32")
        return filled

    return Dataset(name, columns(train), classes[train], columns(test), classes[test], labels, image)


def _pieces(features: NDArray[Any], chosen: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
    for at in range(0, chosen.size, _PIECE):
        yield features[chosen[at : at + _PIECE]].astype(np.float64)


def _checked(name: str, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...]]:
    if x.dtype.kind not in "biuf":
        raise DataError(f"{name}: X: got dtype {x.dtype}, needs real numbers")
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{name}: X: got shape {x.shape}, needs (examples, features)")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.size != x.shape[0]:
        raise DataError(
            f"{name}: y: got shape {y.shape}, needs one class for each of the {x.shape[0]} examples of X"
            + ("; of one-hot rows, y.argmax(axis=1) makes classes" if y.ndim == 2 and len(y) == len(x) else "")
        )
    if y.size < _FEWEST:
        raise DataError(f"{name}: got {y.size} examples, needs at least {_FEWEST}")
    features = x.reshape(y.size, -1)
    for at, piece in enumerate(_pieces(features, np.arange(y.size))):
        if not np.isfinite(piece).all():
            row = at * _PIECE + int(np.flatnonzero(~np.isfinite(piece).all(axis=1))[0])
            raise DataError(f"{name}: X holds NaN or an infinity, first in example {row}")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.round(y)).all()):
        raise DataError(f"{name}: y: got numbers with fractions or NaN, needs classes (whole numbers or strings)")
    if y.dtype.kind not in "biufUS":
        raise DataError(f"{name}: y: got dtype {y.dtype}, needs classes (whole numbers or strings)")
    values, classes = np.unique(y, return_inverse=True)
    if values.size < 2:
        raise DataError(f"{name}: y: got {values[0]} for all {y.size} examples, needs at least two classes")
    if values.size > y.size // 2:
        raise DataError(f"{name}: y holds {values.size} different values for {y.size} examples: these are not classes")
    names = values.astype(np.int64) if values.dtype.kind == "f" else values
    return features, classes.reshape(-1).astype(np.int64), tuple(str(value) for value in names)


_IN_PARTS = "x_train", "y_train", "x_test", "y_test"


def moons(examples: int = 1000, noise: float = 0.2, seed: int = 3) -> Dataset:
    """Two interleaving half circles with noise (``sklearn.datasets.make_moons``), one class each."""
    need("sklearn")
    from sklearn.datasets import make_moons  # type: ignore[import-untyped,unused-ignore]

    x, y = make_moons(examples, noise=noise, random_state=seed)
    return split("moons", x, y, seed)


def load(source: str, seed: int = 3) -> Dataset:
    """A bundled set by its name (one of `BUNDLED`), or else the ``.npz`` file at the path `source`.

    Raises
    ------
    DataError
        If there is no such set or file, or it does not hold a classification task.
    MissingExtraError
        If a bundled set is asked for and scikit-learn is not installed.
    """
    if source == "moons":
        return moons(seed=seed)
    if source in BUNDLED:
        need("sklearn")
        from sklearn import datasets  # type: ignore[import-untyped,unused-ignore]

        bunch = getattr(datasets, f"load_{source}")()
        return split(source, bunch.data, bunch.target, seed, image=(8, 8) if source == "digits" else None)
    return load_npz(Path(source), seed)


def load_npz(path: Path, seed: int = 3) -> Dataset:
    """Read ``X`` of shape (examples, ...) and ``y`` of shape (examples,) from a file of ``numpy.savez``.

    Or ``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras's ``mnist.npz`` has them: the last two are then
    the test.

    Raises
    ------
    DataError
        If the file is absent, unreadable, no ``.npz``, damaged, lacks ``X`` or ``y``, or they do not fit
        together.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file, nor a bundled set of that name ({', '.join(BUNDLED)})")
    if path.is_dir():
        raise DataError(f"{path}: got a folder, needs a .npz file with X and y")
    testing = None
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path}: this is no .npz file; write one with numpy.savez(path, X=X, y=y)")
        with np.load(path, allow_pickle=False) as archive:
            if set(_IN_PARTS) <= set(archive.files):
                x, y, testing = _joined(str(path), *(archive[key] for key in _IN_PARTS))
            else:
                absent = [key for key in ("X", "y") if key not in archive.files]
                if absent:
                    found = ", ".join(archive.files) or "nothing"
                    raise DataError(
                        f"{path}: holds no {' and no '.join(absent)}; it holds {found}; names are case-sensitive"
                    )
                x, y = archive["X"], archive["y"]
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy reports an object array only in words; everything else here is a damaged or unreadable file.
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: got Python objects, needs X and y as plain arrays of numbers or strings"
            ) from error
        raise DataError(f"{path}: cannot be read: {error}") from error
    image = x.shape[1:] if np.ndim(x) > 2 else None
    return split(str(path), np.asarray(x), np.asarray(y), seed, image=image, testing=testing)


def _joined(
    name: str, x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """The examples of both parts, and which are of the second."""
    for part, images, classes in (("train", x, y), ("test", x_test, y_test)):
        if 0 in images.shape or not images.shape[:1] == classes.shape[:1] != ():
            raise DataError(
                f"{name}: y_{part}: got shape {classes.shape}, needs one class for each example of x_{part}, whose "
                f"shape is {images.shape}"
            )
    for key, one, other in (("x", x, x_test), ("y", y, y_test)):
        if one.shape[1:] != other.shape[1:] or one.dtype.kind != other.dtype.kind:
            raise DataError(
                f"{name}: {key}_test: got shape {other.shape} and dtype {other.dtype}, needs what {key}_train has but "
                f"for the number of examples ({one.shape} and {one.dtype})"
            )
    return np.concatenate([x, x_test]), np.concatenate([y, y_test]), np.arange(len(x) + len(x_test)) >= len(x)
