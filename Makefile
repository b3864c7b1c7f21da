# The two commands of the README: make quickstart, make test. Both set up .venv first.
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
# The GPU build of vLLM where a driver answers, the CPU build elsewhere; override with EXTRA=cpu or EXTRA=gpu.
EXTRA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: quickstart test test-fast test-cluster lint setup picture clean-venv

setup: $(STAMP)

$(STAMP): pyproject.toml .ci/setup.sh
	PYTHON=$(PYTHON) bash .ci/setup.sh $(VENV) $(EXTRA)
	touch $@

quickstart: setup           ## sweep the bundled pocket models on this machine
	$(PY) -m sweep launch conf/quickstart.yaml

test: setup lint            ## everything CI runs
	$(PY) -m pytest -m "not cluster"

test-fast: setup            ## without the tests that start vLLM
	$(PY) -m pytest -m "not engine"

test-cluster: setup         ## engines, swaps, kills and resumed studies, by hand: about ten minutes alone on two cores
	$(PY) -m pytest -m cluster

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

picture: setup              ## redraw docs/pareto.png from the stored quickstart study
	$(PY) -m sweep pareto quickstart --picture docs/pareto.png

clean-venv:
	rm -rf $(VENV)
