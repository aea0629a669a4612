# Two commands do everything, set-up included, on a machine with Python >= 3.11, git and make:
#   make demo    the whole experiment on the built-in micro-world, a few minutes on two cores
#   make test    the test suite

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread per test process: under load two threads are slower than one. What was compiled is kept, also where the
# environment says otherwise, as in images for containers: hundreds of processes would compile the same files again.
ENVIRONMENT := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
WORKERS ?= 2
# A file's tests share what they set up, so a file stays with one process: a tenth less work.
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

.PHONY: install demo test test-all bench docs lint typecheck check clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/emergence demo

test: $(STAMP)
	$(ENVIRONMENT) $(PYTEST) -m "not slow"

# Also the slow ones: Modal's real client and container runtime end to end, runs killed and started again.
test-all: $(STAMP)
	$(ENVIRONMENT) $(PYTEST)

# Every row of docs/speed.md, several hours of one CPU thread, into benchmark-results/; BENCH="--text DIR --questions DIR" for real data.
bench: $(STAMP)
	$(ENVIRONMENT) $(BIN)/python -m benchmarks all $(BENCH)
	$(BIN)/python -m benchmarks table

# The documentation as a site: build/site/index.html opens in a browser.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the documentation is build/site/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)
	$(BIN)/mypy

check: lint typecheck test-all

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
