"""What is built: the objects' symbols, the wheel's contents, the stub, the style, what an import costs."""

from __future__ import annotations

import importlib
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from doctest import DocTestFinder, DocTestRunner
from typing import Any

import pytest
from disassembly import rounded_once

import fusedstep as fs

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = pathlib.Path(fs.__file__).parent
EPOCH = (2022, 11, 9, 12, 37, 20)  # scikit-build-core's, unless SOURCE_DATE_EPOCH is set
SOURCES = sorted(path for path in (ROOT / "cpp").rglob("*") if path.suffix in (".cpp", ".hpp"))


def module(name: str) -> str:
    """A tool that is a Python module, or skip."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")
    return name


def passes(*command: str, **variables: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -------------------------------------------------------------------------------------------------------- the build


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the wheel as pip builds it for a release, though without another environment."""
    for name in ("scikit_build_core", "pybind11"):
        module(name)
    folder = tmp_path_factory.mktemp("wheel")
    options = ["-C", f"build-dir={folder / 'build'}", "-C", "cmake.define.FUSEDSTEP_WERROR=ON"]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-build-isolation", "--no-deps", "--wheel-dir", str(folder)]
    passes(*command, *options, str(ROOT))
    return folder


# ------------------------------------------------------------------------------------------------------ the kernels


