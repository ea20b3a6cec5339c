"""Which instruction set is active: the environment, the choice, and changes between steps."""

from __future__ import annotations

import os

import numpy as np
from cases import assert_same, copied, numbers, running, snapshot
from isolated import prints, python

import fusedstep as fs
from fusedstep import _core


def test_instruction_set_forced_by_the_environment() -> None:
    for isa in fs.available_isas():
        assert prints("print(fs.isa())", FUSEDSTEP_ISA=isa) == isa
    assert prints("print(fs.isa())", FUSEDSTEP_ISA="") == fs.available_isas()[-1]
    assert prints("fs.set_isa(fs.available_isas()[0]); print(fs.isa())") == fs.available_isas()[0]


def test_wrong_instruction_set() -> None:
    for code in ("fs.isa()", "fs.SGD(np.ones(1))", "fs.set_isa('baseline')", "_core.rules()"):
        done = python(code, FUSEDSTEP_ISA="pentium")
        assert done.returncode == 1
        message = "ValueError: FUSEDSTEP_ISA: got 'pentium', needs one of " + ", ".join(fs.available_isas())
        assert done.stderr.strip().splitlines()[-1] == message


def test_isa_is_what_was_set() -> None:
    built = [name for name, _, supported in _core.build_info()["isas"] if supported]
    assert built == fs.available_isas() and built[0] == "baseline"
    for isa in built:
        with running(isa):
            assert fs.isa() == isa
    assert fs.isa() == built[-1] or "FUSEDSTEP_ISA" in os.environ


def test_instruction_set_changes_between_the_steps_of_one_optimizer() -> None:
    params = [numbers(5000), numbers(5000, np.float64)]
    mine, steady = copied(params), copied(params)
    one, other = fs.Adam(mine), fs.Adam(steady)
    for t, isa in enumerate(fs.available_isas() * 2):
        grads = [numbers(5000, seed=t), numbers(5000, np.float64, seed=t)]
        with running(isa):
            one.step(grads)
        other.step(grads)
    assert_same(snapshot(one), snapshot(other))
