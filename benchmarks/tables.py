"""Tables and pictures of the figures that peers.py wrote; ``python benchmarks/tables.py`` draws those of the pages."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import models
from fusedstep.bench import machine, picture, report
from fusedstep.bench.timing import ratio
from fusedstep.demo.choices import rules

LIMIT = "streaming limit"
OWN = "fusedstep"

Row = dict[str, Any]

_NAMES = {name: rule.__name__ for name, rule in rules().items()} | {
    "network": "network",
    "1000x1000": "1000 x 1000",
    "resnet50": "ResNet-50",
    "gpt2": "GPT-2",
}
"""How pictures call rules and models."""

_PAGES = Path(__file__).parent
_TABLES = {
    "Adam": (_PAGES / "README.md", 2),
    "RMSprop": (_PAGES / "figures.md", 1),
    "momentum": (_PAGES / "figures.md", 1),
}
"""Heading of a published table of float32, two threads, to its page and the rule's states."""


def _title(group: tuple[Any, ...]) -> str:
    rule, dtype, threads, isolated, pages = group
    apart = ", each library in a process of its own" if isolated else ""
    kept = "" if pages == "huge" else ", pages as each library asks for them"
    return f"{_NAMES.get(rule, rule)}, {dtype}, {threads} thread{'s' if threads > 1 else ''}{apart}{kept}"


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
    caption = machine.summary(document["machine"]) if "machine" in document else document.get("caption", "")
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
                {_NAMES[c]: {n: r["microseconds"] for n, r in p.items() if n != LIMIT} for c, p in shown.items()},
                limit={_NAMES[c]: p[LIMIT]["microseconds"] for c, p in shown.items() if LIMIT in p},
                unit="microseconds per step",
                caption=caption,
            )


def published(heading: str) -> list[Row]:
    """The microseconds of a table on a page, as rows of a document of peers.py."""
    page, states = _TABLES[heading]
    table = re.search(rf"^\| {heading} \|.*?(?=^$)", page.read_text(encoding="utf-8"), re.M | re.S)
    assert table is not None, heading
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table[0].strip().split("\n"))
    found = []
    for case, *cells in lines:
        elements = models.elements(models.CASES[case])
        for name, cell in zip(head[1:], cells, strict=True):
            if cell == "-":
                continue
            microseconds = float(cell.split()[0].replace(",", ""))
            row = {"rule": heading.lower(), "dtype": "float32", "threads": 2, "isolated": True, "pages": "huge"}
            row |= {"case": case, "peer": LIMIT if name == "limit" else name, "elements": elements}
            row |= {"microseconds": microseconds, "gbs": 4e-3 * elements * (3 + 2 * states) / microseconds}
            found.append(row)
    return found


def main() -> None:
    """Draw ``docs/img/peers-*.png`` from the tables of the pages, so that both always say the same."""
    pictures = _PAGES.parent / "docs" / "img"
    caption = "AMD EPYC 9004 (Zen 4), 2 CPUs of a virtual machine, AVX-512, 2026-11-20"
    for heading in _TABLES:
        draw({"results": published(heading), "caption": caption}, pictures)
        stem = f"{heading.lower()}-float32-threads2-apart"
        for tail in ("", "-models"):
            (pictures / f"{stem}{tail}.png").replace(pictures / f"peers-{heading.lower()}{tail}.png")


if __name__ == "__main__":
    main()
