"""Training in every storage format ends where float32 does, and nearest rounding without a master does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FAITHFUL = ("8-bit states", "split", "stochastic")

for package in ("ml_dtypes", "sklearn"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def quality() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import storage_quality

        yield storage_quality


@pytest.fixture(scope="module")
def rules(quality: Any) -> Any:
    import rule_quality

    return rule_quality


@pytest.fixture(scope="module")
def runs(quality: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("plots")
    runs = quality.main(["--quick", "--tasks", "digits", "convnet", "--seeds", "2", "--plots", str(folder)])
    assert sorted(path.name for path in folder.iterdir()) == ["quality-convnet.png", "quality-digits.png"]
    return runs


@pytest.mark.parametrize("task", ["digits", "convnet"])
def test_training_ends_where_float32_does(quality: Any, runs: Any, task: str) -> None:
    losses = runs[task]["float32"][0].losses
    assert np.mean(losses[-20:]) < 0.9 * losses[0]  # it did learn
    for variant in (*FAITHFUL, "bfloat16 states"):
        assert quality.ratio(runs, task, variant) == pytest.approx(1, abs=0.01), variant
        assert [run.losses for run in runs[task][variant]] != [run.losses for run in runs[task]["float32"]]


@pytest.mark.parametrize("task", ["digits", "convnet"])
def test_nearest_rounding_stalls(quality: Any, runs: Any, task: str) -> None:
    assert quality.ratio(runs, task, "nearest") > 1.015
    moved = {variant: min(run.moved for run in trained) for variant, trained in runs[task].items()}
    stalled = max(run.moved for run in runs[task]["nearest"])
    assert stalled < 0.6 * min(moved[variant] for variant in FAITHFUL)


@pytest.mark.parametrize("task", ["digits", "convnet"])
def test_errors_of_the_states(runs: Any, task: str) -> None:
    assert runs[task]["float32"][0].errors == []
    for variant in FAITHFUL:
        for _, first, second in runs[task][variant][0].errors:
            assert 1e-3 < first < 0.04
            assert 1e-3 < second < 0.1
    for _, first, _ in runs[task]["bfloat16 states"][0].errors:
        assert 1e-4 < first < 0.01


def test_exact_states_have_no_error(quality: Any) -> None:
    rng, params = np.random.default_rng(0), [np.ones((20, 30), np.float32)]
    exact = quality.ExactMoments(params, smallest=0)
    opt = quality.fs.Adam(params, betas=quality.BETAS)
    for _ in range(5):
        grads = [rng.standard_normal((20, 30), np.float32)]
        opt.step(grads)
        exact.update(grads)
    assert max(exact.errors(opt.state)) < 1e-6


def test_table(quality: Any) -> None:
    made = {name: [quality.Run([2.0, loss], moved=0.5)] for name, loss in (("float32", 1.0), ("nearest", 1.25))}
    made["nearest"][0].errors = [(10, 0.02, 0.1)]
    lines = quality.table({"digits": made}).splitlines()
    assert lines[2].split(" | ")[1:] == ["float32", "1.0000", "nan", "+0.00%", "50.0%", " |"]
    assert lines[3].split(" | ")[2:] == ["1.2500", "nan", "+25.00%", "50.0%", "2.0%, 10.0% |"]


@pytest.mark.parametrize(
    "arguments", [["--seeds", "0"], ["--tasks", "moons"], ["--variants", "nearest", "--plots", "."]]
)
def test_bad_arguments(quality: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(arguments)
    assert arguments[0] in capsys.readouterr().err or arguments[-2] in capsys.readouterr().err


def test_transformer(quality: Any) -> None:
    pytest.importorskip("torch")
    from char_transformer import CharTransformer, manual
    from quality_tasks import manual_batches

    text, alphabet = manual()
    assert text.size > 100_000
    assert {"a", " ", "\n", "_"} < set(alphabet)
    net = CharTransformer(len(alphabet), context=12, width=16, heads=2, seed=1)
    x, y = next(manual_batches(0, size=4, context=12))
    assert np.array_equal(x[:, 1:], y[:, :-1])
    loss = net.gradients(x, y)
    assert loss == pytest.approx(math.log(len(alphabet)), rel=0.2)
    assert net.gradients(x, y) == loss  # the gradients do not accumulate
    grads = {name: grad.copy() for name, grad in net.grads.items()}
    for name, param in net.params.items():
        kept, size = param.copy(), float(np.linalg.norm(grads[name]))
        sides = []
        for sign in (1, -1):
            param[...] = kept + np.float32(sign * 1e-2 / size) * grads[name]
            sides.append(net.gradients(x, y))
        param[...] = kept
        assert (sides[0] - sides[1]) / 2e-2 == pytest.approx(size, rel=0.02), name


def test_transformer_trains_in_every_format(quality: Any) -> None:
    pytest.importorskip("torch")
    task = quality.TASKS["transformer"]
    for variant in ("float32", "stochastic"):
        losses = quality.train(task, quality.VARIANTS[variant], 0, 40).losses
        assert np.mean(losses[-5:]) < losses[0] - 0.8


def test_rules_of_the_comparison(rules: Any) -> None:
    exported = {*rules.fs.optimizers.__all__}
    assert {*rules.LEFT_OUT} < exported
    assert {*rules.ENTRIES} <= {*rules.names()}
    assert {*rules.names()} == exported - {*rules.LEFT_OUT}


@pytest.mark.parametrize("best", [-5, -1, 0, 1, 4])
def test_tuned_learning_rate(rules: Any, best: int) -> None:
    tried: list[float] = []

    def loss_of(lr: float) -> float:
        tried.append(lr)
        distance = math.log(lr / 0.01, 3) - best
        return math.inf if distance > 2.5 else distance**2

    assert rules.tuned(loss_of, 0.01) == pytest.approx(0.01 * 3.0**best)
    assert len({*tried}) == len(tried)
    for neighbour in (best - 1, best + 1):
        assert any(lr == pytest.approx(0.01 * 3.0**neighbour) for lr in tried)


def test_rules_train(rules: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results = rules.main(["--tasks", "digits", "--optimizers", "Adam", "SGD", "--share", "0.02", "--seeds", "2"])
    start = rules.TASKS["digits"].network(0).gradients(*next(rules.TASKS["digits"].batches(0)))
    assert [(result.name, len(result.losses)) for result in results] == [("Adam", 2), ("SGD", 2)]
    assert all(0 < loss < 0.95 * start for result in results for loss in result.losses)
    assert results[0].losses[0] != results[1].losses[0]
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[-2:]] == ["`Adam`", "`SGD`"]
    assert f"{np.mean(results[0].losses):.4f} ± " in rows[-2]


def test_a_rate_that_is_too_large_has_no_loss(rules: Any) -> None:
    assert rules.train(rules.TASKS["digits"], "SGD", 1e38, 0, 20) == math.inf


@pytest.mark.parametrize(
    "arguments", [["--seeds", "0"], ["--share", "0"], ["--share", "nan"], ["--optimizers", "Rprop"]]
)
def test_bad_arguments_of_the_rules(rules: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rules.main(arguments)
    assert arguments[0] in capsys.readouterr().err
