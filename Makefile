# `make demo` and `make test` each do all set-up themselves; Python >= 3.10 and git are all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests at once; a file's tests stay together
JOBS ?= 2

.PHONY: demo test lint install clean

demo: install
	$(BIN)/python datasets/make_demo.py
	$(BIN)/python tools/run_net.py --cfg configs/demo/uniformer.yaml

test: install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .

install: $(VENV)/installed

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) data/demo runs/demo
