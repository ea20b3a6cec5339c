"""What is in an optimizer of several processes: its states, averages and checkpoints."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arguments import path_text
from .._group_options import Structure
from .._schedule_free import TRAIN_MODE
from .._structures import rebuilt
from ..optimizers import SGD
from ._alike import option_facts
from ._cut import Cut
from ._files import read_part, write
from ._part import Part, Piece
from ._ranks import RankError, Ranks
from ._states import collected, full_dict, part_dict
from ._traffic import Traffic

__all__ = ["Stored"]

Array = NDArray[Any]


class Stored:
    """The part of `Sharded` that is not steps.

    Attributes
    ----------
    _ranks, _cut, _traffic
        The processes, who owns what, and how it travels.
    _whole, _params, _shapes, _dtypes
        The structure of the whole model, and its parameters in order, as they were when it was made.
    _part, _pieces
        This rank's optimizer, and its pieces of the parameters.
    """

    _ranks: Ranks
    _inside: str = ""  # the method that this rank is in
    _agreed: bool = False  # whether all ranks have come together in it
    _told: BaseException | None = None  # this rank's error, of which the others know
    _one: threading.Lock
    _cut: Cut
    _traffic: Traffic
    _whole: SGD
    _grouped: bool
    _params: list[Array]
    _shapes: list[tuple[int, ...]]
    _dtypes: list[np.dtype[Any]]
    _part: Part
    _pieces: list[Piece]

    def _agree(self, error: BaseException | None, facts: Callable[[], list[tuple[str, str]]]) -> None:
        """Go on only if no rank has an error and all have the same facts; raise this rank's error."""
        found = [("method", self._inside)]
        if error is None:
            try:
                found += facts()
            except BaseException as raised:
                error = raised
        self._agreed, self._told = True, error
        self._ranks.agree(error, found)
        if error is not None:
            raise error

    def _options(self) -> list[tuple[str, str]]:
        return option_facts(self._part)

    @contextlib.contextmanager
    def _together(self, name: str) -> Iterator[None]:
        """Around a method that all ranks call: an error of one is an error of all, or it takes no part any more.

        Raises
        ------
        LostRankError
            A rank did not answer before.
        RuntimeError
            This rank is in such a method: called by another thread, or by the code of a gradient or a schedule. A rank
            that does more than the others would answer for another. Or this process was forked.
        """
        self._ranks.check_process(name)
        with self._one:
            inside, self._inside = self._inside, self._inside or name
        if inside:
            raise RuntimeError(f"{name}: called during a {inside.removesuffix('()')} of this optimizer")
        self._agreed = False
        try:
            if self._ranks.lost is not None:
                raise self._ranks.lost
            yield
        except BaseException as error:
            self._spread(error)
            raise
        finally:
            self._inside, self._told = "", None

    def _spread(self, error: BaseException) -> None:
        """Let the other ranks know of an error of this one, or leave them where they wait for something else.

        An overflow of float16 is found on all ranks together.
        """
        try:
            if not self._agreed and self._ranks.lost is None:
                self._agreed, self._told = True, error
                self._ranks.agree(error, [])
        finally:
            if error is not self._told and not isinstance(error, (RankError, OverflowError)):
                self._ranks.leave(error)

    def _check_params(self, written: bool) -> None:
        """Check that the whole parameters are what they were: messages and files are of that.

        Raises
        ------
        ValueError
            One was reshaped or retyped in place, or where they are to be `written`, has other memory or is read-only.
        """
        for slot, shape, dtype in zip(self._whole._slots, self._shapes, self._dtypes, strict=True):
            now = slot.array
            if (now.shape, now.dtype) != (shape, dtype):
                raise ValueError(
                    f"params{slot.path}: got {now.dtype} of shape {now.shape} now, needs {dtype} of shape {shape}, as "
                    "it was when the optimizer was made; set it back, or make a new one"
                )
        if written:
            self._whole._model.step_list([None] * len(self._params), 1.0)  # checks them, and steps nothing

    def state_dict(self) -> dict[str, Any]:
        """The state dict of the whole optimizer, as one process would have it, in every process.

        It needs the memory of all states. `save` does not.
        """
        with self._together("state_dict()"):
            own = self._part.state_dict()
            self._agree(None, self._options)
            return full_dict(self._part, own, self._ranks, self._cut, self._shapes)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict` was made, by one process or by any number of ranks.

        Parameters
        ----------
        state_dict
            The same on all ranks; each takes its share.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.load_state_dict`. Nothing has changed on any rank.
        RankError
            Another rank raised one. Nothing has changed on any rank.
        """
        with self._together("load_state_dict()"):
            self._load(lambda: part_dict(self._part, self._pieces, self._shapes, state_dict))

    def _load(self, read: Callable[[], dict[str, Any]]) -> None:
        before, error, loaded = self._part.state_dict(), None, False
        try:
            given = read()
            self._part.load_state_dict(given)
            loaded = True
        except BaseException as raised:
            error = raised
        try:
            self._agree(error, self._options)
        except BaseException:
            if loaded:
                self._part.load_state_dict(before)
            raise

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the parameters, the states and all a resumed run needs into a folder, one file for each rank.

        The file ``index.json`` names the files that belong together. It is written last and replaced in one step, so
        a crash at any time leaves the whole checkpoint of before or the whole new one.

        Parameters
        ----------
        folder
            On a file system that all ranks see. Made if it is not there.

        Raises
        ------
        OSError
            It cannot be written. The last checkpoint is whole.
        RankError
            Another rank could not write its file. The last checkpoint is whole.
        """
        with self._together("save()"):
            self._check_params(written=False)
            write(self._part, self._pieces, self._params, self._ranks, self._agree, path_text("folder", folder))

    def load(self, folder: str | os.PathLike[str]) -> None:
        """Continue from a checkpoint that `save` wrote, on any number of ranks, with the same bytes.

        Raises
        ------
        OSError
            There is no checkpoint, or a file cannot be read. Nothing has changed on any rank.
        TypeError, ValueError
            It is of another model or optimizer, or a file is damaged. Nothing has changed on any rank.
        RankError
            Another rank raised one. Nothing has changed on any rank.
        """
        params: list[Array] = []

        def read() -> dict[str, Any]:
            self._check_params(written=True)
            saved, values = read_part(self._part, self._pieces, self._params, path_text("folder", folder))
            params.extend(values)
            return saved

        with self._together("load()"):
            self._load(read)
            for piece, values in zip(self._pieces, params, strict=True):
                piece.array[...] = values.reshape(piece.array.shape)
            self._traffic.send_all()

    def ema_params(self) -> Structure:
        """Copies of the moving averages, in the structure of the parameters.

        Raises
        ------
        ValueError
            The optimizer, or one of its groups, was made without `ema_decay`.
        """
        averages = []
        with self._together("ema_params()"):
            self._part.ema_params()  # checks that there are any
            self._agree(None, self._options)
            for tensor, (slot, shape) in enumerate(zip(self._part._slots, self._shapes, strict=True)):
                assert slot.ema is not None
                averages.append(collected(self._ranks, self._cut, tensor, slot.ema, shape))
        leaves = iter(averages)
        structures = [rebuilt(structure, lambda _: next(leaves)) for structure in self._whole._structures]
        return structures if self._grouped else structures[0]

    def memory(self) -> dict[str, float]:
        """Bytes that this rank holds for each element of the whole model, by kind (see `Optimizer.memory`)."""
        elements = sum(param.size for param in self._params) or 1
        own = sum(slot.param.size for slot in self._part._slots)
        held = {kind: value * own / elements for kind, value in self._part.memory().items()}
        params = sum(param.nbytes for param in self._params) / elements
        held["total"] += params - held["params"]
        held["params"] = params
        return held

    # ---- schedule-free optimizers ----

    def eval(self) -> None:
        """As the method of the schedule-free optimizers, on all ranks."""
        self._switch("eval")

    def train(self) -> None:
        """As the method of the schedule-free optimizers, on all ranks."""
        self._switch("train")

    def _switch(self, name: str) -> None:
        if not hasattr(self._part, name):
            raise AttributeError(f"{type(self._part).__name__} has no attribute {name!r}")
        with self._together(f"{name}()"):
            self._switch_together(name)

    def _switch_together(self, name: str) -> None:
        part = self._part
        arrays = [array for slot in part._slots for array in (slot.array, slot.master) if array is not None]
        half = any(slot.param.dtype == np.float16 for slot in part._slots)  # which may overflow on one rank alone
        before = [(array, array.copy()) for array in arrays] if half else []
        modes = [group[TRAIN_MODE] for group in part._groups]
        error = None
        try:
            self._check_params(written=True)
            getattr(part, name)()
        except BaseException as raised:
            error = raised
        try:
            self._agree(error, self._options)
        except BaseException:
            for array, kept in before:
                array[...] = kept
            for group, mode in zip(part._groups, modes, strict=True):
                group[TRAIN_MODE] = mode
            raise
        self._traffic.send_all()
