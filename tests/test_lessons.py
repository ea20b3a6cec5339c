"""The lessons in examples/: they run from top to bottom, say what they should, and are kept without outputs."""

from __future__ import annotations

import itertools
import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "examples").glob("lesson*.ipynb"))
nbformat = pytest.importorskip("nbformat")
if not (ROOT / "docs" / "img").exists():
    pytest.skip("the source archive has no notebooks", allow_module_level=True)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@cache
def executed(path: Path, pictures: Path) -> Any:
    for needed in ("nbclient", "ipykernel", "matplotlib", "sklearn"):
        pytest.importorskip(needed)
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import run_lessons
    finally:
        sys.path.pop(0)
    return run_lessons.execute(path, pictures)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


def said(path: Path, pictures: Path) -> str:
    """Everything that the notebook prints."""
    outputs = [output for cell in code(executed(path, pictures)) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def test_there_are_four() -> None:
    assert [path.name[:7] for path in LESSONS] == ["lesson1", "lesson2", "lesson3", "lesson4"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # the notebook machinery's own
def test_it_runs_from_top_to_bottom(path: Path, pictures: Path) -> None:
    outputs = [output for cell in code(executed(path, pictures)) for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    drawn = {picture.name for picture in pictures.glob(f"{path.name[:7]}_*.png")}
    kept = {picture.name for picture in (ROOT / "docs" / "img").glob(f"{path.name[:7]}_*.png")}
    if find_spec("keras") is None:
        kept.discard("lesson2_keras.png")  # drawn with Keras's curve only
    assert drawn == kept


@pytest.mark.filterwarnings("default")
def test_the_courses_own_run_has_the_accuracies_and_costs_of_the_course(pictures: Path) -> None:
    text = said(LESSONS[0], pictures)
    for row in (
        "gradient descent     0.7967                0.702405  0.668101  0.600491  0.551977  0.514007  0.468014",
        "momentum             0.7967                0.702413  0.668167  0.600591  0.552058  0.514101  0.468160",
        "Adam                 0.9400                0.702166  0.167845  0.138788  0.134240  0.130216  0.129118",
    ):
        assert row in text


@pytest.mark.filterwarnings("default")
def test_the_mini_batches_of_the_course_are_in_the_first_lesson(pictures: Path) -> None:
    text = said(LESSONS[0], pictures)
    assert "mini-batch 3: X (12288, 20), Y (1, 20)" in text
    assert "[ 0.90085595 -0.7612069   0.2344157 ]" in text


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    for cell in code(read(path)):
        assert cell.execution_count is None and not cell.outputs


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_no_text_is_cut_from_its_code_by_another_text(path: Path) -> None:
    kinds = [cell.cell_type for cell in read(path).cells]
    assert ("markdown", "markdown") not in itertools.pairwise(kinds)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_it_has_exercises(path: Path) -> None:
    notebook = read(path)
    assert "## Exercises" in notebook.cells[-2].source
    assert "assert" in notebook.cells[-1].source  # the answers are checked


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_it_writes_pictures_only_where_it_is_told_to(path: Path) -> None:
    source = "\n".join(cell.source for cell in code(read(path)))
    assert "savefig" not in source and "style.keep(" in source  # the latter is tested with the demo


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target
