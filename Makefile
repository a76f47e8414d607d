# Two commands do all set-up: make demo, make test. Each makes .venv itself.
PYTHON ?= python3
BIN := .venv/bin
# Small models: one thread a process is fastest, and waiting threads must not spin.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check clean

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/ready
	$(BIN)/ruff check .
	$(MAKE) test

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

.venv/ready: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,gguf]"
	touch $@
