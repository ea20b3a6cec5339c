# make demo | test | test-fast | fuzz | emulate | lint | bench | docs | serve | wheels. Everything runs in a private environment, .venv; nothing is installed elsewhere.
# Options of the command go into ARGS: make demo ARGS="--epochs 20 --optimizer adam". Another Python: make PYTHON=python3.12 demo.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := pyproject.toml CMakeLists.txt $(shell find cmake cpp python -type f \( -name '*.?pp' -o -name '*.cmake' -o -name '*.py*' \) ! -name '*.pyc')

.PHONY: demo test test-fast fuzz emulate lint bench docs serve wheels clean

demo: $(VENV)/.demo
	$(BIN)/python -m fusedstep demo $(ARGS)

# A file's tests stay on one process: some of them build programs that the others of the file use.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

# Without torch, JAX, Keras, other compilers, notebooks and the site: for work on the package itself.
SLOW := build digest lessons site compilers sanitizers emulated_cpus formats_native vectorised roots instructions
test-fast: $(VENV)/.test-fast
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore=tests/integrations --ignore-glob="*torch*" \
	  $(addprefix --ignore=tests/test_,$(addsuffix .py,$(SLOW))) $(ARGS)

# Random cases against the reference and random mistakes: ARGS="programs --minutes 60", ARGS="programs --seed 12".
fuzz: $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

# Compares the core's digest on emulated CPUs: needs qemu-user-static and cross compilers, and says which.
emulate: $(VENV)/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/emulate.py $(ARGS)

# Runs the core and the tests of threads, memory and parity under sanitizers (g++): ARGS="thread", ARGS="address".
sanitize: $(VENV)/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/sanitize.py $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m fusedstep bench $(ARGS)

# The site, in build/site. Its code and links are tested by `make test`.
docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict $(ARGS)

serve: $(VENV)/.docs
	$(BIN)/python -m mkdocs serve $(ARGS)

# Builds, repairs and tests a wheel for every Python found: ARGS="--python 3.12" takes one of them.
wheels: | $(BIN)/python
	$(BIN)/python tools/wheels.py $(ARGS)

clean:
	rm -rf $(VENV) build dist wheelhouse demo-output

# The names of the stamps are those of the extras in pyproject.toml.
$(VENV)/.demo $(VENV)/.bench: $(VENV)/.%: $(SOURCES) | $(BIN)/python
	$(PIP) ".[$*]"
	@touch $@

$(VENV)/.test: $(SOURCES) | $(BIN)/python
	$(PIP) "pip>=25.1"
	$(PIP) ".[bfloat16,demo,lessons,keras,mpi]" --group test --group peers --group docs
	@touch $@

$(VENV)/.test-fast: $(SOURCES) | $(BIN)/python
	$(PIP) "pip>=25.1"
	$(PIP) ".[bfloat16,demo]" --group test
	@touch $@

$(VENV)/.docs: $(SOURCES) | $(BIN)/python
	$(PIP) "pip>=25.1"
	$(PIP) ".[bfloat16,demo,lessons,keras]" --group docs
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1 | grep Python || echo absent). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	  { echo "The headers of $(PYTHON) are missing. On Debian and Ubuntu: sudo apt install python3-dev"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "A C++ compiler is needed. On Debian and Ubuntu: sudo apt install g++; on macOS: xcode-select --install"; exit 1; }
	$(PYTHON) -m venv $(VENV)
