"""The programs of the page on many processes: they run on two, and print what the page shows."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import fusedstep as fs

pytest.importorskip("torch")

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "many_processes_torch.md"
PROGRAMS = sorted((ROOT / "examples" / "processes").glob("*.py"))
NEEDS = {"zero_deepspeed": "deepspeed", "trainer": "transformers"}
# On a busy machine a thread of torch's gloo may let go of its last tensor when Python has already ended, for which it
# needs Python: the process dies at its exit, after all is done.
TORCH_AT_EXIT = "terminate called without an active exception"


def test_the_page_has_every_program() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert PROGRAMS
    for program in PROGRAMS:
        text = program.read_text(encoding="utf-8")
        assert text[text.index("from __future__") :] in page, program.name


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_programs_print_what_the_page_shows(program: Path, tmp_path: Path) -> None:
    needed = NEEDS.get(program.stem)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    for again in range(3):
        folder = tmp_path / str(again)
        folder.mkdir()
        done = run(program, folder)
        at_exit = done.returncode != 0 and TORCH_AT_EXIT in done.stderr
        assert done.returncode == 0 or at_exit, done.stdout + done.stderr
        check(program, done.stdout)
        if not at_exit:
            return
    raise AssertionError(done.stderr)


def run(program: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(Path(fs.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    return subprocess.run(
        [*command, str(program), str(folder)], env=environment, capture_output=True, text=True, timeout=240
    )


def check(program: Path, output: str) -> None:
    """It printed what the page shows."""
    section = PAGE.read_text(encoding="utf-8").split(f"examples/processes/{program.name}", 1)[1]
    shown = re.findall(r"^(.*loss )([0-9.]+)(.*)$", re.search(r"prints\n\n```\n(.*?)```", section, re.S)[1], re.M)  # type: ignore[index]
    lines = [line for line in output.splitlines() if re.match(r".*loss [0-9.]+", line) and "{" not in line]
    assert len(lines) == len(shown) > 0, output
    for line, (before, loss, after) in zip(lines, shown, strict=True):
        start, printed, end = re.fullmatch(r"(.*loss )([0-9.]+)(.*)", line).groups()  # type: ignore[union-attr]
        assert (start, end) == (before, after)
        assert float(printed) == pytest.approx(float(loss), rel=0.1)  # other BLAS libraries
