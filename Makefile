# Everything a fresh machine needs is set up by the first target that wants it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Real data and models, where they lie beside the checkout; tests that need them skip elsewhere.
ifneq ($(wildcard ../shared/data),)
export GATEWISE_DATA ?= $(abspath ../shared/data)
endif

# The browser that the landscape's page is opened in. Where there is none to be had, its test skips and says so.
CHROMIUM = command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	>/dev/null 2>&1 || echo "No Chromium could be installed; the page's test will be skipped."

.PHONY: setup demo figures test test-all test-gpu lint procgen clean

setup: $(STAMP)

# torch first and pinned: any later requirement then finds the CPU build and leaves it alone.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,test]'
	@$(CHROMIUM)
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/digits.py

# The pictures of the docs that need no recorded runs.
figures: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python experiments/landscapes.py --out docs/landscapes
	OMP_NUM_THREADS=1 $(BIN)/python experiments/first_order_pictures.py --out docs/dynamics

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# One torch thread a worker: two workers fill two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m 'not gpu'

test-gpu: $(STAMP)
	$(BIN)/pytest -m gpu

# Procgen wants an older NumPy, so it has an environment of its own; its tests are run there.
procgen: $(VENV)-procgen/.installed
	OMP_NUM_THREADS=1 $(VENV)-procgen/bin/python -m pytest tests/agents/test_procgen.py

$(VENV)-procgen/.installed: pyproject.toml constraints-procgen.txt
	test -x $(VENV)-procgen/bin/python || $(PYTHON) -m venv $(VENV)-procgen
	$(VENV)-procgen/bin/python -m pip install --quiet --disable-pip-version-check \
		"$$(grep '^torch==' constraints-procgen.txt)"
	$(VENV)-procgen/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-procgen.txt --editable '.[procgen]' pytest hypothesis
	touch $(VENV)-procgen/.installed

clean:
	rm -rf $(VENV) $(VENV)-procgen out .pytest_cache .ruff_cache .hypothesis .import_linter_cache