@pytest.fixture(scope="module")
def objects(build: pathlib.Path) -> dict[str, pathlib.Path]:
    """The kernels' object of each instruction set."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    found = {}
    for target in build.glob("build/CMakeFiles/fusedstep_*.dir"):
        isa = target.name.removeprefix("fusedstep_").removesuffix(".dir")
        for path in target.rglob("kernels.cpp.o"):
            found[isa] = path
    assert found, "no kernels were built"
    return found


def test_kernels_share_no_symbol(objects: dict[str, pathlib.Path]) -> None:
    """Each exports its table alone: a weak symbol could be taken from the object of another instruction set."""
    from fusedstep import _core

    assert sorted(objects) == sorted(name for name, _, _ in _core.build_info()["isas"])
    allowed = re.compile(r"mem(set|cpy|move)|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|sqrtf?|__.*_chk")
    for isa, path in objects.items():
        exported = []
        for line in passes("nm", "--demangle", str(path)).splitlines():
            kind, name = line[17:18], line[19:]
            assert kind not in "WwVvu", f"{isa}: {name} is a weak or unique symbol"
            if kind == "U":
                assert allowed.fullmatch(name), f"{isa}: {name} comes from elsewhere"
            elif kind.isupper():
                exported.append(name)
        assert exported == [f"fusedstep::table_{isa}()"]


def test_kernels_use_their_instruction_set(objects: dict[str, pathlib.Path]) -> None:
    """No wide register below its level, none missing at it, and no fused multiply-add but on purpose."""
    if shutil.which("objdump") is None or "avx512" not in objects:
        pytest.skip("needs objdump and an x86-64 build")
    text = {isa: passes("objdump", "-dC", "--no-show-raw-insn", str(path)) for isa, path in objects.items()}
    assert "%ymm" not in text["baseline"] and "%zmm" not in text["baseline"]
    assert "%ymm" in text["avx2"] and "%zmm" not in text["avx2"]
    assert len(re.findall(r"vsqrtps.*%zmm", text["avx512"])) >= 3
    assert len(re.findall(r"vsqrtps.*%ymm", text["avx2"])) >= 3
    assert len(re.findall(r"\tsqrtps", text["baseline"])) >= 3
    for isa, code in text.items():
        of_squares, others = rounded_once(code)
        assert bool(of_squares) == (isa != "baseline")
        # Five for each root by products (cpp/kernels/vec.hpp), none elsewhere.
        assert len(others) == 5 * len(re.findall(r"\tvrsqrt14ps", code)), f"{isa} rounds a product and a sum at once"
        assert all("%zmm" in line for line in others)


# -------------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(build: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    (path,) = build.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_contains_only_the_package(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    version = fs.__version__
    strange = [n for n in names if not re.match(rf"fusedstep/|fusedstep-{version}\.dist-info/", n)]
    assert not strange
    kinds = {pathlib.PurePath(n).suffix for n in names if n.startswith("fusedstep/")}
    assert kinds <= {".py", ".pyi", ".so", ".pyd", ".typed", ""}, kinds
    assert "fusedstep/py.typed" in names and "fusedstep/_core.pyi" in names
    assert len([n for n in names if re.match(r"fusedstep/_core\..*(so|pyd)$", n)]) == 1
    mine = {str(p.relative_to(PACKAGE.parent)) for p in PACKAGE.rglob("*.py")}
    assert mine == {n for n in names if n.endswith(".py")}
    metadata = wheel.read(f"fusedstep-{version}.dist-info/METADATA").decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert needed == ["Requires-Dist: numpy>=1.23"]
    extras = re.findall(r"^Provides-Extra: (.*)$", metadata, re.M)
    assert sorted(extras) == ["bench", "bfloat16", "demo", "jax", "keras", "lessons", "mpi", "torch"], (
        "groups are for development"
    )
    assert not re.search(r"^Requires-Dist: [^;]*==", metadata, re.M), "an extra that pins a version downgrades it"
    assert any("licenses/LICENSE" in n for n in names)
    # On a package index a link has no file beside it.
    assert metadata.count("](https://") > 10 and not re.search(r"\]\((?!https://)", metadata)
    assert {info.date_time for info in wheel.infolist()} == {EPOCH}, "its hash depends on when it was built"


def test_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    size = os.path.getsize(wheel.filename or "")
    print(f"wheel: {size:,} bytes, installed {sum(info.file_size for info in wheel.infolist()):,}")
    assert size < 1_400_000


def test_two_builds_of_the_source_archive_are_one(tmp_path: pathlib.Path) -> None:
    """From two folders, at two times; it holds what is needed to build and test, and no pictures or notebooks.

    `tools/wheels.py` compares two builds of the wheel.
    """
    module("scikit_build_core")
    skip = shutil.ignore_patterns(".*_cache", ".git", ".venv", "__pycache__", "build", "dist", "wheelhouse", "*.so")
    archives = []
    for number, folder in enumerate((tmp_path / "one", tmp_path / "another" / "deeper")):
        shutil.copytree(ROOT, folder, ignore=skip)
        for path in folder.rglob("*.py"):
            os.utime(path, (1e9 + number, 1e9 + number))
        code = "from scikit_build_core.build import build_sdist; build_sdist('made')"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = (folder / "made").glob("*.tar.gz")
        archives.append(path)
    first, second = (path.read_bytes() for path in archives)
    assert first == second
    assert len(first) < 500_000
    with tarfile.open(archives[0]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert {"LICENSE", "README.md", "CMakeLists.txt", "cpp/types.hpp", "tests/cases.py"} <= {*names}
    kinds = {pathlib.PurePath(name).suffix for name in names}
    assert not kinds & {".png", ".svg", ".ipynb", ".so", ".pyc", ".csv"}, kinds
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    tests = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(tests, cwd=unpacked, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, "its tests need what it has not:\n" + done.stdout[-2000:]


# ------------------------------------------------------------------------------------------------- types and style


def test_stub_is_the_modules(tmp_path: pathlib.Path) -> None:
    module("mypy")
    # In a source tree mypy has to be told where the package lies; an installed one it finds, and refuses to be told.
    told = {} if "site-packages" in PACKAGE.parts else dict.fromkeys(("PYTHONPATH", "MYPYPATH"), str(PACKAGE.parent))
    allowed = tmp_path / "allowed"
    # pybind11's classes have a metaclass of its own, and an __init__ even where nobody but native code makes them; the
    # stub of the functions takes all names of the reference.
    allowed.write_text(
        "fusedstep\\._core\\.[A-Z]\\w+\nfusedstep\\._core\\.(Exclusive|Memory|StepAnswer)\\.__init__\nfusedstep\\.functional\\.__all__\n"
    )
    modules = "fusedstep._core", "fusedstep.functional"
    command = sys.executable, "-m", "mypy.stubtest", "--allowlist", str(allowed), *modules
    passes(*command, **told)


def test_types() -> None:
    module("mypy")
    if not (ROOT / "examples").exists():
        pytest.skip("the examples are in the repository only")
    passes(sys.executable, "-m", "mypy")


def test_style() -> None:
    module("ruff")
    passes(sys.executable, "-m", "ruff", "check", ".")
    passes(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_cpp_style() -> None:
    """By the version that pyproject.toml asks for: others lay out some lines in another way."""
    wanted = re.search(r'"clang-format==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert wanted is not None and SOURCES
    for tool in (pathlib.Path(sys.executable).with_name("clang-format"), shutil.which("clang-format")):
        if tool and pathlib.Path(tool).exists() and wanted[1] in passes(str(tool), "--version"):
            passes(str(tool), "--dry-run", "--Werror", *map(str, SOURCES))
            return
    pytest.skip(f"clang-format {wanted[1]} is not installed: pip install clang-format=={wanted[1]}")


def test_the_core_includes_nothing_it_should_not() -> None:
    """Headers that are compiled once per instruction set hold no inline function of anybody else."""
    allowed = {"cmath", "cstddef", "cstdint", "cstring", "arm_neon.h", "immintrin.h"}
    for path in (ROOT / "cpp" / "kernels").rglob("*.?pp"):
        for name in re.findall(r"^\s*#\s*include <(.*)>", path.read_text(), re.M):
            assert name in allowed, f"{path.name} includes <{name}>"
    for path in SOURCES:
        if "bindings" not in path.parts:
            assert not re.search(r"#include .*(pybind11|Python\.h)", path.read_text()), path


# ------------------------------------------------------------------------------------------------------- the import

OPTIONAL = "torch ml_dtypes rich matplotlib sklearn keras jax numba scipy pytest hypothesis typing_extensions"


def test_import_brings_no_extra() -> None:
    code = f"""
