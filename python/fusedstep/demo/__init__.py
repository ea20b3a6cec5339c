"""The commands ``demo`` and ``compare``: networks written in NumPy, trained by this package's optimizers.

`network`, `convnet` and `landscapes` need NumPy alone; what else the commands use is in
``pip install "fusedstep[demo]"``.
"""
