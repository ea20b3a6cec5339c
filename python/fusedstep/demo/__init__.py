"""The commands ``demo`` and ``compare``: networks written in NumPy, trained by this package's optimizers.

`network` and `convnet` need NumPy alone; what else the commands use is in ``pip install "fusedstep[demo]"``.
"""
