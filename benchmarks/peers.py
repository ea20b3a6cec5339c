"""Time one optimizer step of this package beside its peers: same cases, same arrays, in turns, checked first.

python benchmarks/peers.py --rules adam --json out/peers.json --pictures out
python benchmarks/peers.py --cases 1e3,1e6 --peers fusedstep,torch,numba --threads 1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import environment


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default="adam,rmsprop,momentum", help="comma-separated, or all")
    parser.add_argument(
        "--cases", default="all", help="comma-separated: network, 1e3 ... 1e8, 1000x1000, resnet50, gpt2"
    )
    parser.add_argument("--peers", default=None, help="names (torch fused) or their first words (torch)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--threads", type=int, default=None, help="for everyone, by affinity too (default: all CPUs)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--settle", type=float, default=0.03, help="pause before each turn, seconds")
    parser.add_argument("--isolate", action="store_true", help="one process per peer, still taking turns")
    parser.add_argument(
        "--pages", default="huge", choices=("huge", "own"),
        help="huge: every malloc asks for huge pages, alike for everyone; own: what each library does itself",
    )  # fmt: skip
    parser.add_argument("--json", default=None, help="write the figures; with --merge, add to those there")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--render", action="store_true", help="time nothing: tables and pictures of --json")
    parser.add_argument("--pictures", default=None, help="folder for the PNGs")
    return parser.parse_args(arguments)


def contestants(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the peers asked for that are installed, in this process or each in its own."""
    import contest
    from adapters import load, names
    from fusedstep.bench import report

    wanted = None if chosen.peers is None else chosen.peers.split(",")
    found: dict[str, Any]
    if chosen.isolate:
        remotes = [contest.Remote(name) for name in names(wanted)]
        missing = [line for remote in remotes for line in remote.missing]
        found = {remote.name: remote for remote in remotes if not remote.missing}
    else:
        offered, missing = load(wanted)
        found = {name: contest.Local(peer) for name, peer in offered.items()}
    for line in dict.fromkeys(missing):
        report.note(f"not installed: {line}")
    return found


def measure_case(
    chosen: argparse.Namespace, peers: dict[str, Any], rule: str, case: str
) -> tuple[list[dict[str, Any]], int]:
    """Check and time one rule on one case; return a row for each peer and the number of wrong ones."""
    import contest
    import models
    from adapters import RULES
    from fusedstep.bench import report
    from fusedstep.bench.timing import alternate

    problem = None if chosen.isolate else contest.problem_of(case, rule, chosen.dtype, chosen.threads)
    runs: dict[str, Any] = {}
    failures = 0
    for name, contestant in peers.items():
        reason = contestant.prepare(case, rule, chosen.dtype, chosen.threads, problem)
        if not reason:
            runs[name] = contestant.run
        elif reason.startswith("WRONG"):
            failures += 1
            report.note(f"{rule} {case} {name}: {reason}")
    states = RULES[rule].states
    try:
        runs["streaming limit"] = contest.stream_run(case, chosen.dtype, states, chosen.threads)
    except (ImportError, AttributeError):
        report.note("no streaming limit: fusedstep is not built")
    if problem is not None:
        problem.params = ()
    timings = alternate(runs, repeats=chosen.repeats, settle=chosen.settle)
    report.note(f"{rule} {case}: " + ", ".join(f"{n} {report.duration(t.median)}" for n, t in timings.items()))
    common = {
        "rule": rule,
        "dtype": chosen.dtype,
        "threads": chosen.threads,
        "case": case,
        "isolated": chosen.isolate,
        "pages": chosen.pages,
        "elements": models.elements(models.CASES[case]),
        "tensors": len(models.CASES[case]),
    }
    moved = contest.moved(case, chosen.dtype, states)
    for contestant in peers.values():
        contestant.release()
    return [common | {"peer": name, **t.as_dict(moved)} for name, t in timings.items()], failures


def listed(option: str, given: str, known: Sequence[str]) -> list[str]:
    """Return the names that an option asks for, or end with those that there are."""
    names = list(known) if given == "all" else given.split(",")
    for name in names:
        if name not in known:
            raise SystemExit(f"{option}: got {name}, needs all, or some of {', '.join(known)}, between commas")
    return names


def measure(chosen: argparse.Namespace, document: dict[str, Any]) -> int:
    """Run the cases asked for into ``document``; return the number of wrong results."""
    import models
    from adapters import RULES
    from fusedstep.bench import report

    rules, cases = listed("--rules", chosen.rules, list(RULES)), listed("--cases", chosen.cases, list(models.CASES))
    peers = contestants(chosen)
    failures = 0
    for rule in rules:
        for case in cases:
            rows, wrong = measure_case(chosen, peers, rule, case)
            failures += wrong
            for row in rows:
                keep(document["results"], row)
            if chosen.json:
                report.write_json(chosen.json, document)
    for contestant in peers.values():
        contestant.close()
    return failures


KEYS = ("rule", "dtype", "threads", "case", "peer", "isolated", "pages")


def keep(results: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Add ``row`` to ``results`` in place of an earlier figure of the same thing."""
    same = [old for old in results if all(old[key] == row[key] for key in KEYS)]
    for old in same:
        results.remove(old)
    results.append(row)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, tabulate and draw; return 1 when a result was wrong."""
    chosen = options(arguments)
    chosen.threads = environment.prepare(chosen.threads, chosen.pages)
    import tables
    from fusedstep.bench import machine, report

    document: dict[str, Any] = {"results": []}
    if chosen.json and (chosen.merge or chosen.render) and Path(chosen.json).exists():
        document = report.read_json(chosen.json)
    failures = 0
    if not chosen.render:
        failures = measure(chosen, document)
        document["machine"] = machine.describe()
        if chosen.json:
            report.write_json(chosen.json, document)
    tables.show(document)
    if chosen.pictures:
        tables.draw(document, Path(chosen.pictures))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
