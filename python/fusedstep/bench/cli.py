"""The command line of the step benchmark: ``python -m fusedstep bench`` and ``benchmarks/step.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import machine, report
from .timing import ratio

__all__ = ["main", "parser"]

SIZES = "1e3,1e4,1e5,1e6,1e7,1e8"


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(float(part)) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs numbers of elements such as 1e3,1e6") from None
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs at least one element")
    return sizes


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parser() -> argparse.ArgumentParser:
    """Return the parser, for ``--help`` and for the package's own command line."""
    made = argparse.ArgumentParser(
        prog="python -m fusedstep bench",
        description="Microseconds and GB/s of a step, beside the NumPy reference and the memory's streaming "
        "limit. Every result is checked before it is timed.",
    )
    add = made.add_argument
    add("--rules", type=_words, default=["momentum", "rmsprop", "adam"], help="comma-separated, or all")
    add(
        "--dtypes",
        type=_words,
        default=["float32"],
        help="of parameters: float32, float64, float16, bfloat16",
    )
    add(
        "--formats",
        type=_words,
        default=["plain"],
        help="storage: plain; bfloat16, 8bit (of states); master+8bit, split+8bit, stochastic+8bit (with "
        "bfloat16 parameters)",
    )
    add("--sizes", type=_sizes, default=_sizes(SIZES), help=f"elements, default {SIZES}")
    add("--threads", type=int, default=None, help="default: what the process may use")
    add("--repeats", type=int, default=9, help="turns of each, of which the median is shown")
    add("--no-reference", action="store_true", help="do not time the NumPy reference")
    add("--json", default=None, metavar="FILE")
    add("--png", default=None, metavar="FILE", help="GB/s over size; one per dtype and format")
    return made


def _available() -> float:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * float(line.split()[1])
    except (OSError, ValueError):
        pass
    return float("inf")


def _row(found: dict[str, Any]) -> list[str]:
    def spread(figures: dict[str, Any] | None) -> str:
        if figures is None:
            return "-"
        low, high = figures["quartiles"]
        middle = figures["microseconds"]
        return f"{report.duration(1e-6 * middle)} ±{50 * (high - low) / middle:.0f}%"

    native, limit, reference = found["native"], found["limit"], found.get("reference")
    return [
        found["rule"],
        found["dtype"],
        found["format"],
        report.size(found["elements"]),
        spread(native),
        f"{native['gbs']:.1f}",
        spread(limit),
        f"{100 * ratio(limit['turns'], native['turns']):.1f}%",
        spread(reference),
        f"{ratio(reference['turns'], native['turns']):.1f}x" if reference else "-",
    ]


HEADER = [
    "rule",
    "dtype",
    "format",
    "elements",
    "step, us",
    "GB/s",
    "limit, us",
    "of limit",
    "reference, us",
    "faster",
]


def _check(chosen: argparse.Namespace) -> None:
    from . import steps

    if chosen.rules == ["all"]:
        chosen.rules = steps.names()
    for option, given, known in (
        ("--rules", chosen.rules, steps.names()),
        ("--formats", chosen.formats, list(steps.STORAGES)),
        ("--dtypes", chosen.dtypes, ["float32", "float64", "float16", "bfloat16"]),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise SystemExit(f"{option}: got {unknown[0]!r}, needs one of {', '.join(known)}")


def _pictures(path: str, results: list[dict[str, Any]], caption: str) -> None:
    from . import picture

    kinds = list(dict.fromkeys((row["dtype"], row["format"]) for row in results))
    for dtype, kind in kinds:
        rows = [row for row in results if (row["dtype"], row["format"]) == (dtype, kind)]
        lines: dict[str, list[tuple[int, float]]] = {}
        limits: dict[int, list[float]] = {}
        for row in rows:
            lines.setdefault(f"fusedstep {row['rule']}", []).append((row["elements"], row["native"]["gbs"]))
            limits.setdefault(row["elements"], []).append(row["limit"]["gbs"])
            if "reference" in row:
                lines.setdefault(f"reference {row['rule']}", []).append((row["elements"], row["reference"]["gbs"]))
        target = Path(path)
        if len(kinds) > 1:
            target = target.with_name(f"{target.stem}-{dtype}-{kind}{target.suffix}")
        limit = [(size, max(figures)) for size, figures in limits.items()]
        picture.curves(target, f"One step, {dtype}, {kind} storage", lines, limit, caption=caption)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return 1 when a result was wrong."""
    chosen = parser().parse_args(arguments)
    import fusedstep as fs

    from . import steps

    _check(chosen)
    if chosen.threads is not None:
        fs.set_num_threads(chosen.threads)
    results: list[dict[str, Any]] = []
    failures = 0
    for rule in chosen.rules:
        for dtype in chosen.dtypes:
            for storage in chosen.formats:
                kind = steps.STORAGES[storage].dtype or dtype
                for elements in chosen.sizes:
                    case = steps.Case(rule, kind, storage, elements)
                    if elements * 64 > _available():
                        report.note(f"{case}: left out, more memory than is free")
                        continue
                    try:
                        timings, moved = steps.measure(case, repeats=chosen.repeats, reference=not chosen.no_reference)
                    except steps.WrongResult as error:
                        failures += 1
                        report.note(f"WRONG: {error}")
                        continue
                    except ValueError as error:
                        report.note(f"{case}: left out, {error}")
                        break
                    figures = {name: timing.as_dict(moved) for name, timing in timings.items()}
                    found = {"rule": rule, "dtype": kind, "format": storage, "elements": elements, **figures}
                    results.append(found | {"bytes": moved})
                    report.note("  ".join(_row(found)))
    described = machine.describe()
    report.show(machine.summary(described), HEADER, [_row(found) for found in results], left=3)
    if chosen.json:
        report.write_json(chosen.json, {"machine": described, "results": results})
    if chosen.png and results:
        _pictures(chosen.png, results, machine.summary(described))
    return 1 if failures else 0
