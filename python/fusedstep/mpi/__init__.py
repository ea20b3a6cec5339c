"""One optimizer over several MPI processes, each with a part of the states: ``Sharded(fs.AdamW, params)``.

Run the program with ``mpiexec -n 4 python -m mpi4py train.py``. Needs the extra ``mpi`` (mpi4py) and an MPI library.
"""

from __future__ import annotations

from . import _library as _library  # first: says what is missing
from ._ranks import LostRankError, RankError
from ._sharded import Sharded

__all__ = ["LostRankError", "RankError", "Sharded"]
