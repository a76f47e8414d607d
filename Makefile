# Each command does its own set-up: make demo, make test, make bench. They create .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
# Small models: one thread per process is fastest, and waiting threads must not spin.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test bench check clean

demo: .venv/ready
	PYTHON= PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Speed and memory compared with other tools; two hours on two quiet cores. RTE's rows are in $LLMFT_DATA_DIR or ../shared/data.
bench: .venv/ready-bench
	$(BIN)/python -m benchmarks --write_readme

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

.venv/ready-bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	touch $@
