"""A few seconds of what `make fuzz` runs for as long as asked (see `fuzz`)."""

from __future__ import annotations

import os
import signal

import pytest
from fuzz import KINDS
from fuzz.running import run_cases


@pytest.mark.parametrize("kind", KINDS)
def test_random_cases(kind: str) -> None:
    if kind == "tensors":
        pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    result = run_cases(KINDS[kind], 0, seconds=3, failures=3)
    assert not result.failures, "\n".join(f"python -m fuzz {kind} --seed {n}\n{what}" for n, what in result.failures)
    assert result.calls > 0


def crashing(number: int) -> int:
    if number == 7:
        os.abort()
    if number == 9:
        raise ValueError("a wrong byte")
    return 2


@pytest.mark.skipif(os.name != "posix", reason="a crash has another status elsewhere")
def test_a_crash_is_told_with_its_number() -> None:
    result = run_cases("test_fuzz:crashing", 5, seconds=60, cases=10)
    assert (result.cases, result.calls) == (10, 16)
    assert [number for number, _ in result.failures] == [7, 9]
    assert signal.SIGABRT.name in result.failures[0][1]
    assert "a wrong byte" in result.failures[1][1]
