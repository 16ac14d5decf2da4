# `make` lists what there is. Each target sets up what it needs, in this folder.

# trust the certificates that the machine trusts
export UV_SYSTEM_CERTS ?= true

# tests start hundreds of processes, each of which would compile all that it imports
unexport PYTHONDONTWRITEBYTECODE

# the uv on PATH, or else one of this folder's own
UV ?= $(or $(shell command -v uv),$(CURDIR)/.uv/bin/uv)
export UV
DEMO := build/demo
# what the library's tests need beside the packages of the project that they run in
LIBRARY_TOOLS := $(CURDIR)/build/test/library_tools
PYTHON ?= $(abspath $(PROJECT))/.venv/bin/python

.PHONY: help setup demo test test-fast library-tests lint docs benchmarks
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' Makefile | awk -F': ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(CURDIR)/.uv/bin/uv:
	@echo "== uv, into .uv"
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

setup: $(filter $(CURDIR)/%,$(UV))
	@echo "== cookiecutter and the tests' tools, into .venv"
	$(UV) sync --quiet

demo: setup  ## generate a project; install, train, evaluate and draw in it; under 10 minutes
	@echo "== a project with every default answer, into $(DEMO)"
	$(UV) run --no-sync cookiecutter . --no-input --overwrite-if-exists --output-dir $(DEMO)
	$(MAKE) -C $(DEMO)/recycling-trash-detection demo

test: setup lint  ## all tests; a generated project is installed and trained
	$(UV) run --no-sync pytest --durations=10

test-fast: setup lint  ## what needs no generated project to be installed
	$(UV) run --no-sync pytest -m "not slow"

library-tests: $(filter $(CURDIR)/%,$(UV))  ## the library's tests in PROJECT=…, a generated project after `make setup`
	@[ -x "$(PYTHON)" ] || { echo "$(PYTHON): missing; set PROJECT to a project after \`make setup\`"; exit 2; }
	$(UV) pip install --quiet --python $(PYTHON) --target $(LIBRARY_TOOLS) --no-deps \
	    -r tests/library/requirements.txt
	$(UV) pip install --quiet --python $(PYTHON) $(foreach group,export mlflow,--group $(abspath $(PROJECT))/pyproject.toml:$(group))
	cd $(PROJECT) && OMP_NUM_THREADS=1 PYTHONPATH=$(LIBRARY_TOOLS)$${PYTHONPATH:+:$$PYTHONPATH} \
	    $(PYTHON) -m pytest -c $(CURDIR)/tests/library/pytest.ini --rootdir $(CURDIR)/tests/library \
	    --confcutdir $(CURDIR)/tests/library -n 2 --dist loadfile --durations=10 \
	    $(abspath $(or $(TESTS),tests/library)) $(ARGS)

lint: setup
	$(UV) run --no-sync ruff check
	$(UV) run --no-sync ruff format --check

docs: setup  ## the documentation, into build/site; a warning is an error
	$(UV) run --no-sync python scripts/build_docs.py build/docs
	$(UV) run --no-sync zensical build --clean --strict

benchmarks: setup  ## the time that a generation takes; after `make demo`, what the project claims
	$(UV) run --no-sync python benchmarks/generation_time.py
	[ ! -d $(DEMO)/*/.venv ] || for name in evaluation_speed writer_cost loader_throughput \
	    prediction_speed training_speed wandb_ends; do \
	    $(DEMO)/*/.venv/bin/python benchmarks/$$name.py $(DEMO)/*/ || exit 1; done
