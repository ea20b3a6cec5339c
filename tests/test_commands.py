"""What all commands have in common, as a person meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusedstep import __main__


@pytest.mark.parametrize("command", ["", *__main__.COMMANDS])
def test_the_program_has_the_name_by_which_it_was_started(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The installed script calls `main` without arguments of its own."""
    words = command.split()
    with pytest.raises(SystemExit) as left:
        __main__.main([*words, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: {' '.join(['fusedstep', *words])} [-h]") and "python -m" not in told
    with pytest.raises(SystemExit):
        __main__.main([*words, "--loud"])
    assert f"{' '.join(['fusedstep', *words])}: error: " in capsys.readouterr().err
    module = subprocess.run(
        [sys.executable, "-m", "fusedstep", *words, "--help"], capture_output=True, text=True, check=True
    )
    assert module.stdout.startswith(f"usage: {' '.join(['python -m fusedstep', *words])} [-h]")


def test_data_that_cannot_be_used_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    missing = str(tmp_path / "missing.npz")
    assert __main__.main(["compare", missing, "--plain", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"fusedstep compare: {missing}: ") and told.count("\n") == 1


def test_the_benchmark_script_has_its_own_name() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "step.py"
    if not script.exists():
        pytest.skip("the benchmarks are in the repository only")
    done = subprocess.run([sys.executable, str(script), "--rules", "adm"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("step.py: error: argument --rules: got 'adm', needs ")


@pytest.mark.parametrize(
    ("command", "within", "reason"),
    [
        (["info"], "fusedstep._info.info", ""),
        (["demo", "--quiet"], "fusedstep.demo.data.load", ""),
        (["demo", "--quiet"], "fusedstep.demo.progress.train", "; no epoch was finished"),
        (["compare", "iris", "--quiet"], "fusedstep.demo.data.load", ""),
        (["compare", "iris", "--quiet"], "fusedstep.demo.progress.train", "; no epoch was finished"),
        (["bench", "--json", "results.json"], "fusedstep.bench.steps.measure", "; nothing was measured"),
    ],
)
def test_ctrl_c_before_there_are_results_is_one_line_and_status_130(
    command: list[str],
    within: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(within, interrupt)
    assert __main__.main(command) == 130
    assert capsys.readouterr() == ("", f"fusedstep {command[0]}: interrupted{reason}\n")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
