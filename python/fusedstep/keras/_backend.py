"""Keras on torch, or an error that says what is needed."""

from __future__ import annotations

__all__: list[str] = []

_SETTING = "set the environment variable KERAS_BACKEND=torch before the first `import keras`"

try:
    import keras
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"fusedstep.keras needs Keras 3 on its torch backend, and importing them failed with: {error}. "
        f"Install both (the extra fusedstep[keras]) and {_SETTING}"
    ) from error

if int(keras.__version__.split(".")[0]) < 3:
    raise ImportError(f"fusedstep.keras: got Keras {keras.__version__}, needs Keras 3")
if keras.backend.backend() != "torch":
    raise ImportError(
        f"fusedstep.keras: got Keras's backend {keras.backend.backend()!r}, needs its torch backend: a step writes the "
        "weights where they lie in memory, and only torch's can be written there (arrays of JAX cannot be changed, "
        f"those of TensorFlow belong to its graphs, and Keras does not train on NumPy); {_SETTING}"
    )
