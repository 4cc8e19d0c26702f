# make setup | demo | test | check | mutants | screenshot | tiny | clean; each creates the virtual environment that it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := setup
.PHONY: setup demo test check mutants screenshot tiny browser clean

# Tests start hundreds of processes: each would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
READY := .venv/.ready
LABEL_STUDIO := .venv-label-studio/bin/label-studio
LABEL_STUDIO_READY := .venv-label-studio/.ready

# On a terminal pip shows what it does: there are minutes of it.
PIP_INSTALL := -m pip install $(if $(MAKE_TERMOUT),,--quiet)

# The first interpreter of a supported version that can make a virtual environment.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		2>/dev/null && echo $$python && break; done)

define create_environment
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed: install it" \
		"(Debian: apt-get install python3 python3-venv) or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(call create_environment,.venv)
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@# Its pins are broken (docs/label-studio-ml.md), so it cannot be a dependency like the others.
	$(BIN)/python $(PIP_INSTALL) --no-deps label-studio-ml==1.0.9
	@touch $@

# Label Studio's pins clash with ours, so it has an environment of its own.
$(LABEL_STUDIO_READY): constraints-label-studio.txt
	$(call create_environment,.venv-label-studio)
	.venv-label-studio/bin/python $(PIP_INSTALL) --constraint constraints-label-studio.txt label-studio
	@touch $@

# ONCE=1 ends by itself; PHOTOS=folder LABELS="sky,road,car" MODEL=ebseg-base use your own photos.
demo: $(READY) $(LABEL_STUDIO_READY)
	@exec $(BIN)/ebseg demo $(if $(filter-out 0,$(ONCE)),--once) $${PHOTOS:+--photos "$$PHOTOS"} \
		$${LABELS:+--labels "$$LABELS"} $${MODEL:+--model "$$MODEL"}

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy ebseg training backend
	$(BIN)/lint-imports
	$(BIN)/pylint ebseg training backend

# All that CI runs, spread over the cores; the unit tests are .venv/bin/pytest alone.
test: check browser $(LABEL_STUDIO_READY)
	$(BIN)/pytest tests/unit
	$(BIN)/pytest --dist loadfile tests/parity tests/e2e tests/integration tests/tiny tests/fuzz

# Faults put into what decides a promotion: do its tests notice? SAMPLE=12 of each module; some 40 minutes.
mutants: $(READY)
	$(BIN)/python -m tests.mutation --sample $(or $(SAMPLE),12)

# The pictures of the README and the docs, taken by tests: in the browser, and of what the memory and the loop learn (of
# drawn pictures).
screenshot: $(READY) $(LABEL_STUDIO_READY) browser
	EBSEG_SCREENSHOT=docs/images/label-studio.png EBSEG_POLYGONS_SCREENSHOT=docs/images/polygons.png \
		$(BIN)/pytest tests/e2e/test_browser.py
	EBSEG_POINTING_SCREENSHOT=docs/images/pointing.png $(BIN)/pytest tests/e2e/test_smart_tools.py -k real_photo
	EBSEG_MEMORY_PICTURE=docs/images/memory.png $(BIN)/pytest tests/e2e/test_memory.py
	EBSEG_FINETUNE_STEPS=150 EBSEG_LOOP_PICTURE=docs/images/loop.png $(BIN)/pytest tests/e2e/test_loop.py -k corrections

# Trains the model in the package from nothing, in some hours on two cores; goes on where it was stopped.
tiny: $(READY)
	$(BIN)/python -m training.tiny.pretrain --out runs/tiny/pretrain --seed 0
	$(BIN)/ebseg train --variant tiny --data drawn-scenes --encoders runs/tiny/pretrain/encoders.safetensors \
		--out runs/tiny/train --seed 0
	$(BIN)/python -m training.tiny.new_words runs/tiny/train/model.safetensors --out runs/tiny/words/model.safetensors
	$(BIN)/python -m training.tiny.release runs/tiny

browser:
	@.ci/install-browser

# The demo's data in .demo, which may hold your annotations, stays.
clean:
	rm -rf .venv .venv-label-studio build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
