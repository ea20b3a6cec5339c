"""Tables and pictures of the figures that peers.py wrote."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import models
from fusedstep.bench import machine, picture, report
from fusedstep.bench.timing import ratio

LIMIT = "streaming limit"
OWN = "fusedstep"

Row = dict[str, Any]


def _title(group: tuple[Any, ...]) -> str:
    rule, dtype, threads, isolated, pages = group
    apart = ", a process each" if isolated else ""
    kept = "" if pages == "huge" else ", pages as each library asks for them"
    return f"{rule}, {dtype}, {threads} thread{'s' if threads > 1 else ''}{apart}{kept}"


def _groups(document: dict[str, Any]) -> list[tuple[tuple[Any, ...], dict[str, dict[str, Row]]]]:
    def key(row: Row) -> tuple[Any, ...]:
        return row["rule"], row["dtype"], row["threads"], row["isolated"], row["pages"]

    found = []
    for group, rows in groupby(sorted(document["results"], key=key), key=key):
        cases: dict[str, dict[str, Row]] = {}
        for row in rows:
            cases.setdefault(row["case"], {})[row["peer"]] = row
        ordered = {case: cases[case] for case in models.CASES if case in cases}
        found.append((group, ordered))
    return found


def _spread(row: Row) -> str:
    low, high = row["quartiles"]
    return f"{report.duration(1e-6 * row['microseconds'])} ±{50 * (high - low) / row['microseconds']:.0f}%"


def show(document: dict[str, Any]) -> None:
    """Print microseconds, ratios and the share of the streaming limit."""
    if "machine" in document:
        print(f"{document['machine']['date']}  {machine.summary(document['machine'])}")
    for group, cases in _groups(document):
        names = list(dict.fromkeys(name for peers in cases.values() for name in peers))
        header = ["case", *names]
        rows = [[case, *(_spread(peers[n]) if n in peers else "-" for n in names)] for case, peers in cases.items()]
        report.show(f"microseconds a step (median ± half the quartile range): {_title(group)}", header, rows)
        others = [name for name in names if name not in (LIMIT, OWN)]
        compared: list[list[str]] = []
        for case, peers in cases.items():
            if OWN not in peers:
                continue
            times = {name: ratio(row["turns"], peers[OWN]["turns"]) for name, row in peers.items()}
            cells = [f"{times[name]:.2f}" if name in times else "-" for name in others]
            rivals = {name: value for name, value in times.items() if name != LIMIT and not name.startswith(OWN)}
            best = min(rivals, key=lambda name: rivals[name], default="-")
            share = f"{100 * times[LIMIT]:.1f}%" if LIMIT in times else "-"
            compared.append([case, *cells, best, share])
        report.show(
            f"times fusedstep's, gradients bound (median of the rounds' ratios): {_title(group)}",
            ["case", *others, "fastest peer", "of the limit"],
            compared,
        )


def draw(document: dict[str, Any], folder: Path) -> None:
    """Write ``RULE-DTYPE-threadsN.png`` (GB/s over size) and ``...-models.png`` (bars) for every group."""
    caption = machine.summary(document["machine"]) if "machine" in document else ""
    for group, cases in _groups(document):
        rule, dtype, threads, isolated, pages = group
        stem = f"{rule}-{dtype}-threads{threads}" + ("-apart" if isolated else "") + ("-own" if pages == "own" else "")
        lines: dict[str, list[tuple[int, float]]] = {}
        for case, peers in cases.items():
            if case in models.MODELS:
                continue
            for name, row in peers.items():
                lines.setdefault(name, []).append((row["elements"], row["gbs"]))
        limit = lines.pop(LIMIT, [])
        if any(len(points) > 1 for points in lines.values()):
            picture.curves(folder / f"{stem}.png", _title(group), lines, limit, caption=caption)
        shown = {case: peers for case, peers in cases.items() if case in models.MODELS}
        if shown:
            picture.bars(
                folder / f"{stem}-models.png",
                _title(group),
                {c: {n: r["microseconds"] for n, r in p.items() if n != LIMIT} for c, p in shown.items()},
                limit={c: p[LIMIT]["microseconds"] for c, p in shown.items() if LIMIT in p},
                unit="microseconds a step",
                caption=caption,
            )
