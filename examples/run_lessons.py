"""Run the lessons from top to bottom: ``python examples/run_lessons.py [--pictures FOLDER] [LESSON ...]``.

The notebooks are kept without outputs. With outputs they are in ``build/lessons``, made when a notebook or the
code that they use has changed. ``--pictures docs/img`` draws the pictures of the pages.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat as _nbformat

import fusedstep

nbformat: Any = _nbformat  # untyped
ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "examples").glob("lesson*.ipynb"))


def execute(path: Path, pictures: Path | None = None) -> Any:
    """Run a notebook in a process of its own, with the package that is imported here.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell raised an error.
    """
    environment = {key: value for key, value in os.environ.items() if key != "FUSEDSTEP_PICTURES"}
    package = str(Path(fusedstep.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
    environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    if pictures is not None:
        environment["FUSEDSTEP_PICTURES"] = str(pictures.resolve())
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
    client.execute(env=environment)
    return notebook


def with_outputs(path: Path) -> Path:
    """The notebook with its outputs, from the cache where neither it nor the code that lessons use has changed."""
    content = hashlib.sha256()
    used = (path, path.with_name("landscapes.py"), *sorted((ROOT / "python" / "fusedstep" / "demo").glob("*.py")))
    for source in used:
        content.update(source.read_bytes())
    target = ROOT / "build" / "lessons" / content.hexdigest()[:16] / path.name
    if not target.exists():
        notebook = execute(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    return target


def main(arguments: list[str] | None = None) -> None:
    """Run the lessons asked for, else all."""
    parser = argparse.ArgumentParser(description="Run the lessons from top to bottom.")
    parser.add_argument("lessons", nargs="*", type=Path, default=LESSONS, metavar="LESSON", help="notebooks, else all")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write the pictures of the pages there")
    given = parser.parse_args(arguments)
    for path in given.lessons:
        if given.pictures is None:
            print(with_outputs(path), flush=True)
        else:
            execute(path, given.pictures)
            print(f"{path.name}: pictures in {given.pictures}", flush=True)


if __name__ == "__main__":
    main()
