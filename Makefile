# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` start from nothing but Python >= 3.11 and make; a second run skips what is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SECONDS ?= 300

.PHONY: demo test test-mcu test-amx fuzz clean

demo: $(INSTALLED)
	$(BIN)/kws demo

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# Exported models on emulated microcontrollers, byte for byte; as root it installs the packages that are missing.
test-mcu: $(INSTALLED)
	$(BIN)/python -m tests.mcu.run

# The paths of AMX and AVX-512 on an emulated processor, byte for byte; builds the emulator once.
test-amx: $(INSTALLED)
	$(BIN)/python -m tests.amx.run

# Hostile model files, sound files and TensorFlow Lite files, then random graphs in every engine at once, SECONDS for each;
# prints how many it tried, fails on a crash and where engines differ that must not.
fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS)
	$(BIN)/python -m tests.fuzz.differential --seconds $(SECONDS)

$(INSTALLED): pyproject.toml setup.py constraints.txt training/repair_torchaudio.py $(wildcard deploy/c/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,fuzz]'
	$(BIN)/python -m training.repair_torchaudio
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info runs fuzz-crashes
