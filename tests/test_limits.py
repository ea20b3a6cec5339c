"""Limits of the system and signals: a step is taken, or an error is raised before anything changed; nothing hangs."""

from __future__ import annotations

import pytest
from cases import TEAMS
from isolated import linux, prints


@linux
@pytest.mark.parametrize("team", TEAMS)
def test_no_thread_to_be_had(team: str) -> None:
    """RLIMIT_NPROC, which root is exempt from: the caller does the work alone."""
    code = """
import os, resource, threading
fs.SGD  # imported while its file can be read
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    print("threads are not limited here")
fs.set_threading("pool")
fs.set_num_threads(4)
_core.pretend_cpus(4)
param = np.zeros(400_000, np.float32)
for step in range(1, 4):
    assert fs.SGD(param, lr=1.0).step(np.ones_like(param)) and (param == -step).all()
print("done")
"""
    assert prints(code, FUSEDSTEP_THREADING=team, OPENBLAS_NUM_THREADS="1").endswith("done")


@linux
@pytest.mark.parametrize("options", ["", "max_grad_norm=1.0", "state_format='8bit'", "master='split'"])
def test_a_step_without_memory_to_be_had(options: str) -> None:
    """RLIMIT_AS at what the process has: steps of an optimizer that exists need none."""
    code = f"""
import resource
fs.set_num_threads(2)
_core.pretend_cpus(2)
dtype = np.float32
if "master" in {options!r}:
    import ml_dtypes
    dtype = ml_dtypes.bfloat16
params = [np.ones(1_000_000, dtype), np.ones(7, dtype)]
grads = [np.ones(1_000_000, dtype), np.ones(7, dtype)]
optimizer = fs.Adam(params, {options})
optimizer.step(grads)
before = optimizer.state_dict(), [param.copy() for param in params]
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 18), -1))  # a thread notes in a few bytes what it has to free
try:
    np.ones(100_000_000)
except MemoryError:
    print("none left")
for _ in range(3):
    assert optimizer.step(grads)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
other = fs.Adam(before[1], {options})
other.load_state_dict(before[0])
for _ in range(3):
    assert other.step(grads)
assert all((a == b).all() for a, b in zip(before[1], params)) and optimizer.steps_taken == 4
print("done")
"""
    assert prints(code, OPENBLAS_NUM_THREADS="1") == "none left\ndone"


@linux
def test_making_an_optimizer_without_memory_is_an_error() -> None:
    code = """
import resource
params = [np.ones(1_000_000, np.float32) for _ in range(20)]
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (16 << 20), used + (16 << 20)))
for make in (lambda: fs.Adam(params), lambda: fs.SGD(params, momentum=0.5, ema_decay=0.5)):
    try:
        make()
    except MemoryError as error:
        print("MemoryError")
assert all((param == 1).all() for param in params)
optimizer = fs.SGD(params[0], lr=1.0)
assert optimizer.step(params[1]) and (params[0] == 0).all()
"""
    assert prints(code, OPENBLAS_NUM_THREADS="1") == "MemoryError\nMemoryError"


@linux
@pytest.mark.parametrize("bound", [False, True], ids=["given", "bound"])
@pytest.mark.parametrize("team", TEAMS)
def test_interrupt_during_a_step(team: str, bound: bool) -> None:
    """Ctrl-C: the step that runs is taken whole and counted; KeyboardInterrupt comes between two steps."""
    code = f"""
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
param, grad = np.zeros(3_000_000, np.float32), np.ones(3_000_000, np.float32)
optimizer = fs.SGD(param, lr=1.0, momentum=1.0, grads=grad if {bound} else None)
for _ in range(10):
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    end = time.monotonic() + 20
    try:
        timer.start()  # on a busy machine the signal is there before this returns
        while time.monotonic() < end:
            optimizer.step(None if {bound} else grad)
        print("no interrupt")
    except KeyboardInterrupt:
        pass
    timer.join()
    taken = optimizer.steps_taken
    assert optimizer.state[0]["step"] == taken
    velocity = optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert (velocity == taken).all() and (param == param[0]).all()
optimizer.step(None if {bound} else grad)
print("done")
"""
    assert prints(code, FUSEDSTEP_THREADING=team) == "done"


@linux
@pytest.mark.parametrize("team", TEAMS)
def test_termination_during_a_step(team: str) -> None:
    """sys.exit() in a signal handler, and SIGTERM without one, end the process at once."""
    code = """
import os, signal, subprocess, sys, threading
head = '''
import sys, signal, numpy as np, fusedstep as fs
if sys.argv[1] == "handled": signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
param = np.zeros(3_000_000, np.float32)
optimizer = fs.Adam(param)
print("ready", flush=True)
while True: optimizer.step(param)
'''.replace("optimizer.step(param)", "optimizer.step(np.ones_like(param))")
for how, expected in (("handled", 3), ("plain", -signal.SIGTERM)):
    with subprocess.Popen([sys.executable, "-c", head, how], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == expected, (how, child.returncode)
print("done")
"""
    assert prints(code, FUSEDSTEP_THREADING=team) == "done"
