"""The lessons in examples/: they run from top to bottom, and what is kept of them is a whole run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import fusedstep

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "examples").glob("lesson*.ipynb"))
nbformat = pytest.importorskip("nbformat")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_four() -> None:
    assert [path.name[:7] for path in LESSONS] == ["lesson1", "lesson2", "lesson3", "lesson4"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # the notebook machinery's own
def test_it_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for needed in ("matplotlib", "sklearn"):
        pytest.importorskip(needed)
    monkeypatch.setenv("FUSEDSTEP_PICTURES", str(tmp_path))  # leave those of the docs alone
    # the notebook has a folder and a process of its own; it is to find the package that is tested
    monkeypatch.setenv("PYTHONPATH", str(Path(fusedstep.__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = read(path)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    drawn = {picture.name for picture in tmp_path.glob("*.png")}
    assert drawn == {picture.name for picture in (ROOT / "docs" / "img").glob(f"{path.name[:7]}_*.png")}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_what_is_kept_is_one_run(path: Path) -> None:
    cells = code(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target
