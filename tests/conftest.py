"""What has to be settled before any test module is imported."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

# Keras chooses its backend once, at its first import, whichever test does that; only torch's can be stepped on.
os.environ.setdefault("KERAS_BACKEND", "torch")


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option for the tests of tensors."""
    parser.addoption(
        "--capsules", action="store_true", help="read torch's tensors as before torch 2.10, which has no exchange table"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give matplotlib a folder of its own and take the table away, before anything looks for them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # The user's list of fonts may be of another environment, and lack the fonts of this one's matplotlib.
        folder = tempfile.mkdtemp(prefix="matplotlib-")
        os.environ["MPLCONFIGDIR"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    if config.getoption("--capsules"):
        import torch

        if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
            del torch.Tensor.__dlpack_c_exchange_api__
