# Everything runs in .venv, made on the first call; `make` lists the commands.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
FULL   ?= 0
MINUTES ?= 60
ROUNDS  ?= 9

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet
PROFILE := $(if $(filter-out 0,$(FULL)),full,quick)

# The tests over torch tensors want a CPU build. PyPI's wheel is one, except on Linux x86-64, where it is a CUDA build of
# gigabytes: there a "+cpu" version is asked for, which exists only where somebody offers CPU wheels (a folder in
# PIP_FIND_LINKS, or PyTorch's own index in PIP_EXTRA_INDEX_URL). Another build: make test TORCH=torch==2.12.0
PLATFORM := $(shell uname -s)-$(shell uname -m)
ifeq ($(PLATFORM),Linux-x86_64)
TORCH        ?= torch==2.13.0+cpu
TORCH_OLDEST ?= torch==2.8.0+cpu
else
TORCH        ?= torch>=2.8
TORCH_OLDEST ?= torch==2.8.0
endif
CPU_INDEX := https://download.pytorch.org/whl/cpu
NO_TORCH  := tests over torch tensors are skipped; for them type: \
  make $(MAKECMDGOALS) PIP_EXTRA_INDEX_URL=$(CPU_INDEX), or TORCH=torch for the CUDA build

# Tests on a GPU, and builds for one, want a toolkit of the driver's CUDA. Compiler and assembler are one version.
CUDA ?= 13
TOOLS_13 := 'cuda-toolkit==13.0.*' 'nvidia-cuda-nvcc==13.0.*'

.DEFAULT_GOAL := help
.PHONY: help study study-deep test test-kernels test-models test-ranks mutants test-gpu gpu-static speed lint format typecheck docs pictures clean

.PHONY: test-oldest package lock

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

study: $(VENV)/.analysis  ## all studies on real data, into results/index.html (FULL=1: the large profile)
	$(BIN)/python -m analysis all --profile $(PROFILE)

study-deep: $(VENV)/.deep  ## sparse networks on real images and texts, into the same page (FULL=1: the large profile)
	$(BIN)/python -m analysis vision --profile $(PROFILE)
	$(BIN)/python -m analysis language --profile $(PROFILE)
	$(BIN)/python -m analysis ranks --profile $(PROFILE)

# Types are checked beside the tests, which wait for other processes now and then.
test: lint $(VENV)/.torch  ## lint, types, and the whole test suite (JOBS=2 processes)
	@types=$$(mktemp); $(BIN)/mypy > $$types 2>&1 & checked=$$!; \
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile; tested=$$?; \
	wait $$checked; typed=$$?; echo "mypy:"; cat $$types; rm -f $$types; \
	[ $$tested -eq 0 ] && [ $$typed -eq 0 ]

test-oldest:  ## each test on the oldest versions that pyproject.toml admits (.ci/oldest.txt), in .venv-oldest (FULL=1: all its cases)
	$(MAKE) VENV=.venv-oldest .venv-oldest/.oldest
	.venv-oldest/bin/python -m pytest $(if $(filter-out 0,$(FULL)),,-p tests.few) -n $(JOBS) --dist loadfile

