"""A step whose states are files on a disk (``memory=``), beside what the disk reads and writes at once.

    python benchmarks/disk.py --folder FOLDER [--elements 1.25e8] [--limit 3e8] [--json FILE]

Run as root on Linux: a control group keeps what is mapped from growing beyond the limit, in bytes; without one the
states may all be in memory. In every round the disk's rate is measured, past the system's cache, and then a step. The
parameters are compared with those of as many steps in ordinary memory.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import environment

PIECE = 8 << 20
IN_FLIGHT = 4  # pieces that are read at once, and as many that are written: more are not faster
GROUPS = {"memory/": ("memory.limit_in_bytes", "memory.max_usage_in_bytes"), "": ("memory.max", "memory.peak")}


def moved(path: Path, first: int, size: int, *, writes: bool) -> None:
    """Read or write every IN_FLIGHT-th piece of a file past the system's cache."""
    block = mmap.mmap(-1, PIECE)  # on whole pages, as the system asks for
    block.write(os.urandom(PIECE))
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    for start in range(first * PIECE, size, IN_FLIGHT * PIECE):
        _ = os.pwrite(file, block, start) if writes else os.preadv(file, [block], start)
    os.close(file)


def disk_seconds(files: tuple[Path, Path], size: int) -> float:
    """Seconds in which the disk reads so many bytes of one file and writes as many into another."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(2 * IN_FLIGHT) as pool:
        jobs = [(path, first, bool(k)) for k, path in enumerate(files) for first in range(IN_FLIGHT)]
        for job in [pool.submit(moved, path, first, size, writes=writes) for path, first, writes in jobs]:
            job.result()
    return time.perf_counter() - begun


def confined(limit: int) -> Path | None:
    """The file with the largest size of a new control group of this process, or None where there can be none."""
    for below, (limits, peak) in GROUPS.items():
        group = Path("/sys/fs/cgroup", below, "fusedstep-disk")
        try:
            group.mkdir(exist_ok=True)
            (group / limits).write_text(str(limit))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            continue
        return group / peak
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--elements", type=float, default=1.25e8)
    parser.add_argument("--limit", type=float, default=3e8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", default=None)
    chosen = parser.parse_args(arguments)
    environment.prepare()
    import fusedstep as fs
    from fusedstep.bench import machine, report

    n = int(chosen.elements)
    grad = np.random.default_rng(0).standard_normal(n, np.float32)
    param = np.ones(n, np.float32)
    ordinary = fs.AdamW(param, lr=1e-3)
    for _ in range(chosen.rounds):
        ordinary.step(grad)
    wanted = zlib.crc32(param)
    del ordinary
    param[...] = 1
    peak = confined(int(chosen.limit))
    optimizer = fs.AdamW(param, lr=1e-3, memory=chosen.folder)
    size, rows = 8 * n, []
    figures: dict[str, list[float]] = {"step": [], "disk": []}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        files = (Path(folder, "read"), Path(folder, "written"))
        part = min(size, 1 << 30) // PIECE * PIECE
        for first in range(IN_FLIGHT):
            moved(files[0], first, part, writes=True)
        for turn in range(chosen.rounds):
            disk = part / disk_seconds(files, part) / 1e9
            begun = time.perf_counter()
            optimizer.step(grad)
            step = size / (time.perf_counter() - begun) / 1e9
            figures["step"].append(step)
            figures["disk"].append(disk)
            rows.append([str(turn + 1), f"{step:.2f}", f"{disk:.2f}", f"{step / disk:.0%}"])
    assert zlib.crc32(param) == wanted, "other parameters than in ordinary memory"
    middle: dict[str, Any] = {name: median(rates) for name, rates in figures.items()}
    rows.append(["median", *(f"{rate:.2f}" for rate in middle.values()), f"{middle['step'] / middle['disk']:.0%}"])
    title = f"GB/s each way, {size / 1e9:.1f} GB of states"
    if peak is None:
        title += ", as much memory as there is"
    else:
        title += f", at most {int(peak.read_text()) / 1e9:.2f} GB of them in memory"
    report.show(title, ["round", "step", "disk", "of it"], rows)
    if chosen.json:
        report.write_json(chosen.json, {"machine": machine.describe(), "figures": figures})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
