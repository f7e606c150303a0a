# Two commands on a fresh machine with Python >= 3.10: `make train` and `make test`.
# Both make .venv on demand, and bring it up to date when pyproject.toml has changed.
# Another Python: make train PYTHON=python3.12.  Without a GPU, UV_TORCH_BACKEND=cpu make train downloads far less.

PYTHON ?= python3
VENV   := .venv
# Tools are run as `python -m`, not by their scripts in bin/, so that the project's folder can be moved.
RUN    := $(VENV)/bin/python

.PHONY: help train test slow bench format clean
.DELETE_ON_ERROR:

help:
	@echo "make train    set up, train config/digits.yaml"
	@echo "make test     set up, check format, lint and types, run the fast tests"
	@echo "make slow     run the slow tests"
	@echo "make bench    run the benchmarks, write benchmarks/RESULTS.md (under half an hour; wants a quiet machine)"
	@echo "make format   put the code in the form that make test wants"
	@echo "make clean    remove .venv and caches (never data/ or saved/)"

train: $(VENV)/.base
	$(RUN) train.py -c config/digits.yaml

test: $(VENV)/.dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m pytest

# pytest exits with 5 where no test is marked slow.
slow: $(VENV)/.dev
	$(RUN) -m pytest -m slow || [ $$? -eq 5 ]

bench: $(VENV)/.bench
	$(RUN) -m benchmarks.run $(if $(wildcard data/MNIST/raw/train-images-idx3-ubyte),--data-dir data/)

format: $(VENV)/.dev
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an empty file, newer than pyproject.toml once what it lists is installed.
$(VENV)/.base: pyproject.toml | $(VENV)/.uv
	$(call install,)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.uv
	$(call install,dev)
	@touch $(VENV)/.base $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.uv
	$(call install,bench)
	@touch $(VENV)/.base $@

# uv takes seconds. Where it cannot reach the index pip may, since it alone reads pip.conf (mirrors, certificates).
define install
$(RUN) -m uv pip install --quiet --python $(RUN) -r pyproject.toml $(1:%=--extra %) || \
	{ echo "uv did not succeed; trying pip, which takes longer." >&2; $(RUN) -m pip install --quiet '.$(1:%=[%])'; }
endef

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "This needs Python 3.10 or newer as $(PYTHON); \
	found: $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(RUN) -m pip install --quiet uv
	@touch $@
