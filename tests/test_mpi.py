"""Optimizers of several processes: the bytes of one, whatever their number; errors, deaths and checkpoints."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusedstep as fs

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install mpi4py mpich")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
if MPIEXEC is None:
    pytest.skip("there is no mpiexec: pip install mpich", allow_module_level=True)

from fusedstep.mpi._cut import BLOCK, Cut  # noqa: E402

RANKS = pathlib.Path(__file__).with_name("mpi_ranks.py")
EXAMPLE = RANKS.parent.parent / "examples" / "sharded.py"


def run(
    ranks: int, *arguments: object, program: pathlib.Path = RANKS, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a program, or a scenario of `mpi_ranks`, on so many ranks."""
    path = os.pathsep.join([str(pathlib.Path(fs.__file__).parent.parent), str(RANKS.parent)])
    environment = os.environ | {"PYTHONPATH": path, "FUSEDSTEP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-W", "error", "-m", "mpi4py", str(program)]
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=timeout
    )


def succeeds(ranks: int, *arguments: object) -> None:
    done = run(ranks, *arguments)
    assert done.returncode == 0 and done.stdout.count("done") == ranks, done.stdout + done.stderr


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("scenario", ["rules", "storage", "traffic", "rows", "grow", "errors", "turns"])
def test_several_processes_have_the_bytes_of_one(scenario: str, ranks: int) -> None:
    succeeds(ranks, scenario)


def test_resumes_on_another_number_of_ranks(tmp_path: pathlib.Path) -> None:
    succeeds(3, "save", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"00000002.rank-{rank:05d}-of-00003.npz" for rank in range(3)), "index.json"]
    for ranks in (1, 2, 4):
        succeeds(ranks, "resume", tmp_path)


@pytest.mark.parametrize(
    "how", ["cut", "changed", "missing", "index", "no checkpoint", "swapped", "retyped", "pieces", "deep"]
)
def test_damaged_checkpoints_are_refused(how: str, tmp_path: pathlib.Path) -> None:
    succeeds(2, "save", tmp_path)
    file, index = sorted(tmp_path.glob("*.npz"))[1], tmp_path / "index.json"
    data = bytearray(file.read_bytes())
    if how == "cut":
        file.write_bytes(data[:-100])
    elif how == "changed":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif how == "missing":
        file.unlink()
    elif how == "index":
        index.write_text(index.read_text()[:-50])
    elif how == "deep":
        index.write_text("[" * 100_000)
    elif how == "none":
        index.unlink()
    else:  # the index fits
        listed = json.loads(index.read_text())
        first, second = listed["files"]
        if how == "swapped":
            file.write_bytes((tmp_path / first["name"]).read_bytes())
            (tmp_path / first["name"]).write_bytes(data)
            first["bytes"], second["bytes"] = second["bytes"], first["bytes"]
        elif how == "retyped":
            with np.load(file) as arrays:
                np.savez(file, **{k: v if v.dtype.kind == "U" else v.astype(np.float64) for k, v in arrays.items()})
            second["bytes"] = file.stat().st_size
        else:  # as many elements as there are, some of them twice
            size = (end := second["pieces"][0][2]) - second["pieces"][0][1]
            second["pieces"][0][1:] = [end - size - 1, end - 1]
        index.write_text(json.dumps(listed))
    succeeds(2, "damaged", tmp_path)


def test_a_checkpoint_of_version_1_has_no_mark(tmp_path: pathlib.Path) -> None:
    succeeds(3, "save", tmp_path)
    listed = json.loads((tmp_path / "index.json").read_text()) | {"version": 1}
    del listed["mark"]
    (tmp_path / "index.json").write_text(json.dumps(listed))
    succeeds(2, "resume", tmp_path)


def test_an_index_that_was_edited_is_refused(tmp_path: pathlib.Path) -> None:
    succeeds(2, "save", tmp_path)
    succeeds(2, "edited", tmp_path)


@pytest.mark.parametrize("moment", ["step", "save", "stop", "interrupt"])
def test_a_lost_rank_ends_the_others_and_the_checkpoint_is_whole(moment: str, tmp_path: pathlib.Path) -> None:
    done = run(3, "die", tmp_path, moment, timeout=60)
    assert done.returncode != 0 and "done" not in done.stdout
    if moment == "stop":
        assert "got no answer from rank 1 in 1.5 s, needs all ranks" in done.stdout, done.stdout + done.stderr
    if moment == "interrupt":
        assert "Ctrl-C" in done.stdout, done.stdout + done.stderr
    assert json.loads((tmp_path / "index.json").read_text())["number"] == 0
    succeeds(2, "resume", tmp_path)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="needs the repository's examples and pages")
def test_the_example_of_the_page(tmp_path: pathlib.Path) -> None:
    page = (EXAMPLE.parent.parent / "docs" / "processes.md").read_text(encoding="utf-8")
    program = EXAMPLE.read_text(encoding="utf-8")
    assert program[program.index("from __future__") :] in page
    shown = re.findall(r"\| `(\d+ steps on \d processes), loss ([0-9.]+), (.* bytes each)` \|", page)
    for ranks, (steps, loss, size) in zip((2, 3, 1), shown, strict=True):
        done = run(ranks, tmp_path, program=EXAMPLE)
        assert done.returncode == 0, done.stdout + done.stderr
        begin, middle, end = done.stdout.strip().split(", ")
        assert (begin, end) == (steps, size)
        assert float(middle.removeprefix("loss ")) == pytest.approx(float(loss), rel=0.05)  # other BLAS libraries


@given(
    st.lists(st.sampled_from([0, 1, 5, 2047, 2048, 2049, 5000, 70000]), min_size=1, max_size=12),
    st.integers(1, 9),
    st.booleans(),
    st.integers(1, 9000),
    st.integers(0, 12),
)
def test_a_cut_gives_every_element_to_one_rank(
    sizes: list[int], ranks: int, split: bool, most: int, first: int
) -> None:
    grown = 0 < first < len(sizes)  # tensors that are added later are cut by themselves
    cut = Cut(sizes[:first], ranks, split).extended(sizes[first:]) if grown else Cut(sizes, ranks, split)
    for tensor, size in enumerate(sizes):
        pieces = [piece for rank in range(ranks) if (piece := cut.piece(rank, tensor)) != (0, 0)]
        assert [begin for begin, _ in pieces[1:]] == [end for _, end in pieces[:-1]]
        assert all(begin % (BLOCK if split else max(size, 1)) == 0 for begin, _ in pieces)
        assert (pieces[0][0], pieces[-1][1]) == (0, size) if size else not pieces
    shares = [sum(run.end - run.begin for run in cut.runs(rank)) for rank in range(ranks)]
    if split:
        assert max(shares) - sum(sizes) / ranks <= BLOCK * (1 + grown)

    buckets = cut.buckets(most)
    for rank in range(ranks):
        ordered = [run for bucket in buckets for run in bucket[rank]]
        assert all(run.begin % BLOCK == 0 and run.begin < run.end for run in ordered)
        assert sum(run.end - run.begin for run in ordered) == shares[rank] and ordered == sorted(ordered)
        assert all(sum(r.end - r.begin for r in bucket[rank]) <= max(most, BLOCK) for bucket in buckets)
        ends = cut.bucket_ends(rank, buckets)
        assert ends == sorted(ends) and len(ends) == len(buckets) and ends[-1] == (len(sizes), 0)
