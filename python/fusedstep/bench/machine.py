"""What a figure was measured on: processor, caches, memory, threads, versions."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe", "summary"]

_PACKAGES = (
    "fusedstep", "numpy", "numba", "torch", "deepspeed", "jax", "optax", "thinc", "scikit-learn", "torchao",
    "bitsandbytes",
)  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        wanted.setdefault(key.strip(), value.strip())
    name = wanted.get("model name", platform.machine())
    family, model = wanted.get("cpu family"), wanted.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def _caches() -> dict[str, str]:
    found: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / part).read_text(encoding="utf-8").strip() for part in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def _memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else 0.0


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _huge_pages() -> str:
    try:
        words = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8").split()
    except OSError:
        return "unknown"
    return next((word.strip("[]") for word in words if word.startswith("[")), "unknown")


def describe() -> dict[str, Any]:
    """Return the machine and the versions, as plain values for a JSON file."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    described: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cpus": _cpus(),
        "caches": _caches(),
        "memory_gib": round(_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "huge_pages": _huge_pages(),
        "malloc_huge_pages": "glibc.malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", ""),
        "versions": versions,
    }
    if "fusedstep" in sys.modules:
        loaded = sys.modules["fusedstep"]
        if hasattr(loaded, "isa"):
            described["isa"] = loaded.isa()
            described["threads"] = loaded.get_num_threads()
    return described


def summary(described: dict[str, Any]) -> str:
    """Return one line about the machine for a table's caption or a picture's title."""
    caches = ", ".join(f"{level} {size}" for level, size in described["caches"].items())
    parts = [described["processor"], f"{described['cpus']} CPUs", caches]
    if "isa" in described:
        parts.append(f"{described['isa']}, {described['threads']} threads")
    return ", ".join(part for part in parts if part)
