# make setup   a virtual environment in .venv with the package, its dependencies and the developers' tools
# make demo    the package's own model on fresh phantoms: prediction, a report page per scan, what was found of the lesions
# make demo-train  the whole way from nothing: phantoms -> preparation -> training -> prediction -> evaluation
# make pretrained  the weights of the package, in rounds of fresh phantoms (hours; may be interrupted and run again)
# make test    all tests
# make lint    format, style, types, and the order of the layers
#
# Without an NVIDIA GPU, spare yourself gigabytes of CUDA libraries:
#   make setup PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_OPTIONS ?=
PYTEST_OPTIONS ?=
COVERAGE ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# -qq: pip's warnings about what lies beside its index are no concern of somebody who installs this package.
INSTALL := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check -c constraints.txt $(PIP_OPTIONS)

.PHONY: setup demo demo-train pretrained test lint
.DELETE_ON_ERROR:

setup: $(READY)
	@echo "Ready: source $(BIN)/activate"

$(READY): setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11 - name a newer one: make setup PYTHON=python3.11"; exit 2; }
	@echo "Installing into $(VENV), which takes a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) torch
	@$(INSTALL) -e '.[dev]'
	@# nnunetv2 brings a torchvision built for CUDA; beside a torch without CUDA it breaks `import lightning`.
	@$(BIN)/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' && \
		$(BIN)/python -m pip uninstall -qq -y torchvision || true
	@$(BIN)/python -c 'import lightning, nnunetv2, cmb_plugin'
	@touch $@

demo: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/tools/demo.sh

demo-train: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/tools/demo_train.sh

# The recipe of the package's weights (docs/pretrained.md). Another size: make pretrained ROUNDS=2 SCANS=40 STEPS=1000
PRETRAINING ?= pretraining
ROUNDS ?= 4
SCANS ?= 240
POOL ?= 48
STEPS ?= 12000
PRETRAINING_OPTIONS ?=
pretrained: $(READY)
	@$(BIN)/python -m benchmarks.pretraining.rounds $(PRETRAINING) --rounds $(ROUNDS) --train $(SCANS) --pool $(POOL) \
		--steps $(STEPS) --ship --page docs/studies/pretrained.md $(PRETRAINING_OPTIONS)

# One process per core and one thread in each: the tests are many and small. A part of them:
# make test PYTEST_OPTIONS="tests/boxes". With coverage, as in CI: make test COVERAGE=--cov
test: $(READY)
	@OMP_NUM_THREADS=1 PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(COVERAGE) $(PYTEST_OPTIONS)

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
