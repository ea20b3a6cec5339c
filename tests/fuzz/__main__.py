"""Run random cases: ``python -m fuzz [KIND ...] [--minutes M] [--seed NUMBER]``."""

from __future__ import annotations

import argparse
import sys
import time

from . import KINDS
from .running import load, run_cases


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Random training runs and random mistakes.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"some of {', '.join(KINDS)}; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="of all kinds together (default: 10)")
    parser.add_argument("--first", type=int, help="number of the first case (default: the time)")
    parser.add_argument("--seed", type=int, help="run only the case of this number, in this process")
    parser.add_argument("--failures", type=int, default=20, help="failures after which a kind ends (default: 20)")
    options = parser.parse_args()
    kinds = options.kinds or list(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            parser.error(f"KIND: got {kind}, needs one of {', '.join(KINDS)}")
    if options.seed is not None:
        for kind in kinds:
            print(f"{kind} {options.seed}: {load(KINDS[kind])(options.seed)} calls")
        return 0
    first, failed = options.first if options.first is not None else time.time_ns() // 1000, 0
    for kind in kinds:
        result = run_cases(KINDS[kind], first, 60 * options.minutes / len(kinds), failures=options.failures)
        for number, what in result.failures:
            print(f"\n{kind} --seed {number}\n{what}")
        print(f"{kind}: {result}", flush=True)
        failed += len(result.failures)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
