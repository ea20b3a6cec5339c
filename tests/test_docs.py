"""What the pages say: every block of Python runs, and every link between files leads somewhere."""

from __future__ import annotations

import ast
import builtins
import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Number of the first line, counted from 0, and text of each block of Python."""
    text = page.read_text(encoding="utf-8")
    for found in FENCED.finditer(text):
        if found[1] == "python":
            yield text.count("\n", 0, found.start(2)), found[2]


def run(page: Path, line: int, code: str, names: dict[str, Any]) -> None:
    if not code.startswith(">>>"):
        exec(compile("\n" * line + code, str(page), "exec"), names)  # tracebacks give the line of the page
        return
    example = doctest.DocTestParser().get_doctest(code, names, name(page), str(page), line)
    try:
        doctest.DebugRunner().run(example, clear_globs=False)
    except doctest.DocTestFailure as failure:
        pytest.fail(f"{page}:{line + failure.example.lineno + 1}: {failure.example.source}gave {failure.got!r}")
    except doctest.UnexpectedException as failure:
        raise failure.exc_info[1] from None
    names.update(example.globs)  # the parser gave the example a copy


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page))], ids=name)
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # Keras's bar
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page follow one another, as for a reader who types them in."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for line, code in blocks(page):
        try:
            run(page, line, code, names)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("fusedstep"):
                raise
            pytest.skip(f"{name(page)} from line {line + 1} on needs {error.name}: pip install {error.name}")


def test_programs_of_the_quick_start_are_complete() -> None:
    """Whoever comes for one of them copies one section."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    assert len(sections) == 4
    for section in sections:
        code = "".join(found[2] for found in FENCED.finditer(section) if found[1] == "python")
        nodes = list(ast.walk(ast.parse(code)))
        known = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        known |= {alias.asname or alias.name.split(".")[0] for node in nodes for alias in getattr(node, "names", ())}
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert used - known <= set(dir(builtins)), section


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.M)
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", FENCED.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if path.endswith((".png", ".ipynb")) and not (ROOT / "docs" / "img").exists():
            continue  # the source archive has no pictures and notebooks
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{name(page)}: {target}"
        assert not anchor or anchor in anchors(other), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_rows_of_tables_have_as_many_cells_as_their_heading(page: Path) -> None:
    """Browsers show no more of them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for table in re.findall(r"^\|.*\n(?:\|.*\n?)+", text, re.M):
        heading, *rows = (re.findall(r"(?<!\\)\|", row) for row in table.splitlines())
        for at, row in enumerate(rows, 1):
            assert len(row) == len(heading), f"{name(page)}: {table.splitlines()[at]}"


@pytest.mark.parametrize("source", sorted((ROOT / "python").rglob("*.py")), ids=name)
def test_examples_of_docstrings_have_their_heading(source: Path) -> None:
    """Without it the site takes them for Markdown: ``>>>`` for a quotation, ``[a][b]`` for a link."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            before, example, _ = (ast.get_docstring(node) or "").partition(">>>")
            assert not example or re.search(r"^Examples\n-{8}\n", before, re.M), node.name
