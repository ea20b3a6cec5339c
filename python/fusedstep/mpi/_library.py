"""The MPI library, and what to install where there is none."""

from __future__ import annotations

from .._extras import need

need("mpi4py", extra="mpi")

from mpi4py import MPI  # noqa: E402  (the line above says what is missing)

__all__ = ["MPI"]
