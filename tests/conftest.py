"""What has to be settled before any test module is imported."""

from __future__ import annotations

import os

# Keras chooses its backend once, at its first import, whichever test does that; only torch's can be stepped on.
os.environ.setdefault("KERAS_BACKEND", "torch")
