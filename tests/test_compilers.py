"""Compiler flags: every compiler that CMake accepts rounds once per operation, whatever its defaults or CXXFLAGS."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
from compilers import STANDARD, fails, flags, needs, passes
from disassembly import rounded_once
from repository import ROOT

# Declarations that the kernels need of the C and C++ library, for a target whose library is not here.
HEADERS = pathlib.Path(__file__).parent / "windows_headers"


def kernel_commands(folder: pathlib.Path, *options: str) -> dict[str, list[str]]:
    """The command that CMake chooses for the kernels of each instruction set."""
    needs("cmake", "ninja")
    passes(
        *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"),
        *("-DFUSEDSTEP_PYTHON=OFF", "-DFUSEDSTEP_OPENMP=OFF", *options),
    )
    found = {}
    for entry in json.loads((folder / "compile_commands.json").read_text()):
        if isa := re.search(r'FUSEDSTEP_ISA_NAME=\\?"(\w+)', " ".join(shlex.split(entry["command"]))):
            found[isa[1]] = shlex.split(entry["command"])
    return found


# ---------------------------------------------------------------------------------------------------------- clang-cl


@pytest.fixture(scope="module")
def clang_cl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Clang as the compiler of a Windows build: MSVC's options, Clang's defaults."""
    needs("clang", "llvm-lib", "llvm-objdump")
    folder = tmp_path_factory.mktemp("clang-cl")
    program = folder / "clang-cl"  # it goes by the name that it is called
    program.symlink_to(pathlib.Path(str(shutil.which("clang"))).resolve())
    library = f"{shutil.which('llvm-lib')}"
    return kernel_commands(
        folder / "build",
        *(f"-DCMAKE_CXX_COMPILER={program}", "-DCMAKE_CXX_COMPILER_TARGET=x86_64-pc-windows-msvc"),
        *("-DCMAKE_SYSTEM_NAME=Windows", "-DCMAKE_SYSTEM_PROCESSOR=AMD64", "-DFUSEDSTEP_WERROR=ON"),
        # Nothing can be linked without Windows' libraries.
        *("-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY", f"-DCMAKE_AR={library}", f"-DCMAKE_LINKER={library}"),
        *("-DCMAKE_MT=true", "-DCMAKE_RC_COMPILER=true"),
    )


def compiled(command: list[str], source: pathlib.Path, folder: pathlib.Path) -> str:
    """The machine code of `source`, compiled with the flags of `command`."""
    output = folder / "object.obj"
    flags = [part for part in command[: command.index("--")] if not part.startswith(("/Fo", "/Fd"))]
    passes(*flags, "-imsvc", str(HEADERS), f"/Fo{output}", "--", str(source))
    return passes("llvm-objdump", "--demangle", "-d", str(output))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_clang_cl_rounds_every_operation(isa: str, clang_cl: dict[str, list[str]], tmp_path: pathlib.Path) -> None:
    code = compiled(clang_cl[isa], ROOT / "cpp" / "kernels" / "kernels.cpp", tmp_path)
    of_squares, others = rounded_once(code)
    assert bool(of_squares) == (isa != "baseline")
    # Five for each root by products (cpp/kernels/vec.hpp), none elsewhere.
    assert len(others) == 5 * len(re.findall(r"\tvrsqrt14ps", code))
    width = {"baseline": "%xmm", "avx2": "%ymm", "avx512": "%zmm"}[isa]
    assert len(re.findall(rf"\tv?sqrtps.*{width}", code)) >= 3


@pytest.mark.parametrize("flag", ["off", "left out"])
def test_clang_cl_contracts_unless_told_otherwise(
    flag: str, clang_cl: dict[str, list[str]], tmp_path: pathlib.Path
) -> None:
    """What MSVC's own options leave on: so the test above can fail."""
    probe = tmp_path / "probe.cpp"
    probe.write_text("float probe(float a, float b, float c) { return a * b + c; }\n")
    off = "/clang:-ffp-contract=off"
    assert off in clang_cl["avx512"]
    command = clang_cl["avx512"] if flag == "off" else [part for part in clang_cl["avx512"] if part != off]
    assert len(rounded_once(compiled(command, probe, tmp_path))[1]) == (0 if flag == "off" else 1)


# -------------------------------------------------------------------------------------------------------------- Apple


def apple(target: str, source: str) -> subprocess.CompletedProcess[str]:
    """Clang's opinion of a source for macOS: LLVM's C++ headers, and Apple's C headers from the package ziglang."""
    needs("clang++")
    libcxx = pathlib.Path(str(shutil.which("clang++"))).resolve().parents[1] / "include" / "c++" / "v1"
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not libcxx.exists():
        pytest.skip("needs Apple's and LLVM's headers: pip install ziglang, apt-get install libc++-dev")
    libc = pathlib.Path(str(spec.origin)).parent / "lib" / "libc" / "include" / "any-darwin-any"
    command = ["clang++", "-target", target, STANDARD, "-fsyntax-only", "-nostdinc++"]
    command += [*flags("numerics"), *flags("warnings"), "-Werror"]
    command += ["-D_Float16=float"]  # in Apple's math.h alone; older Clangs have none on x86
    command += ["-isystem", str(libcxx), "-isystem", str(libc)]
    command += ['-DFUSEDSTEP_ISA_NAME="baseline"', "-DFUSEDSTEP_TABLE=table_baseline"]
    return subprocess.run([*command, str(ROOT / source)], capture_output=True, text=True, timeout=600)


