PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
DEMO := demo-results

.PHONY: install demo test slow lint bench clean

install: $(STAMP)
	@echo "scalectl is installed in $(VENV); to use it:  . $(BIN)/activate"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $(STAMP)

# Trains the demo sweep in a results folder of its own, always from scratch, and shows the law.
demo: install
	rm -rf $(DEMO)
	SCALECTL_RESULTS=$(DEMO) $(BIN)/scalectl sweep sweeps/stdlib-ladder.toml
	SCALECTL_RESULTS=$(DEMO) $(BIN)/scalectl fit stdlib-ladder
	SCALECTL_RESULTS=$(DEMO) $(BIN)/scalectl report stdlib-ladder

# A worker for each core, four at most; the tests of a file stay together, since they share what they trained.
TESTS := -n auto --maxprocesses 4 --dist loadfile

test: install
	$(BIN)/python -m pytest $(TESTS)

slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# BENCH: flags of bench/engine.py, such as BENCH='--profile --nanogpt CHECKOUT'
bench: install
	$(BIN)/python bench/engine.py $(BENCH)
	$(BIN)/python bench/sixteen.py
	$(BIN)/python bench/branching.py
	$(BIN)/python bench/packing.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/fits.py

clean:
	rm -rf $(VENV) $(DEMO) build dist
