"""The benchmark's own promises: it checks before it times, and says what it measured."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import __main__, _core
from fusedstep._table import Table
from fusedstep.bench import arrays, cli, main, steps
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


@pytest.mark.parametrize("rule", ["adam", "novograd", "lamb", "prodigy", "adammini", "adafactor"])
def test_the_limit_takes_every_byte_from_memory_once_a_pass(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed, runs, right = 0, 0, _core.stream

    def recorded(written: list[Any], read: list[Any]) -> None:
        nonlocal streamed, runs
        assert len({id(array) for array in [*written, *read]}) == len(written) + len(read)  # else a cache has it
        streamed += sum(array.nbytes for array in [*written, *written, *read])
        runs += bool(written)  # the last pass of a step
        right(written, read)

    monkeypatch.setattr(_core, "stream", recorded)
    _, moved = steps.measure(steps.Case(rule, "float32", "plain", 10_000), repeats=1, reference=False)
    assert streamed / runs == pytest.approx(moved, rel=0.02)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--rules", value) for value in ("adm", "", "adam,", "all,adm")],
        *[("--dtypes", value) for value in ("int8", "")],
        *[("--formats", value) for value in ("9bit", "")],
        *[("--sizes", value) for value in ("inf", "nan", "0", "-1", "1.5", "", "1e3,", "many")],
        *[("--threads", value) for value in ("0", "-1", "99999", "two", "1.5")],
        *[("--repeats", value) for value in ("0", "-5", "1e3", "")],
        *[("--json", value) for value in ("FOLDER", "FILE/y.json", "")],
        *[("--png", value) for value in ("FOLDER", "FILE/y.png", "y.xyz", "y")],
    ],
)
def test_bad_options_are_one_line_and_status_2(
    option: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").touch()
    monkeypatch.setattr(steps, "measure", lambda *_, **__: pytest.fail("measured before the options were checked"))
    with pytest.raises(SystemExit) as left:
        main([option, value])
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"fusedstep bench: error: argument {option}: got ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE", "FOLDER"]


def test_names_are_taken_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measure(case: steps.Case, **_: Any) -> Any:
        asked.append(case.rule)
        raise ValueError("enough")

    monkeypatch.setattr(steps, "measure", measure)
    assert main(["--rules", "Adam, gd", "--rules", "adam", "--sizes", "10"]) == 0
    assert asked == ["adam", "sgd"]
    asked.clear()
    main(["--rules", "lion,all", "--sizes", "10"])
    assert sorted(asked) == sorted(steps.names()) and asked[0] == "lion"


def test_what_needs_too_much_memory_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rules", "adam", "--sizes", "1e13"]) == 0
    told = capsys.readouterr().err
    assert "adam, float32, plain storage, 1e13 elements: left out, needs more memory than is free" in told
    assert "nothing was measured" in told


def test_bfloat16_without_its_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fusedstep._extras.find_spec", lambda name: None)
    for arguments in (["--dtypes", "bfloat16"], ["--formats", "split+8bit"], ["--formats", "bfloat16"]):
        assert __main__.main(["bench", "--sizes", "10", *arguments]) == 1
        assert 'ml_dtypes is not installed: pip install "fusedstep[bfloat16]"' in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, target = steps.measure, tmp_path / "step.json"

    def interrupted(case: steps.Case, **options: Any) -> Any:
        if case.elements == 2000:
            raise KeyboardInterrupt
        return right(case, **options)

    monkeypatch.setattr(steps, "measure", interrupted)
    arguments = ["--rules", "adam", "--sizes", "1e3,2e3,4e3", "--repeats", "1", "--no-reference"]
    assert main([*arguments, "--json", str(target)]) == 130
    told = capsys.readouterr()
    assert "float32, plain\n  adam" in told.out and told.err.endswith(
        "fusedstep bench: interrupted; these results were measured before\n"
    )
    assert [row["elements"] for row in json.loads(target.read_text(encoding="utf-8"))["results"]] == [1000]


@pytest.mark.parametrize("width", [30, 60, 80, 81, 100, 200])
def test_a_table_loses_nothing_in_a_narrow_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", str(width))
    row = ["adadelta", "1e8", "123,456 ±5%", "123.4", "123,456 ±5%", "123.4%", "1,234,567 ±5%", "12.3x"]
    table = Table("machine", cli.HEADER, {"float32, stochastic+8bit": [row]})
    table.show(plain=False)
    told = capsys.readouterr().out
    assert all(cell in told for cell in row) and "stochastic+8bit" in told.replace("\n", "").replace(" ", "")
    assert max(map(len, told.splitlines())) <= width


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


def test_a_library_and_an_optimizer_have_one_colour_in_every_picture() -> None:
    from fusedstep.bench import picture
    from fusedstep.demo import style

    libraries = ["torch fused", "torch foreach", "torch single", "numba", "numba serial", "optax jit", "deepspeed"]
    libraries += ["numpy", "scikit-learn", "thinc"]
    alone = {name: picture.colours([name])[name] for name in libraries}
    together = picture.colours(["fusedstep", *reversed(libraries)])
    assert {name: together[name] for name in libraries} == alone
    assert len({*together.values()}) == len(libraries) + 1
    lines = picture.colours(["fusedstep adam", "reference adam", "fusedstep sgd"])
    assert lines["fusedstep adam"] == lines["reference adam"] == style.OPTIMIZERS["Adam"]
    assert lines["fusedstep sgd"] == style.OPTIMIZERS["SGD"]


def test_the_pictures_of_the_pages_come_from_their_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    if not benchmarks.exists():
        pytest.skip("the benchmarks are in the repository only")
    monkeypatch.syspath_prepend(benchmarks)
    tables: Any = importlib.import_module("tables")
    for heading in ("Adam", "RMSprop", "momentum"):
        rows = tables.published(heading)
        page = "".join((benchmarks / name).read_text(encoding="utf-8") for name in ("README.md", "figures.md"))
        for row in rows:
            shown = f"{row['microseconds']:,.0f}" if row["microseconds"] >= 1000 else f"{row['microseconds']:g}"
            assert shown in page
        large = [row["gbs"] for row in rows if row["case"] == "1e8"]
        assert len(large) >= 3 and all(10 < gbs < 1000 for gbs in large)  # what memory can do
        tables.draw({"results": rows}, tmp_path)
        assert (tmp_path / f"{heading.lower()}-float32-threads2-apart-models.png").exists()


@pytest.mark.parametrize("above", [0.2, 0.9, 0.99, 1.0, 1.01, 1.2, 1.5, 1.6, 3.0])
def test_numbers_in_a_picture_touch_no_line_and_no_other_number(
    above: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the streaming limit lies: on a number, right below it, right above it."""
    from fusedstep.bench import picture

    figures: list[Any] = []
    monkeypatch.setattr(picture, "finish", lambda drawn, _: figures.append(drawn))
    times = {"fusedstep": 12_345.0, "torch fused": 12_346.0, "numba": 123_456.0}
    groups = {"GPT-2": times, "network": {name: 1e-4 * time for name, time in times.items()}}
    limit = {case: above * group["fusedstep"] for case, group in groups.items()}
    picture.bars(tmp_path / "bars.png", "title", groups, limit=limit, caption="machine")
    (drawn,) = figures
    drawn.canvas.draw()
    (axes,) = drawn.axes
    numbers = [text.get_window_extent() for text in axes.texts]
    inside, legend = axes.get_window_extent(), drawn.legends[0].get_window_extent()
    assert len(numbers) == 6 and not legend.overlaps(inside)
    half = 0.75 * drawn.dpi / 72  # of the dashed line's width
    heights = [axes.transData.transform((1.0, value))[1] for value in limit.values()]
    for at, number in enumerate(numbers):
        assert not number.y0 - half <= heights[at // 3] <= number.y1 + half
        assert inside.y0 < number.y0 and number.y1 < inside.y1
        assert not any(number.overlaps(other) for other in numbers[:at])
    importlib.import_module("matplotlib.pyplot").close(drawn)


def test_a_library_that_is_missing_is_left_out_of_processes_of_their_own(tmp_path: Path) -> None:
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    if not benchmarks.exists():
        pytest.skip("the benchmarks are in the repository only")
    (tmp_path / "sklearn.py").write_text("raise ImportError('not today')\n")
    command = [sys.executable, str(benchmarks / "peers.py"), "--isolate", "--peers", "fusedstep,scikit-learn"]
    command += ["--rules", "adam", "--cases", "network", "--repeats", "1", "--settle", "0", "--pages", "own"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "not installed: sklearn_optimizer: not today" in done.stdout + done.stderr
    assert "adam network: fusedstep" in done.stdout + done.stderr
