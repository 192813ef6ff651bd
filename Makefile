# `make demo` shows Seamscope, `make quick` checks a commit, `make test` checks everything.
# Each target first prepares what it needs: system packages, then .venv under constraints.txt.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Newer than both files it depends on: the environment is up to date. It holds the path of the
# checkout, because a copy's environment would still run the code it was copied from.
READY := $(VENV)/.ready
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): moved
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Containers set it; each process would then compile napari and the tests again (7 s of CPU).
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo quick test lint docs bench train lock clean system moved

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 8

demo: $(READY)  ## open the demo; without a display, run it off screen and save a screenshot
	@if [ "$$(uname)" = Linux ] && [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ]; \
	then $(BIN)/seamscope demo --headless --overwrite; \
	else $(BIN)/seamscope demo; fi

# What most changes break first: numbers, words, architecture, and the engine on small images.
QUICK := tests/geometry tests/project/test_architecture.py tests/project/test_words.py \
    tests/project/test_documentation.py tests/engine/test_images.py tests/engine/test_inference.py \
    tests/engine/test_normalization.py tests/engine/test_outputs.py tests/engine/test_parts.py \
    tests/engine/test_serialization.py

quick: lint  ## before each commit: style, types and a chosen set of tests, about two minutes
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	    --no-loadscope-reorder $(QUICK)

# One recipe, so that pytest's closing line is the last thing printed. The tests of a file share
# measurements, so that a file stays in one process, and the longest files come first
# (tests/conftest.py, which also says what follows when a process crashes). The slowest tests are
# listed at the end.
test: lint  ## style, types and all tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	    --no-loadscope-reorder --max-worker-restart 3 --durations 20 --durations-min 2

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the documentation site, into docs/_build/html
	@$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(READY)  ## the tables of speed and memory
	@$(BIN)/python -m benchmarks

train: $(READY)  ## train the bundled demo networks again
	@$(BIN)/python -m seamscope.demo.train

# SYSTEM=skip leaves the system's packages alone.
system:
	@[ "$(SYSTEM)" = skip ] || PYTHON="$(PYTHON)" sh .ci/system-packages

$(READY): pyproject.toml constraints.txt | system
	@{ [ "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -m pip --version >/dev/null 2>&1; } \
	    || { rm -f $(READY); $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing Seamscope into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,test]"
	@echo "$(CURDIR)" > $@

# Every package is resolved again, except torch: its pin is changed by hand (see constraints.txt).
lock:  ## write constraints.txt again from a clean environment
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(PYTHON) -m venv "$$work/venv"; \
	grep '^torch==' constraints.txt > "$$work/torch.txt"; \
	"$$work/venv/bin/python" -m pip install --quiet --constraint "$$work/torch.txt" \
	    --editable ".[all,test,openvino]"; \
	{ sed -n '/^#/p;/^[^#]/q' constraints.txt; \
	  "$$work/venv/bin/python" -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//'; \
	} > "$$work/constraints.txt"; \
	cp "$$work/constraints.txt" constraints.txt

clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