APPLE = [
    str(path.relative_to(ROOT))
    for folder in ("cpp", "cpp/engine", "cpp/kernels", "cpp/threads")
    for path in sorted((ROOT / folder).glob("*.cpp"))
    if path.name != "openmp.cpp"  # not built there
]


@pytest.mark.parametrize("source", APPLE)
@pytest.mark.parametrize("target", ["arm64-apple-macos11", "x86_64-apple-macos11"])
def test_core_compiles_for_macos(target: str, source: str) -> None:
    done = apple(target, source)
    assert done.returncode == 0, done.stderr


def test_the_deployment_target_has_aligned_new() -> None:
    """What pyproject.toml asks for is needed: before macOS 10.14 there is no operator new with an alignment."""
    assert 'MACOSX_DEPLOYMENT_TARGET = "11.0"' in (ROOT / "pyproject.toml").read_text()
    assert "aligned allocation function" in apple("x86_64-apple-macos10.12", "cpp/engine/scratch.cpp").stderr


# ------------------------------------------------------------------------------------------------------ other compilers


def flags_of(compiler: str, version: str) -> list[str]:
    needs("cmake")
    told = (f"-DCMAKE_CXX_COMPILER_ID={compiler}", f"-DCMAKE_CXX_COMPILER_VERSION={version}")
    return ["cmake", *told, "-P", str(ROOT / "cmake" / "flags.cmake")]


def test_an_msvc_that_contracts_is_refused() -> None:
    passes(*flags_of("MSVC", "19.30.0"))
    assert "MSVC: got 19.29.30133, needs 19.30 (Visual Studio 2022)" in fails(*flags_of("MSVC", "19.29.30133"))


def test_a_compiler_of_unknown_defaults_is_refused() -> None:
    message = fails(*flags_of("IntelLLVM", "2025.0"))
    assert "CMAKE_CXX_COMPILER: got IntelLLVM, needs GNU, Clang or MSVC" in message
    command = flags_of("IntelLLVM", "2025.0")
    passes(command[0], "-DFUSEDSTEP_NUMERICS=-fp-model=precise", *command[1:])


# ---------------------------------------------------------------------------------------------------------- the list


def test_tests_have_the_flags_from_cmake() -> None:
    own = {STANDARD, *flags("numerics"), *flags("avx512")}
    assert {"-ffp-contract=off", "-mavx2", "-mavx512f"} <= own
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name != pathlib.Path(__file__).name:
            assert not own & set(re.findall(r'"(-[^"\s]+)"', path.read_text())), path


# --------------------------------------------------------------------------------------------------------- CXXFLAGS


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("flags", ["-ffast-math", "-Ofast -ffp-contract=fast", "-funsafe-math-optimizations"])
def test_fast_math_in_the_environment_is_switched_off(compiler: str, flags: str, tmp_path: pathlib.Path) -> None:
    needs(compiler)
    told = f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_CXX_FLAGS={flags}"
    probe = tmp_path / "probe.cpp"
    # Reordered, (a + b) - a would be b.
    probe.write_text(
        '#include "types.hpp"\n'
        "extern float probe(float a, float b, float c);\n"
        "float probe(float a, float b, float c) { return (a + b) - a + a * b + c; }\n"
    )
    codes = set()
    for name, options in (("plain", told[:1]), ("given", told)):
        command = kernel_commands(tmp_path / name, *options)["baseline"]
        output = tmp_path / f"{name}.s"
        passes(*command[: command.index("-o")], f"-I{ROOT / 'cpp'}", "-S", "-o", str(output), str(probe))
        lines = output.read_text().splitlines()
        codes.add("\n".join(line for line in lines if not re.match(r"\s*\.|#", line)))
    assert len(codes) == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("-ffast-math", "cannot be compiled with fast math"),
        ("-m32 -mfpmath=387", "on 32-bit x86 compile with -msse2 -mfpmath=sse"),
    ],
)
def test_a_build_past_cmake_with_other_arithmetic_is_refused(flag: str, message: str) -> None:
    needs("g++")
    header = ROOT / "cpp" / "types.hpp"
    command = ["g++", STANDARD, "-fsyntax-only", "-x", "c++", "-ffreestanding", "-nostdinc++"]
    command += ["-isystem", str(HEADERS)]
    passes(*command, str(header))
    assert message in fails(*command, *flag.split(), str(header))
