VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.docs-ready

# Without an NVIDIA GPU, PyTorch's build for CPUs does the same and is 3 GB smaller. uv knows the index that has it; where
# that can't be reached, this fails within seconds, and the ordinary build is installed. macOS has one build.
NVIDIA    := $(wildcard /dev/nvidia*)$(shell command -v nvidia-smi)
CPU_TORCH  = [ -z "$(NVIDIA)" ] && [ "$$(uname)" != Darwin ] && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && \
	UV_HTTP_TIMEOUT=15 UV_HTTP_RETRIES=0 $(BIN)/python -m uv pip install --quiet --python $(BIN)/python \
		--torch-backend cpu -c constraints.txt torch torchvision 2>/dev/null

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint lock check schema docs benchmarks clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## create .venv and install the package with its tools

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || \
		{ echo "Python 3.11.4 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing; the first time this downloads PyTorch (up to 3 GB) and takes some minutes."
	@$(CPU_TORCH) && echo "PyTorch: the build for CPUs, since there is no NVIDIA GPU" || echo "PyTorch: the ordinary build"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## train, test and predict on the built-in images, in about a minute
	$(BIN)/cifar-lightning demo

test: $(READY) ## run the quick tests, in some minutes
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY) ## run all tests, the slow ones too
	$(BIN)/python -m pytest --hypothesis-profile=more

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 cifar_lightning benchmarks

check: lint test ## lint, types and the quick tests

schema: $(READY) ## describe the options again after a change: cifar_lightning/recipe.schema.json
	$(BIN)/python -m cifar_lightning.commands.make_schema

# NO_MKDOCS_2_WARNING silences Material's notice that it ends in 2027, which no change to this site could mend.
docs: $(DOCS) ## build the documentation as a site in site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@! grep -rE '(<(script|img|iframe)[^>]* src|<link[^>]* href)="?https?:' --include='*.html' site || \
		{ echo "The site requests files from other hosts."; exit 1; }

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# The documentation's tools need Python 3.11.5. Pins are kept unless a bound forbids them.
lock: ## pin the dependencies in requirements.lock and constraints.txt again, with uv; UPGRADE=--upgrade takes the newest
	uv pip compile --quiet --universal --python-version 3.11.5 --all-extras --generate-hashes --no-header \
		--no-annotate $(UPGRADE) --output-file requirements.lock pyproject.toml
	{ echo "# Made by make lock: requirements.lock without its hashes, which PyTorch's builds for CPUs don't have."; \
		sed -n 's/ \\$$//; /^[^ #]/p' requirements.lock; } > constraints.txt

benchmarks: $(READY) ## measure against a bare loop, textbook Lightning and Keras, in about an hour; DATA= options
	$(BIN)/python -m benchmarks.bare_loop $(DATA)
	$(BIN)/python -m benchmarks.textbook_lightning $(DATA)
	$(BIN)/python -m benchmarks.keras_tutorial $(DATA)
	$(BIN)/python -m benchmarks.laptop $(DATA) --trainer.limit_train_batches 45

clean: ## remove .venv, site/ and caches (keeps data/ and runs/)
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
