# Two commands are all anyone needs: `make demo` shows Seamscope, `make test` proves it.
# Each prepares what it needs first: system packages, then .venv under constraints.txt.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Newer than both files it depends on: the environment is what they ask for. It holds the path
# of the checkout, because a copy's environment would still run the code it was copied from.
READY := $(VENV)/.ready
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): moved
endif

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint bench train lock clean system moved

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 8

demo: $(READY)  ## open the demo; without a display, run it unseen and save a screenshot
	@if [ "$$(uname)" = Linux ] && [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ]; \
	then $(BIN)/seamscope demo --headless; \
	else $(BIN)/seamscope demo; fi

# One recipe, so that pytest's closing line is the last thing printed. A file's tests share what they
# measured once, so that a file stays in one process.
test: lint  ## style, types and all tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	    --max-worker-restart 0

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## the tables of speed and memory
	@$(BIN)/python -m benchmarks

train: $(READY)  ## train the bundled demo networks again
	@$(BIN)/python -m seamscope.demo.train

# SYSTEM=skip leaves the system's packages alone, for whoever knows better.
system:
	@[ "$(SYSTEM)" = skip ] || PYTHON="$(PYTHON)" sh .ci/system-packages

$(READY): pyproject.toml constraints.txt | system
	@{ [ "$$(cat $(READY) 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -m pip --version >/dev/null 2>&1; } \
	    || { rm -f $(READY); $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing Seamscope into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,test]"
	@echo "$(CURDIR)" > $@

# Every package is taken anew, but for torch: its pin is moved by hand (see constraints.txt).
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
