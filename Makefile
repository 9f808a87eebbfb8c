# `make` lists the targets. Each does its own set-up: a stamp in $(VENV) says which list of requirements is installed.

PORT ?= 8000
PY ?= python3
VENV ?= .venv
# Passed to pytest, as in: make test ARGS="-k pareto"
ARGS ?=
# Where the shared measurements lie (the README says where they come from).
PNAG_DATA ?= ../shared/data
LATENCY_TABLE ?= latency_tables/ofa-mobilenetv3-w1.0--intel-xeon-processor-family-6-model-207-1-thread-onnx-runtime-cpu.json
TRAIN_OUT ?= runs/ofa-mobilenetv3-w1.0-imagenet
# Extra words for the install of torch, as in: TORCH_FLAGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_FLAGS ?=
# Extra words for uv pip compile, as in: make lock LOCK_FLAGS=--upgrade
LOCK_FLAGS ?=

# onnxruntime >= 1.29 reports usage by default on Linux.
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Where tests/conftest.py marks some as fast; others are not even loaded.
FAST_TESTS = $(addprefix tests/,models service test_client.py test_house.py test_version.py)
# What `make check` gives to shellcheck.
SHELL_SCRIPTS = .ci/run deploy/image/install-bundle deploy/image/pnag $(wildcard deploy/*.sh deploy/*/*.sh)

PYTHON := $(VENV)/bin/python
UV := $(shell command -v uv 2>/dev/null)
# uv does not read pip's configuration; the one thing taken over is where to look for wheels besides the index.
PIP_LINKS = $(shell $(PY) -m pip config get global.find-links 2>/dev/null)
empty :=
comma := ,
UV_ENV = $(if $(PIP_LINKS),UV_FIND_LINKS="$(subst $(empty) $(empty),$(comma),$(strip $(PIP_LINKS)))")

ifdef UV
CREATE_VENV = $(UV) venv --quiet --python "$(PY)" "$(VENV)"
INSTALL = $(UV_ENV) $(UV) pip install --quiet --python "$(PYTHON)"
else
CREATE_VENV = $(PY) -m venv "$(VENV)"
INSTALL = "$(PYTHON)" -m pip install --quiet
endif
# The lists are complete, each holding the one before it (serve, train, dev): nothing is resolved, nothing else comes in.
INSTALL_LIST = $(INSTALL) --no-deps --require-hashes --requirement
# After a list, so that the list has the say on versions; with dependencies, because a CUDA wheel brings its own.
INSTALL_TORCH = $(INSTALL) $(TORCH_FLAGS) --requirement requirements/torch.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: e2e load sbom help serve test test-fast coverage check format train bench screenshots docs lock clean distclean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1 - \2/p' $(firstword $(MAKEFILE_LIST)) | awk -F' - ' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo "  Variables: PORT=$(PORT) PY=$(PY) VENV=$(VENV) PNAG_DATA=$(PNAG_DATA)"

serve: $(VENV)/.serve.stamp $(VENV)/.project.stamp ## answer budgets on http://localhost:$PORT; installs no torch
	@PNAG_DEFAULT_BUNDLE="$${PNAG_DEFAULT_BUNDLE:-ofa-mobilenetv3-w1.0-imagenet}" exec "$(VENV)/bin/pnag" serve --port "$(PORT)"

test: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## all tests but the slow ones (ARGS="-m slow" for those)
	"$(PYTHON)" -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-fast: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## the tests that need no browser, no process and no training: half a minute
	"$(PYTHON)" -m pytest --numprocesses auto --hypothesis-profile fast -m fast $(FAST_TESTS) $(ARGS)

coverage: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## the tests again, with the branches they miss, against the floors
	"$(PYTHON)" -m pytest --numprocesses auto --dist loadfile --cov --cov-branch --cov-report=term-missing:skip-covered $(ARGS)
	"$(PYTHON)" scripts/coverage_floors.py

