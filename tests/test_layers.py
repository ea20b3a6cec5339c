"""Which part of the package may use which: the picture in CONTRIBUTING.md."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest
from isolated import linux, prints

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE, CORE = ROOT / "python" / "fusedstep", ROOT / "cpp"

# From the bottom up. A module may import those of its own layer and of the layers before it, but never in a circle.
LAYERS: dict[str, str] = {
    "tools": "_agreement _arguments _bounds _core _docstrings _extras _held _interpreter _interrupted _intervals"
    " _memory _pieces _restoring _stored _structures _table _version",
    "definitions": "_floats _hyper _settings _step_options formats reference reference.* sparse",
    "around training": "averages minibatch schedules schedules.* watching",
    "one optimizer": "_accumulating _attributes _base _casting _constructors _converting _directions _group_options"
    " _groups _keeping _loading _making _metrics _names _numpy_model _option_trees _placing _reporting _rows _saved"
    " _saving _schedule_free _slots _views checkpoint files files.* functional grouping",
    "optimizers": "optimizers optimizers.*",
    "the package": "_public fusedstep",
    "faces": "jax jax.* keras keras.* mpi mpi.* torch torch.*",
    "commands": "__main__ _info bench bench.* demo demo.* threadpoolctl",
}
# Each folder of the core, and those whose headers it may include.
FOLDERS = {
    "kernels": {"kernels"},
    "threads": {"threads"},
    "engine": {"engine", "kernels", "threads"},
    "xla": {"engine", "kernels", "threads", "xla"},
    "bindings": {"bindings", "engine", "kernels", "threads", "xla"},
}

FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix("__init__").rstrip(".") or "fusedstep": path for name, path in FILES.items()} | {
    "_core": PACKAGE / "_core.pyi"
}


def layer(module: str) -> int:
    found = [i for i, names in enumerate(LAYERS.values()) if any(fnmatch(module, name) for name in names.split())]
    assert len(found) == 1, f"{module}: needs one place in LAYERS, has {len(found)}"
    return found[0]


def nodes(tree: ast.AST, *, functions: bool) -> Iterator[ast.ImportFrom]:
    """Imports from the package, those that only type checkers read among them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not functions:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node
        yield from nodes(node, functions=functions)


def imported(module: str, *, functions: bool) -> set[str]:
    path = MODULES[module]
    here = list(path.parent.relative_to(PACKAGE).parts)
    found = set()
    for node in nodes(ast.parse(path.read_text()), functions=functions):
        base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
        for name in node.names:
            full = ".".join([*base, name.name])
            found.add(full if full in MODULES else ".".join(base) or "fusedstep")
    return found - {module}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_import_downwards(module: str) -> None:
    """Also inside functions; only the package itself may name what is above it, for its lazy attributes."""
    higher = {other for other in imported(module, functions=True) if layer(other) > layer(module)}
    assert not higher, f"{module} ({list(LAYERS)[layer(module)]}) imports {sorted(higher)}, which lie above it"


def test_no_circle() -> None:
    left = {module: imported(module, functions=False) for module in MODULES}
    while free := [module for module, uses in left.items() if not uses & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"a circle of imports within {sorted(left)}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_core_includes_downwards(folder: str) -> None:
    """Everything may include what lies in cpp/ itself; Python's own headers are for the bindings alone."""
    sources = [path for path in (CORE / folder).rglob("*") if path.suffix in (".hpp", ".cpp")]
    assert sources
    for path in sources:
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
            target = next((base / name for base in (path.parent, CORE) if (base / name).exists()), None)
            assert target is not None, f"{path.relative_to(CORE)} includes {name}, which is not there"
            parts = target.resolve().relative_to(CORE).parts
            assert len(parts) == 1 or parts[0] in FOLDERS[folder], f"{path.relative_to(CORE)} includes {name}"
        python = re.search(r"^\s*#\s*include\s+<(pybind11/|Python\.h)", path.read_text(), re.MULTILINE)
        assert folder == "bindings" or not python, f"{path.relative_to(CORE)} includes Python's headers"


@linux
def test_every_module_can_be_the_first() -> None:
    """Unpickling imports one by its path, before anything else of the package."""
    code = f"""
import os, sys
for name in {[name for name in sorted(MODULES) if layer(name) < list(LAYERS).index("faces")]!r}:
    child = os.fork()
    if not child:
        status = 1
        try:
            __import__(name if name == "fusedstep" else "fusedstep." + name)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        print(name)
"""
    assert prints(code, head="import numpy\n", OPENBLAS_NUM_THREADS="1") == ""
