# make demo | test | lint | bench | docs. Everything runs in a private environment, .venv; nothing is installed elsewhere.
# Options of the command go into ARGS: make demo ARGS="--epochs 20 --optimizer adam". Another Python: make PYTHON=python3.12 demo.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find cpp python -type f \( -name '*.?pp' -o -name '*.py*' \) ! -name '*.pyc')

.PHONY: demo test lint bench docs clean

demo: $(VENV)/.demo
	$(BIN)/python -m fusedstep demo $(ARGS)

# A file's tests stay on one process: some of them build programs that the others of the file use.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m fusedstep bench $(ARGS)

docs: $(VENV)/.test
	$(BIN)/python docs/plot_schedules.py
	$(BIN)/python -m pytest tests/test_docs.py $(ARGS)

clean:
	rm -rf $(VENV) build dist demo-output

# The names of the stamps are those of the extras in pyproject.toml.
$(VENV)/.demo $(VENV)/.bench: $(VENV)/.%: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ".[$*]"
	@touch $@

$(VENV)/.test: $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ".[test,peers,keras]"
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