check: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## format, lint, types, imports, dependencies, spelling, shell; changes nothing
	"$(VENV)/bin/ruff" format --check
	"$(VENV)/bin/ruff" check
	"$(PYTHON)" -m mypy
	"$(VENV)/bin/lint-imports" --no-logo
	"$(VENV)/bin/codespell"
	"$(VENV)/bin/deptry" .
	"$(VENV)/bin/shellcheck" $(SHELL_SCRIPTS)
	"$(VENV)/bin/oxfmt" --check service/web/*.js
	"$(VENV)/bin/oxlint" --deny-warnings service/web/*.js

format: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## rewrite the code as check wants it
	"$(VENV)/bin/ruff" format
	"$(VENV)/bin/ruff" check --fix
	"$(VENV)/bin/oxfmt" --write service/web/*.js

train: $(VENV)/.train.stamp $(VENV)/.project.stamp ## train the bundle that ships, into $TRAIN_OUT (about a minute on one core)
	"$(VENV)/bin/pnag" train --space ofa-mobilenetv3-w1.0 --records "$(PNAG_DATA)/ofa_mbv3_w1.0_r224_imagenet.csv" \
		--latency-table "$(LATENCY_TABLE)" --dataset ImageNet --out "$(TRAIN_OUT)"

bench: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## write docs/benchmarks.md: hours on two cores; what $BENCH_OUT has is not run again
	@test -e "$(BENCH_OUT)/i7-8700K.json" || "$(VENV)/bin/pnag" latency import "$(PNAG_DATA)/i7-8700K_lut.yaml" \
		--space ofa-mobilenetv3-w1.0 --only resolution=224 --device-name "Intel i7-8700K, 1 core" --out "$(BENCH_OUT)/i7-8700K.json"
	$(BENCH_MACRO) --out "$(BENCH_OUT)/macro-macs" $(ARGS)
	if [ -e "$(MACRO_TABLE)" ]; then $(BENCH_MACRO) --latency-table "$(MACRO_TABLE)" --out "$(BENCH_OUT)/macro-latency" $(ARGS); fi
	$(BENCH_OFA) --latency-table "$(LATENCY_TABLE)" --out "$(BENCH_OUT)/ofa-measured" $(ARGS)
	$(BENCH_OFA) --latency-table "$(BENCH_OUT)/i7-8700K.json" --out "$(BENCH_OUT)/ofa-i7" $(ARGS)
	"$(VENV)/bin/pnag" bench evaluators --space ofa-mobilenetv3-w1.0 --records "$(OFA_RECORDS)" \
		--latency-table "$(LATENCY_TABLE)" --out "$(BENCH_OUT)"
	"$(VENV)/bin/pnag" bench records --records "$(MACRO_RECORDS)" --out "$(BENCH_OUT)"
	"$(VENV)/bin/pnag" bench references --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --out "$(BENCH_OUT)"
	"$(VENV)/bin/pnag" bench page --results "$(BENCH_OUT)" --out docs/benchmarks.md

BENCH_OUT ?= runs/bench
MACRO_TABLE ?= $(firstword $(wildcard latency_tables/nas-bench-macro--*.json) none)
MACRO_RECORDS = $(PNAG_DATA)/nas-bench-macro_cifar10.json
OFA_RECORDS = $(PNAG_DATA)/ofa_mbv3_w1.0_r224_imagenet.csv
BENCH_MACRO = "$(VENV)/bin/pnag" bench front --space nas-bench-macro --records "$(MACRO_RECORDS)" --truth "$(MACRO_RECORDS)" \
	--num-records 500 --calls 1000 --samples 32
BENCH_OFA = "$(VENV)/bin/pnag" bench front --paper --space ofa-mobilenetv3-w1.0 --records "$(OFA_RECORDS)"

screenshots: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## look at the page with Chromium, into docs/images
	"$(PYTHON)" scripts/screenshots.py

docs: $(VENV)/.dev.stamp $(VENV)/.docs.stamp $(VENV)/.project.stamp ## the documentation as a site, into build/site; a dead link is an error
	"$(PYTHON)" scripts/reference.py --check
	NO_MKDOCS_2_WARNING=1 "$(VENV)/bin/mkdocs" build --strict --quiet

e2e: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## build the image, bring the whole stack up, break it, see it hold (Linux; root where no container engine runs)
	PNAG_E2E_PYTHON="$(abspath $(PYTHON))" deploy/e2e/run.sh

load: $(VENV)/.dev.stamp $(VENV)/.project.stamp ## measure the stack and soak it for ten minutes, into runs/bench/serve/stack (SOAK_S=600)
	PNAG_E2E_PYTHON="$(abspath $(PYTHON))" deploy/e2e/load.sh

sbom: ## list what is in the image, into build/
	deploy/sbom.sh

# ---- set-up ----------------------------------------------------------------------------------------------------------

# pyvenv.cfg, not bin/python: that one is a link to a file older than everything here.
$(VENV)/pyvenv.cfg:
	@"$(PY)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PY) is not Python 3.11 or newer; name one: make PY=python3.12 ..." >&2; exit 1; }
	$(CREATE_VENV)

$(VENV)/.project.stamp: pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing pnag itself, editable"
	@$(INSTALL) --no-deps --editable .
	@touch "$@"

$(VENV)/.serve.stamp: requirements/serve.txt | $(VENV)/pyvenv.cfg
	@echo "Installing what serving needs"
	@$(INSTALL_LIST) requirements/serve.txt
	@touch "$@"

$(VENV)/.train.stamp: requirements/train.txt requirements/torch.txt | $(VENV)/pyvenv.cfg
	@echo "Installing what training needs, torch included"
	@$(INSTALL_LIST) requirements/train.txt
	@$(INSTALL_TORCH)
	@touch "$@"

$(VENV)/.dev.stamp: requirements/dev.txt requirements/torch.txt | $(VENV)/pyvenv.cfg
	@echo "Installing what training, tests and checks need, torch included: a few minutes"
	@$(INSTALL_LIST) requirements/dev.txt
	@$(INSTALL_TORCH)
	@touch "$@"

$(VENV)/.docs.stamp: requirements/docs.txt | $(VENV)/pyvenv.cfg
	@echo "Installing what the documentation site needs"
	@$(INSTALL_LIST) requirements/docs.txt
	@touch "$@"

# ---- upkeep ----------------------------------------------------------------------------------------------------------

# --universal: one list for every platform. No index, no links, no CUDA: the lists must say nothing of where they were made.
COMPILE = $(or $(UV),"$(VENV)/bin/uv") pip compile --quiet --universal --python-version 3.11 --no-header --generate-hashes \
	--no-emit-package torch $(LOCK_FLAGS) pyproject.toml

lock: $(if $(UV),,$(VENV)/bin/uv) ## write requirements/*.txt again from pyproject.toml (LOCK_FLAGS=--upgrade for newer ones)
	$(COMPILE) --output-file requirements/serve.txt
	$(COMPILE) --extra train --constraint requirements/serve.txt --constraint requirements/torch.txt \
		--output-file requirements/train.txt
	$(COMPILE) --extra train --extra dev --constraint requirements/train.txt --constraint requirements/torch.txt \
		--output-file requirements/dev.txt
	$(COMPILE) --extra docs --constraint requirements/dev.txt --output-file requirements/docs.txt
	@! grep -niE '^(nvidia|cuda|triton)|://|^-' $(filter-out requirements/torch.txt,$(wildcard requirements/*.txt))

$(VENV)/bin/uv: | $(VENV)/pyvenv.cfg
	$(INSTALL) uv==0.13.9

clean: ## remove what builds, tests and checks leave behind, but not $VENV
	rm -rf build dist *.egg-info htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./.venv/*" -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf "$(VENV)"
