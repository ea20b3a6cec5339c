"""Microseconds and GB/s of a step beside the reference and the streaming limit: ``fusedstep bench``.

python benchmarks/step.py --rules adam,rmsprop --sizes 1e3,1e6,1e8 --json out/step.json --png out/step.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from fusedstep.bench import main

if __name__ == "__main__":
    raise SystemExit(main(program=Path(sys.argv[0]).name))
