# Two commands matter: `make demo` and `make test`. Each makes its own environment from nothing but python3 >= 3.11.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ROOMS  := arch sim fpga host models

.PHONY: help env demo test lint types unit verify peers clean
help:
	@echo "make demo   train a shifted student online on the emulated device, draw its accuracy"
	@echo "make test   lint, types and tests"
	@echo "make verify emulator and RTL over random cores and whole students"
	@echo "make peers  an environment with what the benchmarks compare with"
	@echo "make env    the environment alone ($(VENV))"
	@echo "make clean  remove the environment and build output"

env: $(VENV)/.ready

# The folder of links shows type checkers the import name: they cannot follow an editable install's mapping.
$(VENV)/.ready: pyproject.toml
	@echo "==> making the environment in $(VENV) (a minute or two the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "python3 >= 3.11 is needed, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@mkdir -p $(VENV)/typing/insitu
	@for room in $(ROOMS); do if [ -d $$room ]; then ln -sfn "$(CURDIR)/$$room" $(VENV)/typing/insitu/$$room; fi; done
	@touch $@
	@echo "==> ready: $(BIN)/insitu --help"

demo: env
	@$(BIN)/insitu demo

test: lint types unit

lint: env
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: env
	@echo "==> mypy"
	@cd $(VENV)/typing && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml --namespace-packages --explicit-package-bases -p insitu

unit: env
	@echo "==> pytest"
	@$(BIN)/python -m pytest -n auto --dist loadscope

# The longer matrix: half an hour on two cores.
verify: env
	@$(BIN)/python -m tests.sim.sweep --seed 1 --cores 12
	@$(BIN)/insitu verify --core n=4,act_depth=2048,err_depth=1024,wgt_depth=2048 --model mlp:64-32-10 --batch 10
	@$(BIN)/python -m pytest -n auto --dist loadscope -m slow
	@$(BIN)/insitu verify --core n=8
	@$(BIN)/insitu verify --core n=16

# What the benchmarks are held against, apart from our own environment.
peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet torch==2.13.0 qtorch==0.3.0 ninja setuptools "numpy<2.4" scalesim==3.0.0

clean:
	rm -rf $(VENV) .venv-peers build *.egg-info .ruff_cache .mypy_cache
