"""Pages of the site that are not files below docs/: the API, the notebooks, and pages of other folders. Formulas."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import nbconvert
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

# Pages of other folders, and where the site has them.
MOVED = {
    "../benchmarks/README.md": "benchmarks.md",
    "../benchmarks/figures.md": "benchmark-figures.md",
    "../benchmarks/method.md": "benchmark-method.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
}
# What stands in several classes of the package's own is described as one.
INHERITED = "\n    options:\n      inherited_members: true"
WHOLE = {"optimizers.Optimizer": INHERITED, "torch.FusedOptimizer": INHERITED}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


@cache
def package() -> griffe.Module:
    """The package as its sources describe it; nothing is imported."""
    loader = griffe.GriffeLoader(search_paths=[ROOT / "python"], allow_inspection=False)
    loaded = loader.load("fusedstep")
    assert isinstance(loaded, griffe.Module)
    loader.expand_exports(loaded)
    return loaded


def public(module: str = "_public") -> list[str]:
    """The names in ``__all__`` of a module, in order."""
    return [str(name) for name in package()[module].exports if not str(name).startswith("__")]


def api() -> dict[str, str]:
    """The text of every API page."""
    optimizers, functions = public("optimizers"), public("reference")
    rest = [n for n in public() if n not in ("functional", "reference", "schedules")]
    rest = [name for name in rest if name not in optimizers]
    native = [name for name in rest if package()["_public"][name].target_path.startswith("fusedstep._core.")]
    rest = [name for name in rest if name not in native]
    pages = {
        "optimizers": ("Optimizers", [f"optimizers.{n}" for n in optimizers]),
        "reference": ("Reference implementation", [f"reference.{n}" for n in functions]),
        "schedules": ("Schedules", [f"schedules.{n}" for n in public("schedules")]),
        "torch": ("fusedstep.torch", [f"torch.{n}" for n in public("torch")]),
        "keras": ("fusedstep.keras", [f"keras.{n}" for n in public("keras")]),
        "mpi": ("fusedstep.mpi", [f"mpi.{n}" for n in public("mpi")]),
        "jax": ("fusedstep.jax", [f"jax.{n}" for n in public("jax")]),
        "package": ("Everything else", rest),
    }
    texts = {
        name: f"# {title}\n\n" + "\n\n".join(f"::: fusedstep.{path}{WHOLE.get(path, '')}" for path in paths)
        for name, (title, paths) in pages.items()
    }
    texts["package"] += "\n\n" + "\n\n".join(f"::: fusedstep._core.{name}" for name in native)
    texts["functional"] = (
        "# Functions\n\n`fusedstep.functional` has one function for each rule. It runs the native step. Signature "
        "and meaning are those of the function of the same name in [`fusedstep.reference`](reference.md).\n\n"
        + "\n".join(f"- [`fusedstep.functional.{n}`](reference.md#fusedstep.reference.{n})" for n in functions)
    )
    return {f"api/{name}.md": text for name, text in texts.items()}


@cache
def run_lessons() -> Any:
    """The module that runs the notebooks, which are kept without outputs."""
    spec = importlib.util.spec_from_file_location("run_lessons", ROOT / "examples" / "run_lessons.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that have no file below docs/."""
    for path, text in api().items():
        files.append(File.generated(config, path, content=text))
    for source, target in MOVED.items():
        text = (ROOT / "docs" / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=_links_from_docs(text, Path(source).parent.name)))
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        text, pictures = nbconvert.MarkdownExporter().from_filename(str(run_lessons().with_outputs(notebook)))
        text = re.sub(r"\]\((output_\w+\.png)\)", rf"]({notebook.stem}_\1)", text)
        text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text).replace("](../docs/", "](../")
        files.append(File.generated(config, f"lessons/{notebook.stem}.md", content=text))
        for name, content in pictures["outputs"].items():
            files.append(File.generated(config, f"lessons/{notebook.stem}_{name}", content=content))
    return files


def _links_from_docs(text: str, folder: str) -> str:
    """The links of a page in another folder, as seen from docs/."""

    def link(found: re.Match[str]) -> str:
        target = found[1] if folder in ("", "..") else f"../{folder}/{found[1]}"
        target = re.sub(r"^\.\./benchmarks/\.\./docs/|^docs/", "", target)
        return "](" + re.sub(r"^\.\./benchmarks/\.\./", "../", target) + ")"

    return re.sub(r"\]\((?!\w+:|#)([^)]+)\)", link, text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to pages that the site has elsewhere."""
    for source, target in MOVED.items():
        markdown = markdown.replace(f"]({source}", f"]({target}")
    markdown = re.sub(r"\]\(\.\./examples/(\w+)\.ipynb\)", r"](lessons/\1.md)", markdown)
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)(?:examples|LICENSE|tests|cpp)[^)]*\)", r"\1", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without scripts or fonts of ours."""

    def formula(found: re.Match[str]) -> str:
        text = found[3].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
        return convert(text, display="inline" if found[2] == "(" else "block")

    return FORMULA.sub(formula, html)
