# Two commands on a fresh machine with Python >= 3.10: `make train` and `make test`. Windows: README.md, "Without make".
# Both make .venv when it is needed, and bring it up to date when pyproject.toml has changed.
# Another Python: make train PYTHON=python3.12.  Without a GPU, UV_TORCH_BACKEND=cpu make train downloads far less.

PYTHON ?= python3
VENV   := .venv
# Tools are run as `python -m`, not by their scripts in bin/, so that the project's folder can be moved.
RUN    := $(VENV)/bin/python
# Three processes for two cores, because tests also wait for processes of their own
SPREAD := --numprocesses 3 --dist worksteal

.PHONY: help train test slow lint format schema extra clean
.DELETE_ON_ERROR:

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

train: $(VENV)/.base  ## set up, train config/digits.yaml
	$(RUN) train.py -c config/digits.yaml

# Tests start a hundred processes: what they import is compiled once, also where the shell forbids that
test slow: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.dev  ## set up, run the fast tests
	$(RUN) -m pytest $(SPREAD)

# pytest exits with 5 where no test is marked slow.
slow: $(VENV)/.dev  ## run the slow tests
	$(RUN) -m pytest -m slow $(SPREAD) || [ $$? -eq 5 ]

lint: $(VENV)/.dev  ## check format, lint and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: $(VENV)/.dev  ## format the code, correct what ruff can correct
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

schema: $(VENV)/.base  ## let editors complete your models, losses, ... in configs: write config/schema.json
	$(RUN) -m utils.config > $(VENV)/schema.json
	@mv $(VENV)/schema.json config/schema.json

extra: $(VENV)/.base  ## install an extra of pyproject.toml, keep the installed torch: make extra NAME=metrics
	@grep -q '^$(NAME) = \[' pyproject.toml || { echo "make extra NAME=...: pyproject.toml has the extras" \
	$$(sed -n '/^\[project.optional/,/^$$/s/^\([a-z]*\) = \[.*/\1/p' pyproject.toml) >&2; exit 2; }
	$(RUN) -m pip freeze | grep -E '^(torch|torchvision)==' > $(VENV)/torch.txt
	$(call install,$(NAME),--constraint $(VENV)/torch.txt)

# <template> What new_project.py leaves out of a copy
test: lint

# </template>
# <benchmarks> What new_project.py leaves out of a copy without benchmarks/
.PHONY: bench lines

bench: $(VENV)/.bench  ## run the benchmarks, write benchmarks/RESULTS.md (under half an hour; needs a quiet machine)
	$(RUN) -m benchmarks.run $(if $(wildcard data/MNIST/raw/train-images-idx3-ubyte),--data-dir data/)

lines:  ## count the lines of code by folder
	@$(PYTHON) benchmarks/lines.py

$(VENV)/.bench: pyproject.toml | $(VENV)/.uv
	$(call install,bench)
	@touch $(VENV)/.base $@

# </benchmarks>
clean:  ## remove .venv and caches (never data/ or saved/)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an empty file, newer than pyproject.toml once what it lists is installed.
$(VENV)/.base: pyproject.toml | $(VENV)/.uv
	$(call install,)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.uv
	$(call install,dev)
	@touch $(VENV)/.base $@

# $(call install,EXTRA,OPTIONS). uv takes seconds. Where it cannot reach the index, pip may: only pip reads pip.conf
# (mirrors, certificates).
define install
$(RUN) -m uv pip install --quiet --python $(RUN) $(2) -r pyproject.toml $(1:%=--extra %) || \
	{ echo "uv did not succeed; trying pip, which takes longer." >&2; $(RUN) -m pip install --quiet $(2) '.$(1:%=[%])'; }
endef

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "This needs Python 3.10 or newer as $(PYTHON); \
	found: $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(RUN) -m pip install --quiet uv
	@touch $@
