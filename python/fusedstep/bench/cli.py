"""The command line of the step benchmark: ``fusedstep bench`` and ``benchmarks/step.py``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._extras import need
from .._interrupted import interrupted
from . import machine, report, steps
from .timing import ratio

__all__ = ["main", "parser"]

DTYPES = ["float32", "float64", "float16", "bfloat16"]
SIZES = "1e3,1e4,1e5,1e6,1e7,1e8"
MOST_THREADS = 4096  # what fusedstep.set_num_threads takes


def _sizes(text: str) -> list[int]:
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(size >= 1 and size.is_integer() for size in sizes):
        raise argparse.ArgumentTypeError(f"got {text!r}, needs numbers of elements such as 1e3,1e6")
    return [int(size) for size in sizes]


def _some_of(known: Sequence[str], aliases: Mapping[str, str]) -> Callable[[str], list[str]]:
    """Return the type of an option that takes names from a list, separated by commas, or all."""

    def names(text: str) -> list[str]:
        chosen: list[str] = []
        for part in text.lower().split(","):
            name = aliases.get(part.strip(), part.strip())
            if name not in known and name != "all":
                raise argparse.ArgumentTypeError(f"got {part.strip()!r}, needs one of {', '.join(known)}, or all")
            chosen += known if name == "all" else [name]
        return chosen

    return names


def _count(most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"got {text!r}, needs a whole number from 1 to {most}")
        return value

    return whole


def _file(text: str) -> Path:
    """Return the path of a file that can be written: better known before the measurements."""
    path = Path(text)
    try:
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if new:
            path.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a file that can be written: {reason}") from None
    return path


def parser(program: str) -> argparse.ArgumentParser:
    """Return the parser; ``program`` is how the benchmark was started, for its messages."""
    made = argparse.ArgumentParser(
        prog=program,
        description="Microseconds and GB/s of a step, beside the NumPy reference and the memory's streaming "
        "limit. Every result is checked before it is timed.",
    )
    add = made.add_argument
    listed: tuple[tuple[str, Callable[[str], list[Any]], str, str], ...] = (
        ("rules", _some_of(steps.names(), {"gd": "sgd"}), "momentum,rmsprop,adam", ", ".join(steps.names())),
        ("dtypes", _some_of(DTYPES, {}), "float32", f"of parameters: {', '.join(DTYPES)}"),
        (
            "formats",
            _some_of(list(steps.STORAGES), {}),
            "plain",
            "storage: plain; bfloat16, 8bit (of states); master+8bit, split+8bit, stochastic+8bit (with bfloat16 "
            "parameters)",
        ),
        ("sizes", _sizes, SIZES, "numbers of elements"),
    )
    for name, kind, default, about in listed:
        add(
            f"--{name}",
            type=kind,
            action="extend",
            metavar="NAME,..." if name != "sizes" else "N,...",
            help=f"{about} (default: {default})",
        )
    made.set_defaults(defaults={name: kind(default) for name, kind, default, _ in listed})
    add(
        "--threads",
        type=_count(MOST_THREADS),
        metavar="N",
        help="threads of a step (default: the CPUs this process may use)",
    )
    add(
        "--repeats",
        type=_count(10**6),
        default=9,
        metavar="N",
        help="interleaved runs of each; the table has their median (default: %(default)s)",
    )
    add("--no-reference", action="store_true", help="do not time the NumPy reference")
    add("--json", type=_file, metavar="FILE", help="write every figure, and the machine's description, to this file")
    add("--png", type=_file, metavar="FILE", help="draw GB/s over size, one picture per dtype and format")
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
        one = len(figures["turns"]) == 1
        return report.duration(1e-6 * middle) + ("" if one else f" ±{50 * (high - low) / middle:.0f}%")

    native, limit, reference = found["native"], found["limit"], found.get("reference")
    return [
        found["rule"],
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
    "elements",
    "step,\nus",
    "GB/s",
    "limit,\nus",
    "of\nlimit",
    "reference,\nus",
    "faster",
]


def _check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Fill in defaults and see before any measurement whether what it needs is there."""
    for name, default in chosen.defaults.items():
        setattr(chosen, name, list(dict.fromkeys(getattr(chosen, name) or default)))
    if "bfloat16" in chosen.dtypes or any("bfloat16" in (name, steps.STORAGES[name].dtype) for name in chosen.formats):
        need("ml_dtypes", extra="bfloat16")
    if chosen.png:
        need("matplotlib")
        from matplotlib.backend_bases import FigureCanvasBase

        able = FigureCanvasBase.get_supported_filetypes()
        if chosen.png.suffix[1:].lower() not in able:
            parser.error(f"argument --png: got {str(chosen.png)!r}, needs a name that ends in .{', .'.join(able)}")


def _pictures(path: Path, results: list[dict[str, Any]], caption: str) -> None:
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
        target = path
        if len(kinds) > 1:
            target = target.with_name(f"{target.stem}-{dtype}-{kind}{target.suffix}")
        limit = [(size, max(figures)) for size, figures in limits.items()]
        picture.curves(target, f"One step, {dtype}, {kind} storage", lines, limit, caption=caption)


def _measure(chosen: argparse.Namespace, results: list[dict[str, Any]]) -> int:
    """Measure every case and append what was found; return the number of wrong results."""
    failures = 0
    for rule in chosen.rules:
        for dtype in chosen.dtypes:
            for storage in chosen.formats:
                kind = steps.STORAGES[storage].dtype or dtype
                for elements in chosen.sizes:
                    case = steps.Case(rule, kind, storage, elements)
                    told = f"{rule}, {kind}, {storage} storage, {report.size(elements)} elements"
                    if elements * 64 > _available():
                        report.note(f"{told}: left out, needs more memory than is free")
                        continue
                    try:
                        timings, moved = steps.measure(case, repeats=chosen.repeats, reference=not chosen.no_reference)
                    except steps.WrongResult as error:
                        failures += 1
                        report.note(f"WRONG: {error}")
                        continue
                    except ValueError as error:
                        report.note(f"{told}: left out, {error}")
                        break
                    figures = {name: timing.as_dict(moved) for name, timing in timings.items()}
                    found = {"rule": rule, "dtype": kind, "format": storage, "elements": elements, **figures}
                    results.append(found | {"bytes": moved})
                    report.note("  ".join([*_row(found), f"{kind}, {storage}"]))
    return failures


def main(arguments: Sequence[str] | None, program: str) -> int:
    """Measure what the command line asks for; return 1 when a result was wrong, 130 after Ctrl-C."""
    made = parser(program)
    chosen = made.parse_args(arguments)
    _check(made, chosen)
    import fusedstep as fs

    if chosen.threads is not None:
        fs.set_num_threads(chosen.threads)
    results: list[dict[str, Any]] = []
    failures, stopped = 0, False
    try:
        failures = _measure(chosen, results)
    except KeyboardInterrupt:
        stopped = True
    if stopped and not results:
        return interrupted(program, "nothing was measured")
    described = machine.describe()
    sections: dict[str, list[Sequence[str]]] = {}
    for found in results:
        sections.setdefault(f"{found['dtype']}, {found['format']}", []).append(_row(found))
    report.show_sections(machine.summary(described), HEADER, sections)
    if not results:
        report.note("nothing was measured")
    if chosen.json:
        report.write_json(chosen.json, {"machine": described, "results": results})
    if chosen.png and results:
        _pictures(chosen.png, results, machine.summary(described))
    if stopped:
        return interrupted(program, "these results were measured before")
    return 1 if failures else 0
