"""Random training runs against the reference, and random mistakes.

``PYTHONPATH=tests python -m fuzz`` (or ``make fuzz``) runs them for as long as asked. Every case follows from its
number alone, so ``--seed`` repeats it. `test_fuzz` runs a few of each kind.
"""

__all__ = ["KINDS"]

KINDS = {
    "programs": "fuzz.programs:run_program",
    "optimizer": "fuzz.mistakes:run_optimizer",
    "functions": "fuzz.mistakes:run_functions",
    "tensors": "fuzz.tensors:run_tensors",
}
