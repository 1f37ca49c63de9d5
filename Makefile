# `make demo` and `make test` each do all set-up themselves; Python >= 3.11 and git are all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Test processes; the tests of a file stay together
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Install a requirement into the virtual environment: with uv, which is several times as fast, or else with pip
install = (command -v uv || $(BIN)/python -m pip install --quiet uv) >/dev/null \
	&& $$(command -v uv || echo $(BIN)/uv) pip install --quiet --python $(BIN)/python --editable '$(1)' \
	|| $(BIN)/python -m pip install --quiet --editable '$(1)'

.PHONY: demo test test-slow test-all lint docs install clean

# The model is so small that a second thread of PyTorch would only take a core from the DataLoader worker
demo: export OMP_NUM_THREADS ?= 1
demo: $(VENV)/installed
	$(BIN)/uniformer demo-data
	$(BIN)/python tools/run_net.py --cfg configs/demo/uniformer.yaml

# The quick tests; `make test-slow` runs the others, `make test-all` all of them
test: install
	$(PYTEST) -m 'not slow'

test-slow: install
	$(PYTEST) -m slow

test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# The site: docs/_build/html/index.html. A warning, such as a link that leads nowhere, is an error
docs: install
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

install: $(VENV)/installed-dev

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(call install,.)
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(call install,.[dev])
	touch $@

clean:
	rm -rf $(VENV) data/demo runs/demo
