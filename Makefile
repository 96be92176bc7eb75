# make demo    train DETR with DropKey on a generated set, evaluate it, draw its detections
# make check   linter, type check and the fast tests: for every day
# make test    linter, type check and all tests, as continuous integration runs them; tells how many
#              lines of dropkey_core/attention and equip they ran
# make lint    linter and type check alone
# make package the library's sdist and wheel in dist/, installed and used in an environment of their own
# make docs    the documentation site in output/site, every link in it checked
# make gpu-check  tests and measures a CUDA machine in 8 minutes, prints a page of Markdown;
#              REFERENCE=../detr measures the official DETR of that checkout beside it
# Each makes the environment .venv on its first call: with uv and uv.lock where uv is present, with
# pip otherwise. PYTHON=python3.12 make demo chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := output/demo
# As many processes as cores; tests that share trained runs stay in one.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup
# What goes into other people's models: its tests tell which of its lines they ran.
COVERED := attention equip
COVERAGE := $(COVERED:%=tests/dropkey_core/%) $(COVERED:%=--cov=dropkey_core/%) --cov-report=term:skip-covered --cov-fail-under=97

.PHONY: demo check test lint package docs gpu-check clean

demo: $(VENV)/.train
	$(BIN)/python datasets/make_shapes.py
	$(BIN)/python tools/train_net.py --config projects/detr/demo.yaml --overwrite train.output_dir=$(DEMO)
	$(BIN)/python tools/visualize.py --model $(DEMO)

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST) $(COVERED:%=--ignore=tests/dropkey_core/%)
	$(PYTEST) $(COVERAGE)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Installed with torch as `pip install .` does it, and used from another folder.
package:
	rm -rf build dist
	$(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install --quiet "build>=1.2,<2" "twine>=6,<8"
	build/bare/bin/python -m build
	build/bare/bin/twine check --strict dist/*
	build/bare/bin/python -m pip install --quiet dist/*.whl
	cd / && "$(CURDIR)/build/bare/bin/python" -I "$(CURDIR)/tests/use_package.py"
	rm -rf build

docs: $(VENV)/.docs
	$(BIN)/python tools/build_site.py

gpu-check: $(VENV)/.test
	@$(BIN)/python tools/gpu_check.py $(if $(REFERENCE),--reference $(REFERENCE))

# One rule for the stamps .venv/.train, .venv/.test and .venv/.docs: install that extra, unless it is
# there. UV= takes pip though uv is there.
UV ?= $(shell command -v uv)
FETCHED := torch comes with CUDA libraries: 3 GB to fetch, 6 on the disk; without a GPU docs/start.md has a smaller one
$(VENV)/.train $(VENV)/.test $(VENV)/.docs: $(VENV)/.%: pyproject.toml setup.py uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=")'
	@$(BIN)/python -c 'import torch' 2> /dev/null || echo "$(FETCHED)"
	@if test -n "$(UV)"; then \
		echo "installing with uv into $(VENV) (a few minutes the first time)"; \
		test -x $(BIN)/python || $(UV) venv --quiet --seed --python $(PYTHON) $(VENV); \
		$(UV) sync --locked --inexact --python $(PYTHON) --extra $*; \
	else \
		echo "installing with pip into $(VENV) (some minutes the first time)"; \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --editable '.[$*]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) output/pages output/site