import sys, numpy, time
before = set(sys.modules)
start = time.perf_counter()
import fusedstep
taken = time.perf_counter() - start
first = sorted(m for m in set(sys.modules) - before if m.startswith("fusedstep."))
assert first == ["fusedstep._core", "fusedstep._interpreter", "fusedstep._version"], first
fusedstep.Adam, dir(fusedstep)
assert "fusedstep.checkpoint" not in sys.modules and fusedstep.save.__module__ == "fusedstep.checkpoint"
new = set(sys.modules) - before
wrong = sorted(new & set({OPTIONAL.split()!r}))
parts = ("demo", "bench", "jax", "torch", "keras")
wrong += [m for m in new if m.startswith("fusedstep.") and m.split(".")[1] in parts]
print(taken, wrong)
"""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    taken, *rest = passes(sys.executable, "-c", code, PYTHONPATH=path).split(maxsplit=1)
    assert rest == ["[]\n"]
    print(f"import fusedstep: {float(taken) * 1e3:.1f} ms beyond NumPy")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there an import in a sub-interpreter ends")
def test_a_sub_interpreter_is_told_that_it_cannot_import() -> None:
    code = "import _xxsubinterpreters as s; s.run_string(s.create(isolated=False), 'import fusedstep')"
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1
    assert "ImportError" in done.stderr and "needs the main interpreter on Python 3.10 and 3.11" in done.stderr


def test_bfloat16_is_only_needed_for_bfloat16() -> None:
    """Without ml_dtypes everything else works, and bfloat16 states say what to install."""
    code = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np, fusedstep as fs
for dtype in (np.float16, np.float32, np.float64):
    fs.Adam(np.ones(5000, dtype), state_format="8bit").step(np.ones(5000, dtype))
try:
    fs.Adam(np.ones(5000), state_format="bfloat16")
except ImportError as error:
    print(error)
"""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    told = passes(sys.executable, "-W", "error", "-c", code, PYTHONPATH=path)
    assert told == "bfloat16 arrays need the package ml_dtypes: pip install fusedstep[bfloat16]\n"


# --------------------------------------------------------------------------------------------------------- doctests


def modules() -> list[str]:
    names = ["fusedstep"]
    for info in pkgutil.walk_packages(fs.__path__, "fusedstep."):
        if info.name.rpartition(".")[2] not in ("__main__", "_core_openmp"):  # the second is a library, no module
            names.append(info.name)
    return names


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str) -> None:
    try:
        found: Any = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"an extra is not installed: {error}")
    runner = DocTestRunner()
    failed: list[str] = []
    for test in DocTestFinder(exclude_empty=True).find(found, name):
        if test.examples:
            runner.run(test, out=failed.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(failed)
