"""The benchmark's own promises: it checks before it times, and says what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.bench import arrays, main, steps
from fusedstep.bench.timing import Timing, alternate, runner


def test_results_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "step.json"
    command = ["--rules", "adam", "--sizes", "1e3", "--repeats", "1", "--json", str(target)]
    assert main(command) == 0
    (row,) = json.loads(target.read_text(encoding="utf-8"))["results"]
    assert (row["rule"], row["elements"], row["bytes"]) == ("adam", 1000, 28_000)
    assert row["native"]["microseconds"] > 0
    assert {"limit", "reference"} <= row.keys()
    assert "adam" in capsys.readouterr().out


@pytest.mark.parametrize("storage", [name for name in steps.STORAGES if steps.STORAGES[name].dtype is None])
@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_right_results_pass_the_checks(rule: str, storage: str) -> None:
    case = steps.Case(rule, "float32", storage, 5_000)
    steps.check_sample(case)
    optimizer, params, _ = steps.prepare(case)
    for _ in range(steps.CHECKED_STEPS):
        optimizer.step()
    steps.check_timed(case, params)
    params[0][4_321] += 1e-3
    with pytest.raises(steps.WrongResult, match="differ from the second computation"):
        steps.check_timed(case, params)


def test_a_wrong_step_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = fs.Adam.step

    def wrong(self: fs.Adam, grads: Any = None, **options: Any) -> bool:
        taken = right(self, grads, **options)
        self.param_groups[0]["params"][0][7] += 1
        return taken

    monkeypatch.setattr(fs.Adam, "step", wrong)
    assert main(["--rules", "adam", "--sizes", "1e3", "--repeats", "1"]) == 1
    assert "WRONG" in capsys.readouterr().err


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="'adm', needs one of"):
        main(["--rules", "adm"])


@pytest.mark.parametrize("start", [0, 17, arrays.TILE + 5])
def test_every_element_of_a_filled_array_is_compared(start: int) -> None:
    filled = arrays.fill((3 * arrays.TILE + 11,), "param", np.float32, start)
    tile = arrays.tile("param")
    assert arrays.differing(filled, tile, start) == 0
    for place in (0, arrays.TILE, filled.size - 1):
        filled[place] = np.nextafter(filled[place], np.float32(9))
    assert arrays.differing(filled, tile, start) == 3
    assert arrays.differing(filled, tile, start, atol=1e-6) == 0
    filled[5] = np.nan
    assert arrays.differing(filled, tile, start, atol=1e-6) == 1


def test_turns_alternate_and_quantiles_are_of_the_turns() -> None:
    order: list[str] = []
    runs = {"a": runner(lambda: order.append("a")), "b": runner(lambda: order.append("b"))}
    timings = alternate(runs, repeats=3, sample=0.0, settle=0.0, wait=0.0)
    assert [len(timings[name].seconds) for name in "ab"] == [3, 3]
    assert order.index("b") > order.index("a")
    assert Timing((4.0, 1.0, 2.0), 1).as_dict()["quartiles"] == [1.5e6, 3e6]