package: $(VENV)/.test  ## build wheel and sdist, install each into an empty environment and try it
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	for file in dist/*.whl dist/*.tar.gz; do \
	  rm -rf build/empty && $(PYTHON) -m venv build/empty && \
	  build/empty/bin/python -m pip install --quiet "$$file" && \
	  (cd build/empty && bin/python -W error ../../.ci/smoke.py) || exit 1; \
	done

lock: $(VENV)/.torch  ## write down the versions that are installed, for CI (.ci/lock.txt)
	$(BIN)/python .ci/lock.py > .ci/lock.txt

speed: $(VENV)/.analysis $(VENV)/.torch  ## the speed here over that of the last release, or of AGAINST=<commit> (ROUNDS=9 pairs)
	@commit="$(AGAINST)"; [ -n "$$commit" ] || commit=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); \
	if [ -z "$$commit" ]; then echo "There is no release to compare with."; exit 0; fi; \
	rm -rf build/against && git worktree prune && git worktree add --quiet --detach build/against "$$commit" && \
	$(BIN)/python -m analysis speed --against build/against --rounds $(ROUNDS); \
	status=$$?; git worktree remove --force build/against; exit $$status

mutants: $(VENV)/.test  ## a random sample of mutants of the mathematics (MINUTES=60); survivors: tests/mutants.md
	$(PIP) 'cosmic-ray>=8.4'
	$(BIN)/python -m tests.mutate --minutes $(MINUTES)

test-gpu: $(VENV)/.cuda  ## the tests that need a CUDA device (CUDA=12 for a driver of CUDA 12)
	$(BIN)/python -m pytest -m gpu tests/cuda

test-models: $(VENV)/.models  ## the tests on networks of transformers and timm, which are tiny and random
	$(BIN)/python -m pytest -m models tests/torch

test-kernels: $(VENV)/.test  ## kernels of every method in every layout, from a cold cache, and in a study: they take long to compile
	$(BIN)/python -m pytest -n $(JOBS) -m kernels tests/test_prox.py tests/test_backends.py tests/test_linker.py tests/optim tests/torch tests/cuda \
	  tests/analysis/test_deep_training.py

test-ranks: $(VENV)/.torch  ## the tests of sharded parameters on two and four processes (some are in make test)
	$(BIN)/python -m pytest -m ranks tests/torch/test_ranks.py tests/analysis/test_ranks.py

gpu-static: $(VENV)/.cuda  ## build every GPU kernel for two architectures and test what it takes; needs no GPU
	$(BIN)/python -m pytest -n $(JOBS) tests/cuda/test_static.py tests/cuda/test_dispatch.py

lint: $(VENV)/.test  ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.test  ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.test  ## apply ruff's fixes and layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## the site, into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

pictures: $(VENV)/.analysis  ## redraw the pictures of README and site, from docs/examples/ and results/
	$(BIN)/python -m docs.pictures

clean:  ## remove the environment, results, caches and built files
	rm -rf $(VENV) .venv-oldest results docs/_build docs/gallery docs/reference/generated build dist *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras: a rerun installs nothing unless pyproject.toml has changed.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "proxlab needs Python 3.11 or newer, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.analysis: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[analysis]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[analysis,test,dev]'
	@touch $@ $(VENV)/.analysis

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.torch: $(VENV)/.test
	@{ $(PIP) '$(TORCH)' && $(PIP) -e '.[pretrained]'; } 2>/dev/null && touch $@ \
	  || echo 'No $(TORCH) on offer here: $(NO_TORCH)'

$(VENV)/.oldest: pyproject.toml .ci/oldest.txt | $(BIN)/python
	$(PIP) -c .ci/oldest.txt -e '.[analysis,test]'
	@{ $(PIP) -c .ci/oldest.txt '$(TORCH_OLDEST)' && $(PIP) -c .ci/oldest.txt -e '.[pretrained]'; } 2>/dev/null \
	  || echo 'No $(TORCH_OLDEST) on offer here: $(subst TORCH=,TORCH_OLDEST=,$(NO_TORCH))'
	@touch $@

# timm asks for torchvision, which would replace a CPU build of PyTorch by that of its own wheels; its networks need
# neither that nor what transformers has not brought.
$(VENV)/.models: $(VENV)/.torch
	@$(PIP) -e '.[export]' || { echo "The library transformers is not on offer here." >&2; exit 1; }
	@$(PIP) -e '.[models]' || echo 'Not on offer here: an ONNX runtime; its tests are skipped.'
	@$(PIP) --no-deps 'timm>=1.0.20' || echo 'Not on offer here: timm; its tests are skipped.'
	@touch $@

$(VENV)/.cuda: $(VENV)/.test
	$(PIP) -e '.[analysis,test,dev,cuda$(CUDA)]' $(TOOLS_$(CUDA))
	@touch $@

$(VENV)/.deep: $(VENV)/.analysis
	@$(PIP) '$(TORCH)' || { \
	  echo "study-deep needs PyTorch, and $(TORCH) is not on offer here; type:" >&2; \
	  echo "make study-deep PIP_EXTRA_INDEX_URL=$(CPU_INDEX), or TORCH=torch for the CUDA build" >&2; exit 1; }
	$(PIP) -e '.[pretrained]'
	@touch $@
